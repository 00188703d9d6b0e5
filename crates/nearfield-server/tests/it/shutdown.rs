//! Stopping: running answers may finish, then nothing is left.

use std::time::Duration;

use nearfield_store::Outcome;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::scripted::{Play, Script, Scripted, delta, done, finished, started, wait};
use crate::support::{Client, PATIENCE, Running, Setup, chat_with};

/// A stream of which the first token has come.
async fn streaming(server: &Running) -> Client {
    let mut client = server.connect().await;
    client.send("POST", "/v1/chat/completions", &chat_with(json!({ "stream": true })).to_string()).await;
    assert_eq!(client.head().await.status, 200);
    while !client.chunk().await.unwrap().contains("content\":\"a\"") {}
    client
}

#[tokio::test]
async fn a_running_answer_finishes_and_nothing_new_begins() {
    let script = Script::Play(vec![started(), delta("a"), wait(500), delta("b"), finished(), done()]);
    let server = Setup::local(Scripted::local([script])).start().await;
    let idle = server.connect().await;
    let mut client = streaming(&server).await;
    server.shutdown.request();
    let began = Instant::now();
    let mut text = String::new();
    while let Some(chunk) = client.chunk().await {
        text += &chunk;
    }
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    timeout(PATIENCE, server.task).await.expect("the server goes on").unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(4), "something was waited for: {:?}", began.elapsed());
    drop(idle);
    assert!(TcpStream::connect(server.address).await.is_err(), "the port is still open");
}

#[tokio::test]
async fn asked_again_it_ends_what_still_runs() {
    let script = Script::Play(vec![started(), delta("a"), Play::Hang]);
    let server = Setup::local(Scripted::local([script])).start().await;
    let mut client = streaming(&server).await;
    server.shutdown.request();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!server.task.is_finished());
    let began = Instant::now();
    server.shutdown.request();
    timeout(PATIENCE, server.task).await.expect("the server goes on").unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(3));
    while client.chunk().await.is_some() {}
    let row = crate::support::rows(&server.ledger).await.remove(0);
    assert_eq!(row.outcome, Some(Outcome::Cancelled));
}

#[tokio::test]
async fn grace_has_an_end() {
    let script = Script::Play(vec![started(), delta("a"), Play::Hang]);
    let setup = Setup::local(Scripted::local([script])).limits(|l| l.grace = Duration::from_millis(200));
    let server = setup.start().await;
    let _client = streaming(&server).await;
    server.shutdown.request();
    timeout(Duration::from_secs(5), server.task).await.expect("the server goes on").unwrap().unwrap();
}
