"""What the official clients must understand of the scripted cloud: text, streams, tools, images and errors.

Errors come before the answer and in the middle of it, where each provider says so in its own way.
"""

import base64
import json

import anthropic
import boto3
import botocore.config
import botocore.eventstream
import botocore.exceptions
import openai
from google import genai
from google.genai import errors, types
from google.oauth2 import service_account
from openai.providers import bedrock

from guard import ACCESS_KEY, BEDROCK_KEY, REGION, SECRET_KEY

# One white pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8/5+hHgAHggJ/PchI7wAAAABJRU5ErkJggg=="
)
PNG64 = base64.b64encode(PNG).decode()
DATA_URL = f"data:image/png;base64,{PNG64}"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
CITIES = [{"city": "Paris"}, {"city": "Rome"}]
ARN = f"arn:aws:bedrock:{REGION}:123456789012:application-inference-profile/mi1dadi0g15f"
BEDROCK_MODELS = ["us.amazon.nova-micro-v1:0", ARN]
HELLO, CAT, SUNNY = "Hello, world", "A cat", "It is sunny"
COMPLAINT = "as the fault says"


def raises(kind, function, *arguments, **named):
    try:
        function(*arguments, **named)
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def breaks(kind, stream):
    """What a stream gives before it raises, and the error."""
    given = []
    error = raises(kind, given.extend, stream)
    return given, error


def openai_client(**arguments):
    return openai.OpenAI(max_retries=0, timeout=30, **arguments)


class OpenAiChat:
    name = f"openai {openai.__version__}, chat completions"

    def connect(self, cloud):
        return openai_client(base_url=f"{cloud.url}/v1", api_key="sk-test")

    def __init__(self, cloud, _account):
        self.client = self.connect(cloud)
        self.ask = self.client.chat.completions.create
        self.tools = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]

    def said(self, content="hello", model="gpt-chat", **more):
        return self.ask(model=model, messages=[{"role": "user", "content": content}], **more)

    def text(self):
        answer = self.said()
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (HELLO, "stop"), answer
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 2), answer.usage

    def stream(self):
        chunks = list(self.said(stream=True, stream_options={"include_usage": True}))
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == HELLO, chunks
        assert chunks[-1].usage.total_tokens == 9, chunks[-1]

    def tools_and_results(self):
        message = self.said(tools=self.tools).choices[0].message
        assert [json.loads(call.function.arguments) for call in message.tool_calls] == CITIES, message
        results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls]
        asked = {"role": "user", "content": "weather?"}
        answer = self.ask(model="gpt-chat", messages=[asked, message, *results], tools=self.tools)
        assert answer.choices[0].message.content == SUNNY, answer

    def streamed_tools(self):
        order = []
        with self.client.chat.completions.stream(
            model="gpt-chat", messages=[{"role": "user", "content": "weather?"}], tools=self.tools
        ) as stream:
            for event in stream:
                if event.type == "chunk":
                    deltas = [choice.delta.tool_calls or [] for choice in event.chunk.choices]
                    order += [call.index for calls in deltas for call in calls if call.function.arguments]
            message = stream.get_final_completion().choices[0].message
        assert [json.loads(call.function.arguments) for call in message.tool_calls] == CITIES, message
        assert order == [0, 1, 0, 1], f"the calls do not grow in turns: {order}"

    def image(self):
        picture = {"type": "image_url", "image_url": {"url": DATA_URL}}
        answer = self.said([{"type": "text", "text": "what?"}, picture])
        assert answer.choices[0].message.content == CAT, answer

    def refusal(self):
        assert self.said(model="refuses").choices[0].message.refusal == "No."

    def error(self):
        error = raises(openai.NotFoundError, self.said, model="no-such-model")
        assert error.message and error.type == "invalid_request_error", error.body
        raises(openai.InternalServerError, self.said, model="overloaded")

    def broken_stream(self):
        chunks, error = breaks(openai.APIError, self.said(model="breaks", stream=True))
        assert "".join(chunk.choices[0].delta.content for chunk in chunks) == "Hello", chunks
        assert (error.message, error.type) == (COMPLAINT, "overloaded_error"), error.body
        with self.client.chat.completions.stream(
            model="breaks", messages=[{"role": "user", "content": "hello"}]
        ) as stream:
            raises(openai.APIError, stream.get_final_completion)

    def before_the_answer(self):
        for fault, kind, status, code in [
            ("S02", openai.RateLimitError, 429, "rate_limit_exceeded"),
            ("S04", openai.InternalServerError, 503, "unavailable"),
            ("S12", openai.BadRequestError, 400, "context_length_exceeded"),
            ("S13", openai.BadRequestError, 400, "content_filter"),
            ("529", openai.InternalServerError, 529, "overloaded_error"),
        ]:
            error = raises(kind, self.said, model=f"fault-{fault}", stream=True)
            assert (error.status_code, error.code) == (status, code), error.body

    def after_status_200(self):
        chunks, error = breaks(openai.APIError, self.said(model="fault-error-after-200", stream=True))
        assert (chunks, error.message, error.type) == ([], COMPLAINT, "server_error"), error.body
        chunks, _ = breaks(json.JSONDecodeError, self.said(model="fault-S10", stream=True))
        assert len(chunks) == 20, chunks


