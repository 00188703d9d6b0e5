#!/usr/bin/env python3
"""Writes transcripts.json: conversations as `apply_chat_template` of the transformers library renders them.

    pip install transformers jinja2
    python3 make_transcripts.py

The templates of SmolLM2 and Qwen2.5-Coder come from the models' files (Apache License 2.0). Those of Qwen 3.6 and
Gemma 4 are our own, in src/chat/families: no package with the published ones was found.
"""

import json
import pathlib

import transformers
from transformers.utils.chat_template_utils import render_jinja_template

HERE = pathlib.Path(__file__).parent
OURS = HERE.parents[2] / "src" / "chat" / "families"
TEMPLATES = {
    "smollm2": HERE / "templates" / "smollm2.jinja",
    "qwen2.5-coder": HERE / "templates" / "qwen2.5-coder.jinja",
    "qwen3.6": OURS / "qwen3.6.jinja",
    "gemma4": OURS / "gemma4.jinja",
}


def said(role, content, **fields):
    return {"role": role, "content": content, **fields}


def tool(name, description, properties, **schema):
    parameters = {"type": "object", "properties": properties, **schema}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def call(number, name, arguments):
    return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


def result(number, name, content):
    return said("tool", content, name=name, tool_call_id=f"call_{number}")


WEATHER = tool(
    "weather",
    "The weather in a city; \"now\" <or> later & so on",
    {
        "city": {"type": "string", "description": "Name, e.g. São Paulo 🙂"},
        "days": {"type": "integer", "minimum": 0, "default": 1},
        "units": {"type": "string", "enum": ["metric", "imperial"]},
        "when": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    required=["city"],
)
CLOCK = tool("clock", "The time.", {})
SEARCH = tool(
    "search",
    "Searches.",
    {
        "words": {"type": "array", "items": {"type": "string"}},
        "filter": {"type": "object", "properties": {"after": {"type": "number"}, "exact": {"type": "boolean"}}},
    },
    additionalProperties=False,
)
SYSTEM = said("system", "  Be brief.\n")
ASK = said("user", "What is the weather in Paris?")
FOREIGN = said("user", "Grüße, 日本 🙂 \u0301e\u0301 \u200d\t<|im_end|> <tool_call> </think> <turn|> \"x\" 'y' \\ {{ x }}\r\nend ")
TALK = [said("user", "One?"), said("assistant", "It is one."), said("user", "Two?")]
THOUGHT = said("assistant", "It is one.", reasoning_content="Let me see.\n\nYes.")
INLINE = said("assistant", "<think>\nLet me see.\n</think>\n\nIt is one.")
CALL = said("assistant", "", tool_calls=[call(1, "weather", {"city": "Paris", "days": 2})])
CALL_SAYING = said("assistant", "I look.", tool_calls=[call(1, "weather", {"city": "Paris"})])
CALL_THINKING = said(
    "assistant", "", reasoning_content="I need it.", tool_calls=[call(1, "weather", {"city": "Paris"})]
)
PARALLEL = said(
    "assistant",
    "",
    tool_calls=[
        call(1, "weather", {"city": "Köln", "units": "metric"}),
        call(2, "clock", {}),
        call(3, "search", {"words": ["a \"b\"", "c\nd"], "filter": {"after": 1.5, "exact": True, "none": None}}),
    ],
)
RESULTS = [result(1, "weather", "{\"sky\": \"clear\", \"t\": 21.5}"), result(2, "clock", "12:00"), result(3, "search", "")]
BROKEN = said("assistant", "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \n</tool_call>")
BROKEN_ARGUMENTS = said("assistant", "", tool_calls=[call(1, "weather", {"city": ["not", "a", "city"], "x y": {}})])

# what it shows, messages, tools, variables
CASES = [
    ("plain", [ASK], None, {}),
    ("plain, several lines", [said("user", "a\n\n b\n")], None, {}),
    ("empty", [said("user", "")], None, {}),
    ("system", [SYSTEM, ASK], None, {}),
    ("empty system", [said("system", ""), ASK], None, {}),
    ("multi-turn", TALK, None, {}),
    ("multi-turn with system", [SYSTEM, *TALK], None, {}),
    ("multi-turn, longer", [SYSTEM, *TALK, said("assistant", "It is two.\n"), said("user", "Three?")], None, {}),
    ("ends with an answer", TALK[:2], None, {}),
    ("thinking on", [ASK], None, {"enable_thinking": True}),
    ("thinking off", [ASK], None, {"enable_thinking": False}),
    ("thinking on with system", [SYSTEM, ASK], None, {"enable_thinking": True}),
    ("thinking off with system", [SYSTEM, ASK], None, {"enable_thinking": False}),
    ("earlier thought", [TALK[0], THOUGHT, TALK[2]], None, {}),
    ("earlier thought kept", [TALK[0], THOUGHT, TALK[2]], None, {"preserve_thinking": True}),
    ("earlier thought in the text", [TALK[0], INLINE, TALK[2]], None, {}),
    ("earlier thought, thinking on", [TALK[0], THOUGHT, TALK[2]], None, {"enable_thinking": True}),
    ("effort", [ASK], None, {"enable_thinking": True, "reasoning_effort": "low"}),
    ("one tool", [ASK], [WEATHER], {}),
    ("one tool with system", [SYSTEM, ASK], [WEATHER], {}),
    ("one tool, thinking on", [ASK], [WEATHER], {"enable_thinking": True}),
    ("one tool, thinking off", [SYSTEM, ASK], [WEATHER], {"enable_thinking": False}),
    ("tool without parameters", [ASK], [CLOCK], {}),
    ("several tools", [SYSTEM, ASK], [WEATHER, CLOCK, SEARCH], {}),
    ("call", [ASK, CALL], [WEATHER], {}),
    ("result", [ASK, CALL, RESULTS[0]], [WEATHER], {}),
    ("result after words", [ASK, CALL_SAYING, RESULTS[0]], [WEATHER], {}),
    ("result after a thought", [ASK, CALL_THINKING, RESULTS[0]], [WEATHER], {"enable_thinking": True}),
    ("result and answer", [ASK, CALL, RESULTS[0], said("assistant", "Clear."), said("user", "Thanks")], [WEATHER], {}),
    ("parallel tools", [ASK, PARALLEL], [WEATHER, CLOCK, SEARCH], {}),
    ("parallel results", [SYSTEM, ASK, PARALLEL, *RESULTS], [WEATHER, CLOCK, SEARCH], {}),
    ("calls one after another", [ASK, CALL, RESULTS[0], CALL_SAYING, RESULTS[0]], [WEATHER], {}),
    ("tools no longer given", [ASK, CALL, RESULTS[0], said("assistant", "Clear."), said("user", "And?")], None, {}),
    ("unicode", [FOREIGN], None, {}),
    ("unicode in system", [said("system", FOREIGN["content"]), FOREIGN], None, {}),
    ("unicode in result", [ASK, CALL, result(1, "weather", FOREIGN["content"])], [WEATHER], {}),
    ("unicode in arguments", [ASK, said("assistant", "", tool_calls=[call(1, "weather", {"city": "東京 <b>'\"\\"})])], [WEATHER], {}),
    ("broken call", [ASK, BROKEN, said("user", "Again.")], [WEATHER], {}),
    ("broken call, thinking off", [ASK, BROKEN, said("user", "Again.")], [WEATHER], {"enable_thinking": False}),
    ("call of wrong types", [ASK, BROKEN_ARGUMENTS, result(1, "weather", "no such city")], [WEATHER], {}),
]


def main():
    assert len(CASES) == 40
    lines = []
    for family, path in TEMPLATES.items():
        source = path.read_text(encoding="utf-8")
        for name, messages, tools, variables in CASES:
            prompt = messages[-1]["role"] != "assistant"
            (text,), _ = render_jinja_template(
                conversations=[messages],
                tools=tools,
                chat_template=source,
                add_generation_prompt=prompt,
                bos_token="<bos>",
                eos_token="<eos>",
                **variables,
            )
            golden = {"family": family, "name": name, "messages": messages, "tools": tools or [],
                      "options": variables, "add_generation_prompt": prompt, "text": text}
            lines.append(json.dumps(golden))
    body = ",\n".join(lines)
    (HERE / "transcripts.json").write_text(f"[\n{body}\n]\n", encoding="utf-8")
    print(f"{len(lines)} transcripts by transformers {transformers.__version__}")


if __name__ == "__main__":
    main()
