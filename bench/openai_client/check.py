#!/usr/bin/env python3
"""The official `openai` client, unmodified, against `nearfield serve`: alone, and with a second one as its cloud."""

import argparse
import asyncio
import math
import subprocess
import sys
import time
import traceback
from pathlib import Path

import openai

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from serving import BINARY, Serve, data_folder, has_model  # noqa: E402

MODEL = "smollm2:135m"
CODER = "qwen2.5-coder:0.5b"
ASK = [{"role": "user", "content": "Name three colours of the rainbow and say one sentence about each."}]
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


class Side:
    """One server and how it is expected to answer."""

    def __init__(self, server, backend, locality, models):
        self.server, self.backend, self.locality, self.models = server, backend, locality, models
        self.answered = 0
        hooks = {"response": [self.count]}
        self.client = openai.OpenAI(
            base_url=server.base_url,
            api_key=server.key,
            max_retries=0,
            timeout=300,
            http_client=openai.DefaultHttpxClient(event_hooks=hooks),
        )

    def count(self, response):
        """Answers that generated something: each of them must have a row."""
        self.answered += response.request.method == "POST" and response.status_code == 200

    def chat(self, **changes):
        arguments = {"model": MODEL, "messages": ASK, "temperature": 0, "max_tokens": 40, **changes}
        return self.client.chat.completions.create(**arguments)

    def complete(self, **changes):
        arguments = {"model": MODEL, "prompt": "The capital of France is", "temperature": 0, "max_tokens": 12, **changes}
        return self.client.completions.create(**arguments)

    def refused(self, kind, **changes):
        """The error of a chat that must fail in this way."""
        try:
            answer = self.chat(**changes)
            if changes.get("stream"):
                list(answer)
        except openai.APIStatusError as error:
            assert type(error) is kind, f"{type(error).__name__} instead of {kind.__name__}: {error}"
            return error
        raise AssertionError(f"no {kind.__name__}")


def text(stream, choice=0):
    """The pieces, the reason for the end and the usage of one choice of a stream of chat chunks."""
    pieces, reason, usage = [], None, None
    for chunk in stream:
        usage = chunk.usage or usage
        for part in chunk.choices:
            if part.index == choice:
                pieces.append(part.delta.content or "")
                reason = part.finish_reason or reason
    return "".join(pieces), reason, usage


@check
def models_are_listed(side):
    names = [model.id for model in side.client.models.list()]
    assert MODEL in names, names
    assert side.client.models.retrieve(MODEL).id == MODEL


@check
def chat(side):
    answer = side.chat()
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content.strip()
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert 0 < usage.completion_tokens <= 40 and usage.prompt_tokens > 10
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert answer.object == "chat.completion" and answer.id and answer.created > 1.7e9
    assert side.chat().choices[0].message.content == choice.message.content, "greedy answers differ"


@check
def the_reply_says_where_it_ran(side):
    raw = side.client.chat.completions.with_raw_response.create(model=MODEL, messages=ASK, max_tokens=4)
    assert raw.headers["x-nearfield-backend"] == side.backend, dict(raw.headers)
    assert raw.headers["x-nearfield-locality"] == side.locality, dict(raw.headers)
    field = raw.parse().model_extra["nearfield"]
    assert (field["backend"], field["locality"]) == (side.backend, side.locality), field
    with side.client.chat.completions.with_streaming_response.create(
        model=MODEL, messages=ASK, max_tokens=4, stream=True
    ) as raw:
        assert raw.headers["x-nearfield-backend"] == side.backend
        raw.read()


@check
def streaming(side):
    whole = side.chat().choices[0]
    chunks = list(side.chat(stream=True))
    assert len([chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]) > 5
    assert all(chunk.usage is None for chunk in chunks), "usage that was not asked for"
    assert text(chunks) == (whole.message.content, whole.finish_reason, None)
    assert len({chunk.id for chunk in chunks}) == 1


@check
def usage_in_the_stream(side):
    whole = side.chat()
    chunks = list(side.chat(stream=True, stream_options={"include_usage": True}))
    assert not chunks[-1].choices and chunks[-1].usage, "the usage is not in a last chunk of its own"
    usage = chunks[-1].usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (
        whole.usage.prompt_tokens,
        whole.usage.completion_tokens,
        whole.usage.total_tokens,
    )