class OpenAiResponses:
    name = f"openai {openai.__version__}, responses"

    def connect(self, cloud):
        return openai_client(base_url=f"{cloud.url}/v1", api_key="sk-test")

    def __init__(self, cloud, _account):
        self.client = self.connect(cloud)
        self.tools = [{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}]

    def said(self, content="hello", model="gpt-responses", **more):
        return self.client.responses.create(model=model, input=content, **more)

    def text(self):
        answer = self.said()
        assert (answer.output_text, answer.status) == (HELLO, "completed"), answer
        assert answer.usage.total_tokens == 9, answer.usage

    def stream(self):
        with self.client.responses.stream(model="gpt-responses", input="hello") as stream:
            pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
            assert "".join(pieces) == HELLO and stream.get_final_response().output_text == HELLO

    def tools_and_results(self):
        answer = self.said("weather?", tools=self.tools)
        calls = [item for item in answer.output if item.type == "function_call"]
        assert [json.loads(call.arguments) for call in calls] == CITIES, answer
        results = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"} for call in calls]
        items = [{"role": "user", "content": "weather?"}, *[call.to_dict() for call in calls], *results]
        assert self.said(items, tools=self.tools).output_text == SUNNY

    def streamed_tools(self):
        with self.client.responses.stream(model="gpt-responses", input="weather?", tools=self.tools) as stream:
            answer = stream.get_final_response()
        calls = [item for item in answer.output if item.type == "function_call"]
        assert [json.loads(call.arguments) for call in calls] == CITIES, answer

    def image(self):
        content = [{"type": "input_text", "text": "what?"}, {"type": "input_image", "image_url": DATA_URL}]
        assert self.said([{"role": "user", "content": content}]).output_text == CAT

    def reasoning(self):
        answer = self.said(reasoning={"effort": "low"}, include=["reasoning.encrypted_content"])
        first = answer.output[0]
        assert first.type == "reasoning" and first.encrypted_content and first.summary[0].text, answer

    def refusal(self):
        assert self.said(model="refuses").output[0].content[0].refusal == "No."

    def error(self):
        raises(openai.NotFoundError, self.said, model="no-such-model")

    def broken_stream(self):
        for model, text, code in [
            ("breaks", "Hello", "rate_limit_exceeded"),
            ("fault-response-failed", "", "server_error"),
        ]:
            events = list(self.said(model=model, stream=True))
            deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
            assert "".join(deltas).startswith(text), events
            last = events[-1]
            assert (last.type, last.response.status) == ("response.failed", "failed"), last
            assert (last.response.error.code, last.response.error.message) == (code, COMPLAINT), last
        with self.client.responses.stream(model="breaks", input="hello") as stream:
            raises(RuntimeError, stream.get_final_response)


def signed(cloud, endpoint, path):
    keys = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
    return openai_client(provider=bedrock(endpoint=endpoint, region=REGION, base_url=f"{cloud.url}{path}", **keys))


