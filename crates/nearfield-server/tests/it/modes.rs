//! Without a policy file: what the declared class lets leave, and what stays.

use std::sync::Arc;

use nearfield_api::openai::{Limits, parse_chat_request};
use nearfield_api::{ErrorKind, Request};
use nearfield_privacy::DataClass;
use nearfield_router::{Policy, PolicyMode};
use nearfield_store::Outcome;
use serde_json::{Value, json};

use crate::scripted::{Scripted, cloud_hello, refuse};
use crate::support::{KEY, Reply, Running, Setup, chat, chat_with};

struct Case {
    server: Running,
    far: Arc<Scripted>,
}

/// A server whose own engine has no room, so that what may leave does.
async fn case(mode: PolicyMode, leaves: DataClass) -> Case {
    let far = Scripted::cloud("far", [cloud_hello()]);
    let local = Scripted::local([refuse(ErrorKind::Overloaded)]);
    let mut setup = Setup::new(mode, vec![local, far.clone()]);
    setup.policy = Policy::up_to(leaves, mode);
    Case { server: setup.start().await, far }
}

impl Case {
    /// How often the cloud was asked for a request.
    async fn left(&self, body: &Value) -> usize {
        let before = self.far.calls();
        self.server.post("/v1/chat/completions", body).await;
        self.far.calls() - before
    }
}

fn with_arguments(arguments: &str) -> Value {
    let call = json!({ "id": "c", "type": "function", "function": { "name": "f", "arguments": arguments } });
    chat_with(json!({ "messages": [
        { "role": "assistant", "content": null, "tool_calls": [call] },
        { "role": "tool", "tool_call_id": "c", "content": "done" },
    ] }))
}

#[tokio::test]
async fn what_is_found_in_a_request_keeps_it_here() {
    for (leaves, body, left) in [
        (DataClass::Internal, chat("hello"), 1),
        (DataClass::Public, chat("hello"), 1),
        (DataClass::Internal, chat("answer jo@example.org"), 0),
        (DataClass::Personal, chat("answer jo@example.org"), 1),
        (DataClass::Internal, with_arguments(r#"{"to":"nobody"}"#), 1),
        (DataClass::Internal, with_arguments(r#"{"to":"jo\u0040example.org"}"#), 0),
        (DataClass::Internal, chat_with(json!({ "user": "u1", "x_note": { "a": 1 } })), 1),
        (DataClass::Internal, chat_with(json!({ "user": "jo@example.org" })), 0),
        (DataClass::Internal, chat_with(json!({ "x_note": { "jo@example.org": 1 } })), 0),
        (DataClass::Personal, chat("MRN: 12345678 was here"), 0),
        (DataClass::Personal, chat("password: hunter2!"), 0),
    ] {
        let case = case(PolicyMode::CloudOnly, leaves).await;
        assert_eq!(case.left(&body).await, left, "{leaves} {body}");
    }
}

async fn claimed(server: &Running, class: &str) -> Reply {
    let body = chat("hello").to_string();
    let mut client = server.connect().await;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\n\
         x-nearfield-class: {class}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    client.write(head.as_bytes()).await;
    client.reply().await
}

#[tokio::test]
async fn a_callers_word_counts_as_what_is_found() {
    let case = case(PolicyMode::PreferLocal, DataClass::Internal).await;
    for (class, status) in [("public", 200), ("internal", 200), ("personal", 503), ("secret", 503)] {
        assert_eq!(claimed(&case.server, class).await.status, status, "{class}");
    }
    assert_eq!(case.far.calls(), 2);
    let rows = case.server.ended_rows(4).await;
    assert_eq!(rows[3].attempts[0].why, "prefer-local: secret data stays here");
}

#[tokio::test]
async fn where_nothing_here_may_answer_the_refusal_says_what_to_do() {
    let case = case(PolicyMode::CloudOnly, DataClass::Internal).await;
    let reply = case.server.post("/v1/chat/completions", &chat("answer jo@example.org")).await;
    assert_eq!((reply.status, &reply.error()["code"]), (403, &json!("policy_forbids")));
    let said = reply.error()["message"].as_str().unwrap().to_owned();
    assert!(said.contains("class personal") && said.contains("policy file"), "{said}");
    assert!(!said.contains("example.org"), "{said}");
    assert_eq!(case.far.calls(), 0);
    let row = case.server.ended_rows(1).await.remove(0);
    assert_eq!(row.outcome, Some(Outcome::Error("permission_denied".to_owned())));
}

#[tokio::test]
async fn a_request_that_was_looked_at_leaves_as_it_was() {
    let case = case(PolicyMode::CloudOnly, DataClass::Personal).await;
    for body in [
        chat_with(json!({ "x_note": { "a": [1, "b"] }, "user": "jo@example.org" })),
        with_arguments(r#"{"b": 1,  "a": "\u0041"}"#),
    ] {
        assert_eq!(case.left(&body).await, 1);
        let seen = case.far.seen.lock().unwrap().pop().unwrap();
        let (asked, _) = parse_chat_request(body.to_string().as_bytes(), &Limits::default()).unwrap();
        assert_eq!(seen, Request { cache_domain: seen.cache_domain.clone(), ..asked });
    }
}
