//! Exactly one row for each request, whatever becomes of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use nearfield_api::{ErrorKind, Locality};
use nearfield_privacy::DataClass;
use nearfield_router::{Policy, PolicyMode};
use nearfield_server::gateway::Caller;
use nearfield_store::{Ledger, NanoDollars, Outcome};
use serde_json::json;

use crate::scripted::{
    Play, Script, Scripted, USAGE, cloud_hello, delta, fail, hello, refuse, started, started_as, wait,
};
use crate::support::{KEY, PATIENCE, Setup, chat, chat_with, gateway, request, rows};

fn caller() -> Caller {
    Caller::new("key_1")
}

#[tokio::test]
async fn a_local_answer_leaves_its_row() {
    let server = Setup::local(Scripted::local([hello()])).start().await;
    server.post("/v1/chat/completions", &chat("Hi")).await;
    let rows = server.ended_rows(1).await;
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    assert_eq!(row.outcome, Some(Outcome::Done));
    assert_eq!((row.model.as_str(), row.backend.as_deref()), ("m", Some("local")));
    assert_eq!((row.locality.as_deref(), row.reason.as_str()), (Some("local"), "local-only"));
    assert_eq!(row.key_id.as_deref(), Some("env"));
    assert_eq!(row.usage, Some(USAGE));
    assert_eq!(row.energy_joules, Some(7.5));
    assert_eq!(row.numerics.as_deref(), Some("1"));
    assert_eq!(row.cost, Some(NanoDollars(1042)));
    assert!(row.counterfactual.is_some() && row.ttft.is_some() && row.duration >= row.ttft, "{row:?}");
    assert_eq!(row.policy_hash, Policy::up_to(DataClass::Internal, PolicyMode::LocalOnly).hash());
    assert_eq!(row.attempts.len(), 1);
    assert_eq!(row.attempts[0].bytes_out, 0, "nothing left this machine");
    assert!(row.attempts[0].price.as_ref().unwrap().contains("measured energy"));
}

#[tokio::test]
async fn a_cloud_answer_is_priced_and_its_bytes_are_counted() {
    let cloud = Scripted::cloud("far", [cloud_hello()]);
    let server = Setup::new(PolicyMode::CloudOnly, vec![cloud]).start().await;
    let reply = server.post("/v1/chat/completions", &chat("eight by")).await;
    assert_eq!(reply.header("x-nearfield-locality"), Some("cloud"));
    assert_eq!(reply.json()["nearfield"]["model"], "gpt-5.4-nano");
    let row = server.ended_rows(1).await.remove(0);
    let attempt = &row.attempts[0];
    assert_eq!(attempt.bytes_out, 8);
    assert!(attempt.price.as_ref().unwrap().starts_with("openai/gpt-5.4-nano"), "{attempt:?}");
    // 9 tokens at 0.20, 3 cached at 0.02 and 4 at 1.25 dollars for a million.
    assert_eq!(row.cost, Some(NanoDollars(1800 + 60 + 5000)));
    assert_eq!(row.cost, attempt.cost);
}

#[tokio::test]
async fn a_client_that_leaves_cancels_and_leaves_one_row() {
    let backend =
        Scripted::local([Script::Play(vec![started(), delta("a"), wait(20), delta("b"), Play::Hang])]);
    let server = Setup::local(backend.clone()).start().await;
    let mut client = server.connect().await;
    client.send("POST", "/v1/chat/completions", &chat_with(json!({ "stream": true })).to_string()).await;
    let mut text = String::new();
    client.head().await;
    while !text.contains(r#""content":"b""#) {
        text += &client.chunk().await.unwrap();
    }
    assert_eq!(backend.dropped.load(Ordering::SeqCst), 0);
    drop(client);
    let rows = server.ended_rows(1).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].outcome, Some(Outcome::Cancelled));
    let usage = rows[0].usage.unwrap();
    assert_eq!((usage.output, usage.measured), (2, false));
    assert_eq!(backend.dropped.load(Ordering::SeqCst), 1, "the backend goes on");
}

#[tokio::test]
async fn a_client_that_leaves_before_anything_came_cancels_too() {
    let silent = Script::Play(vec![started(), Play::Hang]);
    for (script, streamed) in [(silent.clone(), false), (silent, true), (Script::Silence, false)] {
        let backend = Scripted::local([script]);
        let server = Setup::local(backend.clone()).start().await;
        let mut client = server.connect().await;
        let body = chat_with(json!({ "stream": streamed })).to_string();
        client.send("POST", "/v1/chat/completions", &body).await;
        while backend.calls() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(client);
        let rows = server.ended_rows(1).await;
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].outcome, Some(Outcome::Cancelled));
        assert_eq!((rows[0].usage, rows[0].ttft), (None, None));
    }
}

