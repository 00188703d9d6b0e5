//! OpenAI's dialect in its simplest form, which also answers what no codec reads.

use serde_json::{Value, json};

use crate::cloud_server::{ANSWER, CloudRequest, Script, TOKENS, usage, usage_object};
use crate::plays;

/// What is answered to any request without a script.
pub(crate) fn answer(request: &CloudRequest) -> Script {
    let body = request.json();
    let chat = match (request.method.as_str(), request.target.as_str()) {
        ("POST", "/v1/chat/completions") if is_plain(&body) => true,
        ("POST", "/v1/completions" | "/openai/v1/completions") => false,
        _ if let Some(script) = super::answer(request) => return script,
        _ => return Script::answer(404, &[("Content-Type", "text/plain")], "no such route"),
    };
    let choice = |text: &str, reason: Option<&str>, part: &str| {
        let mut choice = json!({"index": 0, "finish_reason": reason});
        if chat {
            choice[part] = json!({"role": "assistant", "content": text});
        } else {
            choice["text"] = json!(text);
        }
        json!({"id": "cloud-1", "created": 1, "model": &body["model"], "choices": [choice]})
    };
    if body["stream"] != true {
        let mut whole = choice(&ANSWER.concat(), Some("stop"), "message");
        whole["usage"] = usage_object(TOKENS.0, TOKENS.1);
        return Script::json(200, &whole);
    }
    ANSWER
        .iter()
        .fold(Script::stream(), |script, text| script.event(&choice(text, None, "delta").to_string()))
        .event(&choice("", Some("stop"), "delta").to_string())
        .event(&usage(TOKENS.0, TOKENS.1))
        .event("[DONE]")
        .end()
}

/// A chat that asks for nothing but text, or one that no codec reads: answered in the simplest form.
fn is_plain(body: &Value) -> bool {
    let model = body["model"].as_str().unwrap_or_default();
    let settings = ["tools", "response_format", "reasoning_effort", "stop", "n", "logprobs"];
    let special = settings.iter().any(|name| !body[*name].is_null());
    let short = ["max_tokens", "max_completion_tokens"].iter().any(|name| body[*name] == 1);
    let silent = body["messages"].as_array().is_some_and(Vec::is_empty);
    let pictures = body["messages"].to_string().contains("image_url");
    let results = body["messages"].to_string().contains("tool_call_id");
    let words = plays::WORDS.iter().any(|word| model.contains(word));
    !(special || short || silent || pictures || results || words)
}