class BedrockChat(OpenAiChat):
    name = f"openai {openai.__version__}, Bedrock's chat completions, signed"

    def connect(self, cloud):
        return signed(cloud, "runtime", "/openai/v1")

    def reasoning(self):
        """As Bedrock has it, under a name that the client passes on as it is."""
        message = self.said(reasoning_effort="low").choices[0].message
        assert (message.content, message.reasoning) == ("Hello", "Let me think."), message
        chunks = [chunk for chunk in self.said(reasoning_effort="low", stream=True) if chunk.choices]
        thought = "".join(getattr(chunk.choices[0].delta, "reasoning", None) or "" for chunk in chunks)
        assert thought == "Let me think." and chunks[0].service_tier == "default", chunks


class BedrockChatWithKey(BedrockChat):
    name = f"openai {openai.__version__}, Bedrock's chat completions, with a key"

    def connect(self, cloud):
        return openai_client(base_url=f"{cloud.url}/openai/v1", api_key=BEDROCK_KEY)


class BedrockResponses(OpenAiResponses):
    name = f"openai {openai.__version__}, Bedrock's responses, signed"

    def connect(self, cloud):
        return signed(cloud, "runtime", "/openai/v1")


class MantleResponses(OpenAiResponses):
    name = f"openai {openai.__version__}, responses of Bedrock's Mantle, signed"

    def connect(self, cloud):
        return signed(cloud, "mantle", "/v1")


class Anthropic:
    name = f"anthropic {anthropic.__version__}"

    def __init__(self, cloud, _account):
        self.client = anthropic.Anthropic(base_url=cloud.url, api_key="sk-ant-test", max_retries=0, timeout=30)
        self.tools = [{"name": "weather", "input_schema": SCHEMA}]

    def arguments(self, content="hello", model="claude", **more):
        messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
        return {"model": model, "max_tokens": 2048, "messages": messages, **more}

    def said(self, *content, **more):
        return self.client.messages.create(**self.arguments(*content, **more))

    def text(self):
        answer = self.said()
        assert (answer.content[0].text, answer.stop_reason) == (HELLO, "end_turn"), answer
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (7, 2), answer.usage

    def stream(self):
        with self.client.messages.stream(**self.arguments()) as stream:
            assert "".join(stream.text_stream) == HELLO
            assert stream.get_final_message().usage.output_tokens == 2

    def tools_and_results(self):
        answer = self.said("weather?", tools=self.tools)
        assert [block.input for block in answer.content] == CITIES and answer.stop_reason == "tool_use", answer
        results = [{"type": "tool_result", "tool_use_id": b.id, "content": "sunny"} for b in answer.content]
        turns = [{"role": "user", "content": "weather?"}, {"role": "assistant", "content": answer.content}]
        answer = self.said([*turns, {"role": "user", "content": results}], tools=self.tools)
        assert answer.content[0].text == SUNNY, answer

    def streamed_tools(self):
        with self.client.messages.stream(**self.arguments("weather?", tools=self.tools)) as stream:
            assert [block.input for block in stream.get_final_message().content] == CITIES

    def image(self):
        source = {"type": "base64", "media_type": "image/png", "data": PNG64}
        content = [{"type": "text", "text": "what?"}, {"type": "image", "source": source}]
        assert self.said([{"role": "user", "content": content}]).content[0].text == CAT

    def reasoning(self):
        thinking = {"type": "enabled", "budget_tokens": 1024}
        with self.client.messages.stream(**self.arguments(thinking=thinking)) as stream:
            block = stream.get_final_message().content[0]
        assert block.type == "thinking" and block.signature and block.thinking, block

    def refusal(self):
        assert self.said(model="refuses").stop_reason == "refusal"

    def error(self):
        error = raises(anthropic.NotFoundError, self.said, model="no-such-model")
        assert error.body["error"]["type"] == "not_found_error", error.body
        error = raises(anthropic.APIStatusError, self.said, model="overloaded")
        assert error.status_code == 529, error

    def broken_stream(self):
        with self.client.messages.stream(**self.arguments(model="breaks")) as stream:
            pieces, error = breaks(anthropic.APIStatusError, stream.text_stream)
        assert "".join(pieces).startswith("Hello"), pieces
        assert error.body["error"] == {"type": "overloaded_error", "message": COMPLAINT}, error.body