def check_logprobs(entries, content, alternatives):
    assert b"".join(bytes(entry.bytes) for entry in entries).startswith(content.encode())
    for entry in entries:
        assert entry.logprob <= 0 and len(entry.top_logprobs) == alternatives
        assert all(math.isfinite(other.logprob) and other.logprob <= 0 for other in entry.top_logprobs)
        assert entry.top_logprobs == sorted(entry.top_logprobs, key=lambda other: -other.logprob)
        # Greedy: the token is the first of its alternatives.
        assert not alternatives or abs(entry.top_logprobs[0].logprob - entry.logprob) < 1e-6


@check
def log_probabilities(side):
    choice = side.chat(logprobs=True, top_logprobs=3, max_tokens=12).choices[0]
    assert len(choice.logprobs.content) >= 5
    check_logprobs(choice.logprobs.content, choice.message.content, 3)
    chunks = side.chat(logprobs=True, top_logprobs=2, max_tokens=12, stream=True)
    parts = [part for chunk in chunks for part in chunk.choices if part.logprobs and part.logprobs.content]
    check_logprobs([entry for part in parts for entry in part.logprobs.content], choice.message.content, 2)
    choice = side.complete(logprobs=2).choices[0]
    assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs) == len(choice.logprobs.text_offset)
    assert all(len(tops) == 2 for tops in choice.logprobs.top_logprobs)
    assert "".join(choice.logprobs.tokens).startswith(choice.text)


@check
def stop(side):
    whole = side.chat().choices[0].message.content
    words = whole.split()
    # A text over several tokens, in the middle of words.
    halt = f"{words[4][-2:]} {words[5][:2]}"
    expected = whole[: whole.index(halt)]
    choice = side.chat(stop=[halt, "never said"]).choices[0]
    assert (choice.message.content, choice.finish_reason) == (expected, "stop"), choice
    assert text(side.chat(stop=halt, stream=True))[:2] == (expected, "stop"), "a stop text leaks in streams"


@check
def seed(side):
    def drawn(seed):
        return side.chat(temperature=1.0, seed=seed, max_tokens=32).choices[0].message.content

    assert drawn(42) == drawn(42), "the same seed gives another answer"
    assert len({drawn(seed) for seed in range(3)}) == 3, "the seed changes nothing"
    streamed = text(side.chat(temperature=1.0, seed=42, max_tokens=32, stream=True))[0]
    assert streamed == drawn(42), "streams draw otherwise"


@check
def several_choices(side):
    answer = side.chat(n=2, temperature=1.0, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1]
    whole = [choice.message.content for choice in answer.choices]
    assert whole[0] != whole[1] and all(whole)
    chunks = list(side.chat(n=2, temperature=1.0, seed=7, stream=True))
    assert [text(chunks, index)[0] for index in (0, 1)] == whole
    assert all(text(chunks, index)[1] for index in (0, 1)), "a choice without an end"


@check
def the_token_limit(side):
    answer = side.chat(max_tokens=5)
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 5)
    answer = side.client.chat.completions.create(model=MODEL, messages=ASK, max_completion_tokens=6)
    assert answer.usage.completion_tokens == 6


@check
def completions(side):
    choice = side.complete().choices[0]
    assert "Paris" in choice.text, choice
    pieces = [chunk.choices[0].text for chunk in side.complete(stream=True) if chunk.choices]
    assert "".join(pieces) == choice.text


@check
def fill_in_the_middle(side):
    try:
        side.complete(prompt="def add(a, b):\n    return ", suffix="\n\nprint(add(1, 2))\n")
    except openai.BadRequestError as error:
        # Right for a model without the tokens, when it is said clearly.
        assert error.param == "suffix" or "suffix" in str(error), error
    if CODER not in side.models:
        return f"{CODER} is not here: only {MODEL} was asked"
    for stream in (False, True):
        answer = side.complete(
            model=CODER,
            prompt="def add(a, b):\n    return ",
            suffix="\n\nprint(add(1, 2))\n",
            max_tokens=16,
            stream=stream,
        )
        filled = "".join(chunk.choices[0].text for chunk in answer) if stream else answer.choices[0].text
        assert "a + b" in filled, filled


