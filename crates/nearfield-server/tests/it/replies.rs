//! Whole and streamed replies, as OpenAI's clients parse them.

use std::time::Duration;

use nearfield_api::ErrorKind;
use nearfield_store::Outcome;
use serde_json::{Value, json};

use crate::scripted::{Play, Script, Scripted, delta, done, fail, finished, hello, refuse, started, wait};
use crate::support::{KEY, Setup, chat, chat_with};

#[tokio::test]
async fn a_whole_chat_reply_says_where_it_came_from() {
    let server = Setup::local(Scripted::local([hello()])).start().await;
    let reply = server.post("/v1/chat/completions", &chat("Hi")).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let row = server.ended_rows(1).await.remove(0);
    assert_eq!(reply.header("x-request-id"), Some(row.id.as_str()));
    assert_eq!(reply.header("x-nearfield-backend"), Some("local"));
    assert_eq!(reply.header("x-nearfield-locality"), Some("local"));
    assert_eq!(reply.header("x-nearfield-reason"), Some("local-only"));
    assert_eq!(reply.header("access-control-allow-origin"), None);
    let body = reply.json();
    assert_eq!(body["id"], format!("chatcmpl-{}", row.id));
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], "m");
    assert_eq!(body["choices"][0]["message"]["content"], "Hello, world");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["usage"]["prompt_tokens"], 12);
    assert_eq!(body["usage"]["prompt_tokens_details"]["cached_tokens"], 3);
    let ours = &body["nearfield"];
    assert_eq!(ours["id"], row.id);
    assert_eq!(ours["backend"], "local");
    assert_eq!(ours["locality"], "local");
    assert_eq!(ours["reason"], "local-only");
    assert_eq!(ours["outcome"], "done");
    assert_eq!(ours["usage"]["output_tokens"], 4);
    assert_eq!(ours["numerics"], "1");
    assert_eq!(ours["kernels"], "scalar");
    assert_eq!(ours["seed"], 11);
    assert_eq!(ours["energy_joules"], 7.5);
    assert_eq!((&ours["drafted_tokens"], &ours["accepted_tokens"]), (&json!(5), &json!(2)));
    assert_eq!(ours["draft_head_tokens"], json!(1));
    assert!(ours["ttft_ms"].is_number() && ours["duration_ms"].is_number(), "{ours}");
    // 7.5 J at half a dollar for a kilowatt-hour, to the nearest nano-dollar.
    assert_eq!(ours["cost_usd"], 0.000_001_042);
    assert!(ours["counterfactual"]["cost_usd"].as_f64().unwrap() > 0.0, "{ours}");
    assert!(ours["counterfactual"]["price"].as_str().unwrap().starts_with("openai/"), "{ours}");
}

#[tokio::test]
async fn completions_have_their_own_form() {
    let backend = Scripted::local([hello()]);
    let server = Setup::local(backend.clone()).start().await;
    let body = json!({ "model": "m", "prompt": "def f(", "suffix": "return x", "max_tokens": 5 });
    let reply = server.post("/v1/completions", &body).await.json();
    assert_eq!(reply["object"], "text_completion");
    assert_eq!(reply["choices"][0]["text"], "Hello, world");
    let seen = backend.seen.lock().unwrap();
    let expected =
        nearfield_api::Prompt::Text { text: "def f(".to_owned(), suffix: Some("return x".to_owned()) };
    assert_eq!((&seen[0].prompt, seen[0].max_tokens), (&expected, Some(5)));
}

fn parsed(events: &[String]) -> Vec<Value> {
    events.iter().filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
}

fn text_of(chunks: &[Value]) -> String {
    chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect()
}

