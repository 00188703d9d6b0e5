"""Logical calls, asked by a provider's own client and by Nearfield: the requests that the cloud got must be equal."""

import json
from dataclasses import dataclass, field

import openai
from google.genai import types

import drive
from drive import DATA_URL, PNG, PNG64, SCHEMA
from guard import ACCESS_KEY, BEDROCK_KEY, REGION, SECRET_KEY
from serving import Serve, data_folder

CONFIG = """
[policy]
mode = "cloud-only"
leaves = "personal"

[local]
enabled = false

[backend.chat]
kind = "openai"
api = "chat"
base_url = "{url}/v1"
key = "env:CLOUD_KEY"
models = ["gpt-chat"]

[backend.responses]
kind = "openai"
base_url = "{url}/v1"
key = "env:CLOUD_KEY"
models = ["gpt-responses"]

[backend.anthropic]
kind = "anthropic"
base_url = "{url}/v1"
key = "env:CLOUD_KEY"
models = ["claude"]

[backend.gemini]
kind = "gemini"
base_url = "{url}/v1beta"
key = "env:CLOUD_KEY"
models = ["gemini-test"]

[backend.vertex]
kind = "vertex"
base_url = "{url}"
project = "p-1"
location = "europe-west4"
service_account = "file:{account}"
models = ["gemini-vertex"]

[backend.bedrock]
kind = "bedrock"
base_url = "{url}"
region = "{region}"
access_key_id = "env:AWS_ID"
secret_access_key = "env:AWS_SECRET"
models = {bedrock}

[backend.bedrock-chat]
kind = "bedrock"
api = "chat"
base_url = "{url}"
region = "{region}"
access_key_id = "env:AWS_ID"
secret_access_key = "env:AWS_SECRET"
models = ["{oss}"]

[backend.bedrock-chat-with-key]
kind = "bedrock"
api = "chat"
base_url = "{url}"
region = "{region}"
key = "env:BEDROCK_KEY"
models = ["{small_oss}"]

# Mantle is known by its name: the guard is the proxy that leads there.
[backend.bedrock-mantle]
kind = "bedrock"
api = "responses"
base_url = "http://bedrock-mantle.{region}.api.aws/v1"
allow_plaintext = true
proxy = "{url}"
region = "{region}"
access_key_id = "env:AWS_ID"
secret_access_key = "env:AWS_SECRET"
models = ["{mantle}"]
"""
OSS, SMALL_OSS, MANTLE = "openai.gpt-oss-120b-1:0", "openai.gpt-oss-20b-1:0", "openai.gpt-oss-120b"


class Nearfield(Serve):
    """A server whose backends all lead to the scripted cloud."""

    def __init__(self, binary, cloud, account):
        models = json.dumps(drive.BEDROCK_MODELS)
        config = CONFIG.format(
            url=cloud.url, account=account, region=REGION, bedrock=models, oss=OSS, small_oss=SMALL_OSS, mantle=MANTLE
        )
        keys = {
            "CLOUD_KEY": "sk-cloud", "BEDROCK_KEY": BEDROCK_KEY, "AWS_ID": ACCESS_KEY, "AWS_SECRET": SECRET_KEY,
        }
        super().__init__(binary, data_folder(), config=config, environment=keys)

    def ask(self, **arguments):
        with openai.OpenAI(base_url=self.base_url, api_key=self.key, max_retries=0, timeout=30) as client:
            return client.chat.completions.create(**arguments)