@check
def cancellation(side):
    known = {row["id"] for row in side.server.ledger()}
    # Without its end token the model would go on to the limit.
    stream = side.chat(stream=True, max_tokens=2000, temperature=1.0, seed=1, logit_bias={"2": -100})
    for _ in zip(range(4), stream):
        pass
    stream.close()
    deadline = time.monotonic() + 5
    while True:
        outcomes = [row["outcome"] for row in side.server.ledger() if row["id"] not in known]
        if outcomes == ["cancelled"]:
            return
        assert time.monotonic() < deadline, f"the outcomes of one cancelled request are {outcomes}"
        time.sleep(0.1)


@check
def a_bad_key(side):
    stranger = side.client.with_options(api_key="sk-wrong-0123456789")
    for ask in (stranger.models.list, lambda: stranger.chat.completions.create(model=MODEL, messages=ASK)):
        try:
            ask()
        except openai.AuthenticationError as error:
            assert error.status_code == 401 and error.code == "invalid_api_key", error
            assert "sk-wrong" not in str(error), "the key is repeated"
        else:
            raise AssertionError("a wrong key is accepted")


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}


@check
def tools(side):
    if CODER not in side.models:
        return f"{CODER} is not here: no tools were called"
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    arguments = {"model": CODER, "messages": messages, "tools": [WEATHER], "max_tokens": 80}
    answer = side.chat(**arguments).choices[0]
    calls = answer.message.tool_calls or []
    assert (answer.finish_reason == "tool_calls") == bool(calls), answer
    text, pieces = "", {}
    for chunk in side.chat(stream=True, **arguments):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            for piece in choice.delta.tool_calls or []:
                known = pieces.setdefault(piece.index, {"name": piece.function.name, "arguments": ""})
                known["arguments"] += piece.function.arguments
    assert text == (answer.message.content or ""), text
    assert [(piece["name"], piece["arguments"]) for piece in pieces.values()] == [
        (call.function.name, call.function.arguments) for call in calls
    ]
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
    messages.append({"role": "tool", "tool_call_id": "call_1", "content": "18 degrees, clear"})
    # What so small a model makes of it is not for us to say; that it reads the result is.
    after = side.chat(**arguments)
    assert after.usage.prompt_tokens > side.chat(**{**arguments, "messages": messages[:1]}).usage.prompt_tokens, after


@check
def unsupported_fields_are_named(side):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    for field, value in {"tools": tools, "response_format": {"type": "json_object"}}.items():
        error = side.refused(openai.BadRequestError, **{field: value})
        assert error.param == field and field in error.message, error.body
    error = side.refused(openai.BadRequestError, extra_body={"no_such_field": 1})
    assert error.param == "no_such_field", error.body


@check
def harmless_fields_are_accepted(side):
    side.chat(max_tokens=4, user="ann", metadata={"a": "b"}, store=False)


@check
def an_unknown_model(side):
    for stream in (False, True):
        error = side.refused(openai.NotFoundError, model="no-such-model", stream=stream)
        assert error.code == "model_not_found", error.body


@check
def a_context_that_does_not_fit(side):
    long = [{"role": "user", "content": "one two three four five " * 4000}]
    for stream in (False, True):
        error = side.refused(openai.BadRequestError, messages=long, stream=stream)
        assert error.code == "context_length_exceeded", error.body


@check
def several_clients_at_once(side):
    async def run():
        async with openai.AsyncOpenAI(
            base_url=side.server.base_url, api_key=side.server.key, max_retries=0, timeout=300
        ) as client:

            async def one():
                stream = await client.chat.completions.create(
                    model=MODEL, messages=ASK, temperature=0, max_tokens=40, stream=True
                )
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

            return await asyncio.gather(*[one() for _ in range(4)])

    answers = set(asyncio.run(run()))
    side.answered += 4
    assert answers == {side.chat().choices[0].message.content}, "company changes the answer"