#[tokio::test]
async fn a_stream_with_usage_ends_in_a_chunk_of_its_own() {
    let server = Setup::local(Scripted::local([hello()])).start().await;
    let body = chat_with(json!({ "stream": true, "stream_options": { "include_usage": true } }));
    let reply = server.post("/v1/chat/completions", &body).await;
    assert_eq!(reply.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(reply.header("cache-control"), Some("no-cache"));
    let events = reply.events();
    assert_eq!(events.last().unwrap(), "[DONE]");
    let chunks = parsed(&events);
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(text_of(&chunks), "Hello, world");
    let (last, rest) = chunks.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 4);
    assert_eq!(last["nearfield"]["outcome"], "done");
    assert!(rest.iter().all(|chunk| chunk["usage"].is_null() && chunk.get("nearfield").is_none()));
    assert_eq!(rest.last().unwrap()["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn a_stream_without_usage_ends_with_the_choice() {
    let server = Setup::local(Scripted::local([hello()])).start().await;
    let reply = server.post("/v1/chat/completions", &chat_with(json!({ "stream": true }))).await;
    let chunks = parsed(&reply.events());
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
    let last = chunks.last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert_eq!(last["nearfield"]["backend"], "local");
}

#[tokio::test]
async fn fields_that_change_the_answer_are_refused_by_name_and_harmless_ones_are_not() {
    let backend = Scripted::local([hello()]);
    let server = Setup::local(backend.clone()).start().await;
    for (field, value) in [
        ("tools", json!([{ "type": "function", "function": { "name": "f" } }])),
        ("response_format", json!({ "type": "json_object" })),
        ("nonsense", json!(1)),
    ] {
        let reply = server.post("/v1/chat/completions", &chat_with(json!({ (field): value }))).await;
        assert_eq!(reply.status, 400, "{field}");
        let error = reply.error();
        assert_eq!((&error["param"], &error["type"]), (&json!(field), &json!("invalid_request_error")));
        assert!(error["message"].as_str().unwrap().contains(field), "{error}");
    }
    assert_eq!(backend.calls(), 0);
    assert_eq!(server.ended_rows(3).await.len(), 3, "what was understood has a row");
    let harmless = json!({ "user": "u", "metadata": { "a": "b" }, "store": false });
    let reply = server.post("/v1/chat/completions", &chat_with(harmless)).await;
    assert_eq!(reply.status, 200, "{reply:?}");
}

#[tokio::test]
async fn an_error_before_the_first_token_has_its_status_and_says_when_to_come_back() {
    for streamed in [false, true] {
        for script in
            [refuse(ErrorKind::Overloaded), Script::Play(vec![started(), fail(ErrorKind::Overloaded)])]
        {
            let server = Setup::local(Scripted::local([script])).start().await;
            let reply = server.post("/v1/chat/completions", &chat_with(json!({ "stream": streamed }))).await;
            assert_eq!(reply.status, 503);
            assert_eq!(reply.error()["type"], "overloaded_error");
            assert_eq!(reply.header("retry-after"), Some("1"));
            let rows = server.ended_rows(1).await;
            assert_eq!(rows.len(), 1);
            assert_eq!(reply.header("x-request-id"), Some(rows[0].id.as_str()));
            assert_eq!(rows[0].outcome, Some(Outcome::Error("overloaded".to_owned())));
        }
    }
}

#[tokio::test]
async fn an_error_after_the_first_token_is_an_event_and_no_end() {
    let script = Script::Play(vec![started(), delta("Hel"), wait(20), fail(ErrorKind::Internal)]);
    let server = Setup::local(Scripted::local([script])).start().await;
    let reply = server.post("/v1/chat/completions", &chat_with(json!({ "stream": true }))).await;
    assert_eq!(reply.status, 200);
    let events = reply.events();
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["type"], "server_error", "{events:?}");
    assert!(!events.iter().any(|data| data == "[DONE]"));
    let row = server.ended_rows(1).await.remove(0);
    assert_eq!(row.outcome, Some(Outcome::Truncated));
    let usage = row.usage.unwrap();
    assert_eq!((usage.output, usage.measured), (1, false));
}

#[tokio::test]
async fn an_answer_that_is_cut_is_never_taken_for_whole() {
    let cut = Script::Play(vec![started(), delta("Hel"), finished()]);
    let server = Setup::local(Scripted::local([cut])).start().await;
    let reply = server.post("/v1/chat/completions", &chat("Hi")).await;
    assert_eq!(reply.status, 502);
    let reply = server.post("/v1/chat/completions", &chat_with(json!({ "stream": true }))).await;
    assert!(!reply.events().iter().any(|data| data == "[DONE]"));
    let mut outcomes: Vec<_> =
        server.ended_rows(2).await.into_iter().map(|row| row.outcome.unwrap().to_string()).collect();
    outcomes.sort();
    assert_eq!(outcomes, ["error:upstream", "truncated"]);
}

#[tokio::test]
async fn a_slow_first_token_does_not_hold_back_the_headers_for_ever() {
    let script = Script::Play(vec![started(), wait(900), delta("late"), finished(), done()]);
    let server = Setup::local(Scripted::local([script])).start().await;
    let mut client = server.connect().await;
    let began = tokio::time::Instant::now();
    let body = chat_with(json!({ "stream": true })).to_string();
    client.send("POST", "/v1/chat/completions", &body).await;
    let head = client.head().await;
    assert_eq!(head.status, 200);
    assert!(began.elapsed() < Duration::from_millis(800), "the headers waited for the first token");
    let mut chunks = Vec::new();
    while let Some(chunk) = client.chunk().await {
        chunks.push(chunk);
    }
    assert!(chunks.iter().any(|chunk| chunk.starts_with(": keep-alive")), "{chunks:?}");
    let all = chunks.concat();
    assert!(all.contains("late") && all.ends_with("data: [DONE]\n\n"), "{all}");
}

#[tokio::test]
async fn a_failure_after_the_headers_is_an_event() {
    let script = Script::Play(vec![started(), wait(500), fail(ErrorKind::Overloaded)]);
    let server = Setup::local(Scripted::local([script])).start().await;
    let reply = server.post("/v1/chat/completions", &chat_with(json!({ "stream": true }))).await;
    assert_eq!(reply.status, 200);
    assert!(reply.events().last().unwrap().contains("overloaded_error"), "{reply:?}");
    let row = server.ended_rows(1).await.remove(0);
    assert_eq!(row.outcome, Some(Outcome::Error("overloaded".to_owned())));
}

#[tokio::test]
async fn models_are_listed() {
    let server = Setup::local(Scripted::local([hello()])).start().await;
    let list = server.send("GET", "/v1/models", "").await.json();
    assert_eq!(list["object"], "list");
    let ids: Vec<&str> = list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["m", "local-only"]);
    assert_eq!(list["data"][0]["owned_by"], "local");
    let one = server.send("GET", "/v1/models/m", "").await;
    assert_eq!((one.status, &one.json()["id"]), (200, &json!("m")));
    let none = server.send("GET", "/v1/models/org/none", "").await;
    assert_eq!((none.status, &none.error()["code"]), (404, &json!("model_not_found")));
}