def differences(theirs, ours, path=""):
    """(path, their value, our value) of each leaf that differs; `None` stands for what is not there."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted({*theirs, *ours}):
            yield from differences(theirs.get(key), ours.get(key), f"{path}.{key}" if path else key)
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for index, pair in enumerate(zip(theirs, ours)):
            yield from differences(*pair, f"{path}[{index}]")
    elif theirs != ours or isinstance(theirs, bool) != isinstance(ours, bool):
        yield path, theirs, ours


@dataclass
class Call:
    """One logical call. `listed`: what may differ, by its path, with the reason."""

    name: str
    sdk: type
    theirs: object
    ours: dict
    listed: dict = field(default_factory=dict)

    def compare(self, cloud, nearfield, account, show):
        self.theirs(self.sdk(cloud, account))
        theirs = cloud.last()
        nearfield.ask(**self.ours)
        ours = cloud.last()
        assert theirs is not ours and theirs["headers"].get("user-agent") != ours["headers"].get("user-agent")
        shown = [request["headers"].get("authorization", "").split("/")[0] for request in (theirs, ours)]
        signed = [text for text in shown if text.startswith("AWS4")]
        assert len(signed) != 1, f"only one of them is signed: {shown}"
        bodies = [json.loads(request["body"]) for request in (theirs, ours)]
        if show:
            print(*(json.dumps(body, indent=1) for body in bodies), sep="\n")
        found = list(differences(*bodies))
        if theirs["target"] != ours["target"]:
            found.append(("target", theirs["target"], ours["target"]))
        unlisted = [one for one in found if one[0] not in self.listed]
        assert not unlisted, "\n    ".join(["differs:", *map(str, unlisted)])
        unused = set(self.listed) - {one[0] for one in found}
        assert not unused, f"listed, but equal: {unused}"
        reasons = {}
        for path, reason in self.listed.items():
            reasons.setdefault(reason, []).append(path)
        return "equal" + "".join(f"; but {', '.join(paths)}: {reason}" for reason, paths in reasons.items())


SYSTEM = {"role": "system", "content": "Be brief."}
HELLO = [SYSTEM, {"role": "user", "content": "hello"}]
SETTINGS = {"temperature": 0.5, "top_p": 0.9}
FUNCTION = {"name": "weather", "description": "Tells the weather", "parameters": SCHEMA}
TOOLS = [{"type": "function", "function": FUNCTION}]
ARGUMENTS = '{"city":"Paris"}'
PICTURE = {"role": "user", "content": [
    {"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": DATA_URL}}]}
ROUND = [
    {"role": "user", "content": "weather?"},
    {"role": "assistant", "content": "I look.", "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}]},
    {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
]
ASK_ROUND = {"messages": ROUND, "tools": TOOLS, "max_completion_tokens": 64}
ASK_HELLO = {"messages": HELLO, "max_completion_tokens": 64, **SETTINGS}
ASK_PICTURE = {"messages": [PICTURE], "max_completion_tokens": 64}


def chat(model="gpt-chat", **arguments):
    def ask(sdk):
        list(sdk.ask(model=model, stream=True, stream_options={"include_usage": True}, **arguments))

    return ask


def responses(model="gpt-responses", **arguments):
    return lambda sdk: list(sdk.client.responses.create(model=model, stream=True, **arguments))


def claude(**arguments):
    return lambda sdk: list(sdk.client.messages.create(model="claude", stream=True, max_tokens=64, **arguments))


def gemini(contents, model="gemini-test", **config):
    config = types.GenerateContentConfig(max_output_tokens=64, **config)
    return lambda sdk: list(sdk.client.models.generate_content_stream(model=model, contents=contents, config=config))


def converse(model, messages, **arguments):
    named = {"modelId": model, "messages": messages, "inferenceConfig": {"maxTokens": 64}, **arguments}
    return lambda sdk: list(sdk.client.converse_stream(**named)["stream"])


def user(*content):
    return {"role": "user", "content": list(content)}


RESPONSES_ROUND = [
    {"role": "user", "content": "weather?"},
    {"role": "assistant", "content": "I look."},
    {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": ARGUMENTS},
    {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
]
CLAUDE_ROUND = [
    user({"type": "text", "text": "weather?"}),
    {"role": "assistant", "content": [
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Paris"}}]},
    user({"type": "tool_result", "tool_use_id": "call_1", "content": "sunny"}),
]
GEMINI_ROUND = [
    types.Content(role="user", parts=[types.Part(text="weather?")]),
    types.Content(role="model", parts=[
        types.Part(text="I look."),
        types.Part(function_call=types.FunctionCall(id="call_1", name="weather", args={"city": "Paris"}))]),
    types.Content(role="user", parts=[types.Part(function_response=types.FunctionResponse(
        id="call_1", name="weather", response={"result": "sunny"}))]),
]
BEDROCK_ROUND = [
    user({"text": "weather?"}),
    {"role": "assistant", "content": [
        {"text": "I look."}, {"toolUse": {"toolUseId": "call_1", "name": "weather", "input": {"city": "Paris"}}}]},
    user({"toolResult": {"toolUseId": "call_1", "content": [{"text": "sunny"}]}}),
]
GEMINI_TOOL = types.Tool(function_declarations=[types.FunctionDeclaration(
    name="weather", description="Tells the weather", parameters_json_schema=SCHEMA)])
BY_HAND = types.AutomaticFunctionCallingConfig(disable=True)
BEDROCK_TOOL = {"toolSpec": {
    "name": "weather", "description": "Tells the weather", "inputSchema": {"json": SCHEMA}}}
CLAUDE_IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG64}}
NOVA, ARN = drive.BEDROCK_MODELS

KEEP = {"store": "Nearfield asks that answers are not kept unless configuration allows it"}
STRICT = {"tools[0].strict": "absent means true in Responses and false in chat completions, as the caller asked"}
ROLE = {"systemInstruction.role": "the client writes a role that the API ignores"}
SCHEMA_AT = "tools[0].functionDeclarations[0]"
SPELLING = "the client spells the field in snake case, which the API reads as the same"
SPELLED = {f"{SCHEMA_AT}.parametersJsonSchema": SPELLING, f"{SCHEMA_AT}.parameters_json_schema": SPELLING}
IMAGE_AT = "contents[0].parts[1].inlineData"
ENCODED = {
    f"{IMAGE_AT}.data": "the client writes base64's URL-safe digits, Nearfield the plain ones",
    f"{IMAGE_AT}.mimeType": SPELLING,
    f"{IMAGE_AT}.mime_type": SPELLING,
}

CALLS = [
    Call("chat completions, text", drive.OpenAiChat,
         chat(messages=HELLO, max_completion_tokens=64, stop=["END"], **SETTINGS),
         {"model": "gpt-chat", "stop": ["END"], **ASK_HELLO}, KEEP),
    Call("chat completions, tool and result", drive.OpenAiChat,
         chat(messages=ROUND, tools=TOOLS, max_completion_tokens=64), {"model": "gpt-chat", **ASK_ROUND}, KEEP),
    Call("chat completions, image", drive.OpenAiChat,
         chat(messages=[PICTURE], max_completion_tokens=64), {"model": "gpt-chat", **ASK_PICTURE}, KEEP),
    Call("responses, text", drive.OpenAiResponses,
         responses(input=HELLO, max_output_tokens=64, **SETTINGS), {"model": "gpt-responses", **ASK_HELLO}, KEEP),
    Call("responses, tool and result", drive.OpenAiResponses,
         responses(input=RESPONSES_ROUND, max_output_tokens=64, tools=[{"type": "function", **FUNCTION}]),
         {"model": "gpt-responses", **ASK_ROUND}, {**KEEP, **STRICT}),
    Call("responses, image", drive.OpenAiResponses,
         responses(max_output_tokens=64, input=[user(
             {"type": "input_text", "text": "what?"}, {"type": "input_image", "image_url": DATA_URL})]),
         {"model": "gpt-responses", **ASK_PICTURE}, KEEP),
    Call("anthropic, text", drive.Anthropic,
         claude(system="Be brief.", messages=[user({"type": "text", "text": "hello"})], stop_sequences=["END"],
                extra_body=SETTINGS),
         {"model": "claude", "stop": ["END"], **ASK_HELLO}),
    Call("anthropic, tool and result", drive.Anthropic,
         claude(messages=CLAUDE_ROUND, tools=[
             {"name": "weather", "description": "Tells the weather", "input_schema": SCHEMA}]),
         {"model": "claude", **ASK_ROUND}),
    Call("anthropic, image", drive.Anthropic,
         claude(messages=[user({"type": "text", "text": "what?"}, CLAUDE_IMAGE)]),
         {"model": "claude", **ASK_PICTURE}),
    Call("gemini, text", drive.Gemini,
         gemini("hello", system_instruction="Be brief.", stop_sequences=["END"], **SETTINGS),
         {"model": "gemini-test", "stop": ["END"], **ASK_HELLO}, ROLE),
    Call("gemini, tool and result", drive.Gemini,
         gemini(GEMINI_ROUND, tools=[GEMINI_TOOL], automatic_function_calling=BY_HAND),
         {"model": "gemini-test", **ASK_ROUND}, SPELLED),
    Call("gemini, image", drive.Gemini,
         gemini(["what?", types.Part.from_bytes(data=PNG, mime_type="image/png")]),
         {"model": "gemini-test", **ASK_PICTURE}, ENCODED),
    Call("vertex, text", drive.Vertex,
         gemini("hello", "gemini-vertex", system_instruction="Be brief.", **SETTINGS),
         {"model": "gemini-vertex", **ASK_HELLO}, ROLE),
    Call("bedrock, text", drive.Bedrock,
         converse(NOVA, [user({"text": "hello"})], system=[{"text": "Be brief."}],
                  inferenceConfig={"maxTokens": 64, "temperature": 0.5, "topP": 0.9, "stopSequences": ["END"]}),
         {"model": NOVA, "stop": ["END"], **ASK_HELLO}),
    Call("bedrock, tool and result", drive.Bedrock,
         converse(ARN, BEDROCK_ROUND, toolConfig={"tools": [BEDROCK_TOOL]}), {"model": ARN, **ASK_ROUND}),
    Call("bedrock, image", drive.Bedrock,
         converse(NOVA, [user({"text": "what?"}, {"image": {"format": "png", "source": {"bytes": PNG}}})]),
         {"model": NOVA, **ASK_PICTURE}),
    Call("bedrock's chat completions, text", drive.BedrockChat,
         chat(OSS, messages=HELLO, max_completion_tokens=64, stop=["END"], **SETTINGS),
         {"model": OSS, "stop": ["END"], **ASK_HELLO}),
    Call("bedrock's chat completions, tool and result", drive.BedrockChat,
         chat(OSS, messages=ROUND, tools=TOOLS, max_completion_tokens=64), {"model": OSS, **ASK_ROUND}),
    Call("bedrock's chat completions, image, key", drive.BedrockChatWithKey,
         chat(SMALL_OSS, messages=[PICTURE], max_completion_tokens=64), {"model": SMALL_OSS, **ASK_PICTURE}),
    Call("bedrock's mantle, text", drive.MantleResponses,
         responses(MANTLE, input=HELLO, max_output_tokens=64, **SETTINGS), {"model": MANTLE, **ASK_HELLO}, KEEP),
    Call("bedrock's mantle, tool and result", drive.MantleResponses,
         responses(MANTLE, input=RESPONSES_ROUND, max_output_tokens=64, tools=[{"type": "function", **FUNCTION}]),
         {"model": MANTLE, **ASK_ROUND}, {**KEEP, **STRICT}),
]