@check
def each_answer_has_one_row(side):
    rows = side.server.settled_ledger()
    answered = [row for row in rows if row["outcome"] in ("done", "cancelled")]
    assert len(answered) == side.answered, f"{side.answered} answers, {len(answered)} rows"
    assert len({row["id"] for row in rows}) == len(rows)
    for row in answered:
        assert (row["backend"], row["locality"]) == (side.backend, side.locality), row
        assert row["outcome"] == "cancelled" or (row["measured"] and row["output_tokens"] > 0), row


def run(title, side):
    """Runs all checks on one side; returns how many failed."""
    failed = 0
    print(f"\n{title}")
    for function in CHECKS:
        started = time.monotonic()
        try:
            note = function(side) or ""
            result = "ok"
        except Exception as error:
            failed += 1
            result, note = "FAILED", "".join(traceback.format_exception_only(error)).strip()
            place = traceback.extract_tb(error.__traceback__)[-1]
            note += f" (line {place.lineno})"
        seconds = time.monotonic() - started
        print(f"  {function.__name__.replace('_', ' '):34} {result:7} {seconds:5.1f} s  {note}", flush=True)
    return failed


def cloud_config(server, more=""):
    return (
        '[policy]\nmode = "cloud-only"\nleaves = "personal"\n\n[backend.first]\nkind = "openai-compatible"\n'
        f'base_url = "{server.base_url}"\nkey = "env:FIRST_SERVER_KEY"\n{more}'
    )


def check_wrong_upstream_key(binary, data, first):
    """A cloud that refuses our key is our matter: the client must not think that its own key is bad."""
    wrong = "sk-upstream-0123456789abcdef"
    environment = {"FIRST_SERVER_KEY": wrong}
    with Serve(binary, data, config=cloud_config(first), environment=environment) as second:
        side = Side(second, "first", "cloud", [])
        error = side.refused(openai.InternalServerError)
        assert error.status_code == 502 and "key" in error.message, error
        assert wrong not in str(error) and wrong not in second.log.read_text(), "the key is shown"


def check_literal_key(binary, data, first):
    """A key in the configuration itself stops the server, without the key being printed."""
    literal = "sk-literal-0123456789abcdef"
    server = Serve(binary, data, config=cloud_config(first).replace("env:FIRST_SERVER_KEY", literal))
    done = subprocess.run(server.command, capture_output=True, text=True, env=server.environment, timeout=30)
    server.folder.cleanup()
    assert done.returncode != 0, "a literal key is accepted"
    assert "env:NAME" in done.stderr and literal not in done.stdout + done.stderr, done.stderr


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nearfield", type=Path, default=BINARY, help="the program [default: target/release/nearfield]")
    parser.add_argument("--data", type=Path, default=data_folder(), help="the data folder that holds the models")
    arguments = parser.parse_args()
    binary, data = arguments.nearfield.resolve(), arguments.data
    if not has_model(binary, data, MODEL):
        parser.error(f"{MODEL} is not in {data}; `nearfield --data-dir {data} pull {MODEL}` gets it")
    models = [model for model in (MODEL, CODER) if has_model(binary, data, model)]
    print(f"openai {openai.__version__}, {binary}")
    failed = 0
    with Serve(binary, data, "--model", MODEL) as first:
        failed += run("nearfield serve", Side(first, "local", "local", models))
        environment = {"FIRST_SERVER_KEY": first.key}
        with Serve(binary, data, config=cloud_config(first), environment=environment) as second:
            failed += run("nearfield serve in front of it", Side(second, "first", "cloud", models))
            cancelled = [row for row in first.settled_ledger() if row["outcome"] == "cancelled"]
            if len(cancelled) != 2:
                failed += 1
                print(f"  FAILED: the cancellation did not reach the first server: {len(cancelled)} of 2 rows")
        print("\nconfiguration")
        for function in (check_wrong_upstream_key, check_literal_key):
            try:
                function(binary, data, first)
                print(f"  {function.__name__.replace('_', ' '):34} ok")
            except AssertionError as error:
                failed += 1
                print(f"  {function.__name__.replace('_', ' '):34} FAILED  {error}")
    print(f"\n{failed} failed" if failed else "\nall passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