class Gemini:
    name = f"google-genai {genai.__version__}, Gemini API"
    version = "v1beta"

    def __init__(self, cloud, _account):
        self.options = {"base_url": cloud.url, "api_version": self.version, "timeout": 30_000}
        self.client = genai.Client(api_key="AIza-test", http_options=self.options)
        declaration = types.FunctionDeclaration(name="weather", parameters_json_schema=SCHEMA)
        off = types.AutomaticFunctionCallingConfig(disable=True)
        self.tools = types.GenerateContentConfig(
            tools=[types.Tool(function_declarations=[declaration])], automatic_function_calling=off
        )

    def said(self, contents="hello", model="gemini-test", config=None):
        return self.client.models.generate_content(model=model, contents=contents, config=config)

    def streaming(self, contents="hello", model="gemini-test", config=None):
        return self.client.models.generate_content_stream(model=model, contents=contents, config=config)

    def streamed(self, contents="hello", config=None):
        return list(self.streaming(contents, config=config))

    def text(self):
        answer = self.said()
        assert (answer.text, answer.candidates[0].finish_reason.value) == (HELLO, "STOP"), answer
        assert answer.usage_metadata.total_token_count == 9, answer.usage_metadata

    def stream(self):
        assert "".join(chunk.text for chunk in self.streamed()) == HELLO

    def tools_and_results(self):
        answer = self.said("weather?", config=self.tools)
        assert [call.args for call in answer.function_calls] == CITIES, answer
        results = [
            types.Part.from_function_response(name=call.name, response={"result": "sunny"})
            for call in answer.function_calls
        ]
        asked = types.Content(role="user", parts=[types.Part(text="weather?")])
        turns = [asked, answer.candidates[0].content, types.Content(role="user", parts=results)]
        assert self.said(turns, config=self.tools).text == SUNNY

    def streamed_tools(self):
        chunks = self.streamed("weather?", self.tools)
        assert [call.args for chunk in chunks for call in chunk.function_calls or []] == CITIES

    def image(self):
        assert self.said(["what?", types.Part.from_bytes(data=PNG, mime_type="image/png")]).text == CAT

    def reasoning(self):
        thinking = types.ThinkingConfig(include_thoughts=True, thinking_budget=1024)
        answer = self.said(config=types.GenerateContentConfig(thinking_config=thinking))
        parts = answer.candidates[0].content.parts
        assert parts[0].thought and parts[1].thought_signature and answer.text == "Hello", parts

    def refusal(self):
        assert self.said(model="refuses").candidates[0].finish_reason.value == "SAFETY"

    def error(self):
        error = raises(errors.ClientError, self.said, model="no-such-model")
        assert (error.code, error.status) == (404, "NOT_FOUND"), error

    def broken_stream(self):
        chunks, error = breaks(errors.ServerError, self.streaming(model="breaks"))
        assert "".join(chunk.text for chunk in chunks) == "Hello", chunks
        assert (error.code, error.status, error.message) == (503, "UNAVAILABLE", COMPLAINT), error


class Vertex(Gemini):
    name = f"google-genai {genai.__version__}, Vertex AI with a service account"
    version = "v1"

    def __init__(self, cloud, account):
        super().__init__(cloud, account)
        scopes = ["https://www.googleapis.com/auth/cloud-platform"]
        self.client = genai.Client(
            vertexai=True,
            project="p-1",
            location="europe-west4",
            credentials=service_account.Credentials.from_service_account_file(account, scopes=scopes),
            http_options=self.options,
        )


