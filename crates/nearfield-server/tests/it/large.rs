//! Requests that are worked on beside the threads that serve connections.

use nearfield_store::Outcome;

use crate::scripted::{Script, Scripted, hello};
use crate::support::{Setup, chat};

fn large() -> serde_json::Value {
    chat(&"a long story ".repeat(20_000))
}

#[tokio::test]
async fn a_large_request_is_answered_like_any_other() {
    let backend = Scripted::local([hello()]);
    let server = Setup::local(backend.clone()).start().await;
    let reply = server.post("/v1/chat/completions", &large()).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "Hello, world");
    assert_eq!(backend.calls(), 1);
    let wrong =
        server.post("/v1/chat/completions", &serde_json::json!({ "model": "m".repeat(100_000) })).await;
    assert_eq!(wrong.status, 400, "{wrong:?}");
    assert_eq!(server.ended_rows(1).await.len(), 1);
}

#[tokio::test]
async fn a_caller_that_leaves_ends_the_work() {
    let server = Setup::local(Scripted::local([Script::Silence])).start().await;
    let mut client = server.connect().await;
    client.send("POST", "/v1/chat/completions", &large().to_string()).await;
    while server.rows().await.is_empty() {
        tokio::task::yield_now().await;
    }
    drop(client);
    assert_eq!(server.ended_rows(1).await[0].outcome, Some(Outcome::Cancelled));
}

#[tokio::test]
async fn a_panic_is_an_error_and_the_connection_goes_on() {
    let server = Setup::local(Scripted::local([Script::Panic, hello()])).start().await;
    let mut client = server.connect().await;
    client.send("POST", "/v1/chat/completions", &large().to_string()).await;
    assert_eq!(client.reply().await.status, 500);
    client.send("POST", "/v1/chat/completions", &large().to_string()).await;
    assert_eq!(client.reply().await.status, 200);
}