#[tokio::test]
async fn what_the_policy_refuses_has_a_row_and_no_attempt() {
    let cloud = Scripted::cloud("far", [cloud_hello()]);
    let server = Setup::new(PolicyMode::LocalOnly, vec![cloud.clone()]).start().await;
    let reply = server.post("/v1/chat/completions", &chat("Hi")).await;
    assert_eq!((reply.status, &reply.error()["code"]), (403, &json!("policy_forbids")));
    assert_eq!(cloud.calls(), 0);
    let rows = server.ended_rows(1).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].outcome, Some(Outcome::Error("permission_denied".to_owned())));
    assert_eq!((rows[0].attempts.len(), rows[0].reason.as_str()), (0, "local-only: refused"));
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_sent() {
    let backend = Scripted::local([hello()]);
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).await.unwrap();
    let gateway = gateway(vec![backend.clone()], Policy::default(), ledger);
    let mut request = request();
    // No record holds so much.
    request.model = "m".repeat(100_000);
    let error = gateway.answer(&caller(), request).await.err().unwrap();
    assert_eq!((error.kind, error.code.as_deref()), (ErrorKind::Internal, Some("ledger_unavailable")));
    assert_eq!(backend.calls(), 0);
}

#[tokio::test]
async fn the_receipt_is_complete_when_the_stream_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).await.unwrap();
    let script = Script::Play(vec![
        started(),
        delta("a"),
        wait(40),
        delta("b"),
        crate::scripted::finished(),
        crate::scripted::done(),
    ]);
    let gateway = gateway(vec![Scripted::local([script])], Policy::default(), ledger.clone());
    let mut answer = gateway.answer(&caller(), request()).await.unwrap();
    assert_eq!((answer.backend.as_str(), answer.locality), ("local", Locality::Local));
    assert!(!answer.receipt.is_complete());
    while let Some(event) = answer.events.next().await {
        event.unwrap();
    }
    assert!(answer.receipt.is_complete());
    let fields = answer.receipt.fields();
    assert_eq!((fields.id, fields.usage), (answer.id.clone(), Some(USAGE)));
    // Three tokens after the first, in 40 ms and some.
    let speed = fields.tokens_per_second.unwrap();
    assert!(speed > 1.0 && speed <= 75.0, "{speed}");
    let row = rows(&ledger).await.remove(0);
    assert_eq!((row.id, row.key_id.as_deref()), (answer.id, Some("key_1")));
}

#[tokio::test]
async fn a_cancelled_cloud_answer_costs_what_was_seen_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).await.unwrap();
    let script = Script::Play(vec![started_as("gpt-5.4-nano"), delta("a"), delta("b"), Play::Hang]);
    let policy = Policy::up_to(Policy::MOST, PolicyMode::CloudOnly);
    let gateway = gateway(vec![Scripted::cloud("far", [script])], policy, ledger.clone());
    let mut answer = gateway.answer(&caller(), request()).await.unwrap();
    for _ in 0..3 {
        answer.events.next().await.unwrap().unwrap();
    }
    drop(answer.events);
    let row = rows(&ledger).await.remove(0);
    assert_eq!(row.outcome, Some(Outcome::Cancelled));
    // "eight by" is estimated as 2 tokens; 2 pieces came.
    let usage = row.usage.unwrap();
    assert_eq!((usage.input, usage.output, usage.measured), (2, 2, false));
    assert_eq!(row.cost, Some(NanoDollars(2 * 200 + 2 * 1250)));
    let receipt = answer.receipt.fields();
    assert_eq!((receipt.outcome, receipt.cost), (Some(Outcome::Cancelled), row.cost));
}

#[tokio::test]
async fn two_hundred_clients_against_a_full_backend_are_told_at_once_and_each_has_a_row() {
    let busy = refuse(ErrorKind::Overloaded);
    let server = Arc::new(Setup::local(Scripted::local([busy])).start().await);
    let began = tokio::time::Instant::now();
    let clients = (0..200).map(|_| {
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            server.post("/v1/chat/completions", &chat_with(json!({ "stream": true }))).await
        })
    });
    for client in clients.collect::<Vec<_>>() {
        let reply = tokio::time::timeout(PATIENCE, client).await.unwrap().unwrap();
        assert_eq!(reply.status, 503);
        assert!(reply.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(server.ended_rows(200).await.len(), 200);
}

#[tokio::test]
async fn no_text_of_prompt_answer_or_key_reaches_the_ledger() {
    let script = Script::Play(vec![started(), delta("ANSWER-TEXT"), fail(ErrorKind::Internal)]);
    let server = Setup::local(Scripted::local([script])).start().await;
    server.post("/v1/chat/completions", &chat("PROMPT-TEXT")).await;
    server.ended_rows(1).await;
    let mut folders = vec![server.folder.path().join("ledger")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let bytes = std::fs::read(&path).unwrap();
            for text in ["PROMPT-TEXT", "ANSWER-TEXT", KEY] {
                let found = bytes.windows(text.len()).any(|window| window == text.as_bytes());
                assert!(!found, "{text} in {}", path.display());
            }
        }
    }
    assert!(files > 0);
}