#[tokio::test]
async fn unknown_routes_and_methods_are_errors_in_the_same_form() {
    let server = Setup::local(Scripted::local([hello()])).start().await;
    let reply = server.send("GET", "/v1/embeddings", "").await;
    assert_eq!((reply.status, &reply.error()["code"]), (404, &json!("unknown_url")));
    let reply = server.send("GET", "/v1/chat/completions", "").await;
    assert_eq!((reply.status, &reply.error()["code"]), (405, &json!("method_not_allowed")));
    assert_eq!(reply.header("allow"), Some("POST"));
    let reply = server.send("POST", "/v1/models/m", "{}").await;
    assert_eq!((reply.status, reply.header("allow")), (405, Some("GET,HEAD")));
}

#[tokio::test]
async fn a_head_is_what_get_would_say_without_the_body() {
    let server = Setup::local(Scripted::local([hello()])).start().await;
    let client = reqwest::Client::new();
    let url = format!("{}/models", server.base_url);
    let whole = client.get(&url).bearer_auth(KEY).send().await.unwrap();
    let head = client.head(&url).bearer_auth(KEY).send().await.unwrap();
    assert_eq!(
        (head.status(), head.headers()["content-type"].clone()),
        (whole.status(), whole.headers()["content-type"].clone())
    );
    assert_eq!(head.headers()["content-length"], whole.text().await.unwrap().len().to_string().as_str());
    assert!(head.text().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_model_is_found_by_its_name_as_urls_write_it() {
    let server = Setup::local(Scripted::local([hello()])).start().await;
    let models = server.send("GET", "/v1/models", "").await;
    let id = models.json()["data"][0]["id"].as_str().unwrap().to_owned();
    let encoded = id.bytes().fold(String::new(), |text, byte| text + &format!("%{byte:02X}"));
    for name in [&id, &encoded] {
        let reply = server.send("GET", &format!("/v1/models/{name}"), "").await;
        assert_eq!((reply.status, &reply.json()["id"]), (200, &json!(id)), "{name}");
    }
    assert_eq!(server.send("GET", "/v1/models/", "").await.status, 404);
}

#[tokio::test]
async fn health_follows_the_answers() {
    let script = Script::Play(vec![started(), delta("a"), Play::Hang]);
    let setup = Setup::local(Scripted::local([script])).limits(|l| l.stall = Duration::from_millis(150));
    let server = setup.start().await;
    let health = async || server.send("GET", "/health", "").await;
    let reply = health().await;
    assert_eq!((reply.status, reply.body.as_str()), (200, r#"{"status":"ok"}"#));
    let mut client = server.connect().await;
    client.send("POST", "/v1/chat/completions", &chat_with(json!({ "stream": true })).to_string()).await;
    assert_eq!(client.head().await.status, 200);
    assert_eq!(health().await.status, 200);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let reply = health().await;
    assert_eq!((reply.status, reply.body.as_str()), (503, r#"{"status":"not ok"}"#));
    drop(client);
    server.ended_rows(1).await;
    assert_eq!(health().await.status, 200);
}

#[tokio::test]
async fn metrics_count_requests_and_tokens() {
    let server = Setup::local(Scripted::local([hello()])).start().await;
    server.post("/v1/chat/completions", &chat("Hi")).await;
    server.ended_rows(1).await;
    let text = server.send("GET", "/metrics", "").await.body;
    let expected = r#"nearfield_requests_total{route="/v1/chat/completions",outcome="ok",backend="local"} 1"#;
    assert!(text.contains(expected), "{text}");
    assert!(text.contains(r#"nearfield_tokens_total{backend="local",kind="output"} 4"#), "{text}");
    assert!(text.contains("nearfield_requests_in_flight 0"), "{text}");
}
