//! Tools and thinking with the local engine.

use std::sync::Arc;

use nearfield_server::local::{LocalBackend, LocalOptions};
use serde_json::{Value, json};

use crate::local::{Local, hub, local, server, small};
use crate::{support, tiny};

/// Asks a model for a chat with more fields and gives the status and the field at fault.
async fn asked_with(server: &support::Running, model: &str, more: Value) -> (u16, Value) {
    let mut body =
        json!({ "model": model, "messages": [{ "role": "user", "content": "Hello" }], "max_tokens": 3 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let reply = server.post("/v1/chat/completions", &body).await;
    let param = if reply.status == 200 { Value::Null } else { reply.error()["param"].clone() };
    (reply.status, param)
}

#[tokio::test]
async fn a_model_is_not_asked_for_what_its_template_does_not_know() {
    let local = local(small());
    let server = server(&local).await;
    let tools =
        json!([{ "type": "function", "function": { "name": "f", "parameters": { "type": "object" } } }]);
    for (more, param) in [
        (json!({ "tools": tools }), "tools"),
        (json!({ "reasoning_effort": "high" }), "reasoning_effort"),
        (json!({ "chat_template_kwargs": { "nonsense": 1 } }), "chat_template_kwargs"),
        (json!({ "chat_template_kwargs": 1 }), "chat_template_kwargs"),
    ] {
        assert_eq!(asked_with(&server, &local.model, more).await, (400, json!(param)));
    }
    for more in [
        json!({ "tools": tools, "tool_choice": "none" }),
        json!({ "reasoning_effort": "none" }),
        json!({ "chat_template_kwargs": { "enable_thinking": false } }),
    ] {
        assert_eq!(asked_with(&server, &local.model, more).await, (200, Value::Null));
    }
}

#[tokio::test]
async fn a_model_with_tools_takes_them_and_is_not_forced() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny::write(folder.path(), "tools", tiny::TOOLS).display().to_string();
    let options = LocalOptions { engine: small(), allow_paths: true, ..LocalOptions::default() };
    let local = Local { backend: Arc::new(LocalBackend::new(hub(&folder), options)), model, folder };
    let server = server(&local).await;
    let tool = |strict: bool| json!([{ "type": "function", "function": { "name": "f", "strict": strict } }]);
    let call =
        json!({ "id": "c", "type": "function", "function": { "name": "f", "arguments": "{\"a\": 1}" } });
    let messages = json!([
        { "role": "user", "content": "Hello" },
        { "role": "assistant", "content": null, "tool_calls": [call] },
        { "role": "tool", "tool_call_id": "c", "content": "ok" },
    ]);
    let good = [json!({ "tools": tool(false) }), json!({ "tools": tool(false), "messages": messages })];
    for more in good.into_iter().chain([json!({ "reasoning_effort": "high" })]) {
        assert_eq!(asked_with(&server, &local.model, more).await, (200, Value::Null));
    }
    for (more, param) in [
        (json!({ "tools": tool(true) }), "tools[0].function.strict"),
        (json!({ "tools": tool(false), "tool_choice": "required" }), "tool_choice"),
    ] {
        assert_eq!(asked_with(&server, &local.model, more).await, (400, json!(param)));
    }
    // The prompt opens a thought that the three tokens of the answer do not leave.
    let body = json!({ "model": local.model, "max_tokens": 3, "logit_bias": { "0": -100, "2": -100 },
        "messages": [{ "role": "user", "content": "Hello" }] });
    let reply = server.post("/v1/chat/completions", &body).await.json();
    assert_eq!(reply["usage"]["completion_tokens_details"]["reasoning_tokens"], 3, "{reply}");
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
}
