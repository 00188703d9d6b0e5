//! Who gains from whose prompts.

use std::sync::Arc;

use futures_util::StreamExt as _;
use nearfield_api::{Backend, Event, Request, Usage};
use nearfield_engine::EngineOptions;
use nearfield_router::Policy;
use nearfield_server::gateway::{Caller, Gateway};
use nearfield_store::Ledger;
use serde_json::json;

use crate::local::{Local, local, request, small};
use crate::support::{Setup, gateway};

/// Longer than three blocks of 32 tokens; a token is a byte here.
const PROMPT: &str = "Once upon a time there was a prompt that many people sent, each of them certain to be the first one \
                      who had ever thought of sending it.";

/// What a request of this key used, and its text.
async fn ask(gateway: &Gateway, key_id: &str, request: Request) -> (Usage, String) {
    let caller = Caller::new(key_id);
    let mut answer = gateway.answer(&caller, request).await.unwrap();
    let (mut usage, mut all) = (None, String::new());
    while let Some(event) = answer.events.next().await {
        match event.unwrap() {
            Event::Delta { text, .. } => all += &text,
            Event::Done { usage: done, .. } => usage = Some(done),
            _ => {}
        }
    }
    (usage.unwrap(), all)
}

async fn opened(engine: EngineOptions) -> (Local, Gateway) {
    let local = local(engine);
    let ledger = Ledger::open(local.folder.path().join("ledger")).await.unwrap();
    let backend = Arc::clone(&local.backend) as Arc<dyn Backend>;
    let gateway = gateway(vec![backend], Policy::default(), ledger);
    (local, gateway)
}

#[tokio::test]
async fn a_key_gains_from_its_own_prompts_and_from_those_of_keys_that_are_joined_with_it() {
    let (local, gateway) = opened(small()).await;
    let request = || request(&local.model, PROMPT);
    let all = PROMPT.len() as u64;
    let cold = ask(&gateway, "a", request()).await;
    assert_eq!((cold.0.input, cold.0.cached_input), (all, 0));
    let warm = ask(&gateway, "a", request()).await;
    assert_eq!((warm.0.input, warm.0.cached_input), (all % 32, all - all % 32));
    // Another key's work is all its own, and its answer the same.
    let other = ask(&gateway, "b", request()).await;
    assert_eq!((other.0.input, other.0.cached_input), (all, 0));
    assert!(warm.1 == cold.1 && other.1 == cold.1, "{warm:?} {other:?}");
    // The test's gateway joins these two.
    assert_eq!(ask(&gateway, "joined_1", request()).await.0.cached_input, 0);
    assert_eq!(ask(&gateway, "joined_2", request()).await.0.cached_input, warm.0.cached_input);
    // Whatever a request says of domains, its caller decides.
    let disguised = Request { cache_domain: "key:a".to_owned(), ..request() };
    assert_eq!(ask(&gateway, "c", disguised).await.0.cached_input, 0);
}

#[tokio::test]
async fn it_can_be_switched_off() {
    let (local, gateway) = opened(EngineOptions { prefix_cache_bytes: Some(0), ..small() }).await;
    for _ in 0..2 {
        let (usage, _) = ask(&gateway, "a", request(&local.model, PROMPT)).await;
        assert_eq!((usage.input, usage.cached_input), (PROMPT.len() as u64, 0));
    }
}

#[tokio::test]
async fn replies_and_rows_say_what_was_cached() {
    let local = local(small());
    let server = Setup::local(Arc::clone(&local.backend) as Arc<dyn Backend>).start().await;
    let body = json!({ "model": local.model, "prompt": PROMPT, "max_tokens": 3, "temperature": 0 });
    let usage = async || server.post("/v1/completions", &body).await.json()["usage"].clone();
    let cold = usage().await;
    assert_eq!(cold["prompt_tokens_details"]["cached_tokens"], 0);
    let warm = usage().await;
    let cached = PROMPT.len() - PROMPT.len() % 32;
    assert_eq!(warm["prompt_tokens_details"]["cached_tokens"], cached);
    assert_eq!(warm["prompt_tokens"], cold["prompt_tokens"]);
    let rows = server.ended_rows(2).await;
    let mut told: Vec<_> = rows.iter().map(|row| row.usage.unwrap().cached_input).collect();
    told.sort_unstable();
    assert_eq!(told, [0, cached as u64]);
}