class Bedrock:
    name = f"boto3 {boto3.__version__}, Converse"

    def __init__(self, cloud, _account):
        self.client = boto3.client(
            "bedrock-runtime",
            region_name=REGION,
            endpoint_url=cloud.url,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=botocore.config.Config(retries={"total_max_attempts": 1}, read_timeout=30),
        )
        self.tools = {"tools": [{"toolSpec": {"name": "weather", "inputSchema": {"json": SCHEMA}}}]}

    def arguments(self, content=None, model=BEDROCK_MODELS[0], **more):
        content = content or [{"text": "hello"}]
        return {"modelId": model, "messages": [{"role": "user", "content": content}], **more}

    def said(self, *content, **more):
        return self.client.converse(**self.arguments(*content, **more))

    def text(self):
        for model in BEDROCK_MODELS:
            answer = self.said(model=model)
            assert answer["output"]["message"]["content"][0]["text"] == HELLO, answer
            assert (answer["stopReason"], answer["usage"]["totalTokens"]) == ("end_turn", 9), answer

    def stream(self):
        for model in BEDROCK_MODELS:
            events = list(self.client.converse_stream(**self.arguments(model=model))["stream"])
            deltas = [event["contentBlockDelta"]["delta"] for event in events if "contentBlockDelta" in event]
            assert "".join(delta["text"] for delta in deltas) == HELLO, events
            assert events[-1]["metadata"]["usage"]["totalTokens"] == 9, events[-1]

    def tools_and_results(self):
        message = self.said([{"text": "weather?"}], toolConfig=self.tools)["output"]["message"]
        calls = [block["toolUse"] for block in message["content"]]
        assert [call["input"] for call in calls] == CITIES, message
        results = [
            {"toolResult": {"toolUseId": call["toolUseId"], "content": [{"text": "sunny"}]}} for call in calls
        ]
        turns = [{"role": "user", "content": [{"text": "weather?"}]}, message, {"role": "user", "content": results}]
        answer = self.client.converse(modelId=BEDROCK_MODELS[0], messages=turns, toolConfig=self.tools)
        assert answer["output"]["message"]["content"][0]["text"] == SUNNY, answer

    def streamed_tools(self):
        arguments = self.arguments([{"text": "weather?"}], toolConfig=self.tools)
        pieces = {}
        for event in self.client.converse_stream(**arguments)["stream"]:
            if "contentBlockDelta" in event:
                delta = event["contentBlockDelta"]
                index = delta["contentBlockIndex"]
                pieces[index] = pieces.get(index, "") + delta["delta"]["toolUse"]["input"]
        assert [json.loads(pieces[index]) for index in sorted(pieces)] == CITIES, pieces

    def image(self):
        picture = {"image": {"format": "png", "source": {"bytes": PNG}}}
        answer = self.said([{"text": "what?"}, picture])
        assert answer["output"]["message"]["content"][0]["text"] == CAT, answer

    def refusal(self):
        assert self.said(model="refuses")["stopReason"] == "guardrail_intervened"

    def error(self):
        error = raises(self.client.exceptions.ValidationException, self.said, model="no-such-model")
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 400, error.response
        raises(self.client.exceptions.ServiceUnavailableException, self.said, model="overloaded")

    def broken_stream(self):
        for model, count in [("breaks", 2), ("fault-exception-frame", 0)]:
            stream = self.client.converse_stream(**self.arguments(model=model))["stream"]
            events, error = breaks(botocore.exceptions.EventStreamError, stream)
            assert len(events) == count, events
            told = error.response["Error"]
            assert (told["Code"], told["Message"]) == ("throttlingException", COMPLAINT), error.response
        stream = self.client.converse_stream(**self.arguments(model="fault-bad-checksum"))["stream"]
        events, _ = breaks(botocore.eventstream.ChecksumMismatch, stream)
        assert not events, events


SDKS = [
    OpenAiChat,
    OpenAiResponses,
    Anthropic,
    Gemini,
    Vertex,
    Bedrock,
    BedrockChat,
    BedrockChatWithKey,
    BedrockResponses,
    MantleResponses,
]
STEPS = [
    "text",
    "stream",
    "tools_and_results",
    "streamed_tools",
    "image",
    "reasoning",
    "refusal",
    "error",
    "broken_stream",
    "before_the_answer",
    "after_status_200",
]
