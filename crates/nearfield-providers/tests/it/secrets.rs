//! The key is in no text of ours, whatever the other end does with it.

use nearfield_api::{Backend as _, Error};
use nearfield_providers::OpenAiCompatible;
use nearfield_testkit::cloud_server::{CloudServer, Script, delta};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

use crate::support::{KEY, drain, options, request};

/// Where a provider puts the key that it was sent.
fn quotes() -> impl Strategy<Value = String> {
    let around = ".{0,30}";
    // Up to the length at which words are cut, so that the cut falls inside the key.
    let pad = proptest::collection::vec("[a-z ]", 0..420).prop_map(|letters| letters.concat());
    let key = prop_oneof![
        Just(KEY.to_owned()),
        Just(format!("Bearer {KEY}")),
        Just(KEY[..20].to_owned()),
        Just(KEY[6..].to_owned()),
        Just(format!("{KEY}{KEY}")),
    ];
    (around, pad, key, around).prop_map(|(before, pad, key, after)| format!("{before}{pad}{key}{after}"))
}

fn scripts() -> impl Strategy<Value = Script> {
    let body = (quotes(), 0..6_u8).prop_map(|(text, form)| match form {
        0 => json!({"error": {"message": text}}).to_string(),
        1 => json!({"error": {"message": "m", "param": text, "code": text, "type": text}}).to_string(),
        2 => json!({"error": text}).to_string(),
        3 => json!({"detail": text}).to_string(),
        4 => json!({"choices": [{"delta": {}, "message": {}, "finish_reason": text}]}).to_string(),
        // Escaped in a way that a search in the body would not find.
        _ => json!({"message": text}).to_string().replace('t', "\\u0074"),
    });
    let statuses = prop::sample::select(vec![
        200_u16, 302, 400, 401, 402, 403, 404, 408, 413, 418, 422, 429, 500, 503, 529,
    ]);
    (body, statuses, quotes(), 0..6_u8).prop_map(|(body, status, text, form)| match form {
        0..=2 => Script::json(status, &serde_json::from_str(&body).unwrap()),
        3 => Script::stream().event(&body).end(),
        4 => Script::stream().event(&delta("a")).chunk(format!("event: error\ndata: {body}\n\n")).end(),
        _ => Script::answer(status, &[("Content-Type", "text/plain"), ("Retry-After", KEY)], text),
    })
}

fn shows_nothing(error: &Error) {
    let shown = format!("{error} {error:?}");
    for at in 0..KEY.len() - 12 {
        assert!(!shown.contains(&KEY[at..at + 12]), "{shown}");
    }
}

#[test]
fn no_error_shows_the_key() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (server, backend) = runtime.block_on(async {
        let server = CloudServer::start().await.unwrap();
        let backend = OpenAiCompatible::new(options(&server.base_url())).unwrap();
        (server, backend)
    });
    let errors = std::cell::Cell::new(0);
    let mut runner = TestRunner::new_with_rng(
        Config { cases: 400, failure_persistence: None, ..Config::default() },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    runner
        .run(&scripts(), |script| {
            server.next(script);
            let outcome = runtime.block_on(async {
                match backend.generate(Box::new(request())).await {
                    Ok(stream) => drain(stream).await.map(drop).map_err(|(_, error)| error),
                    Err(error) => Err(error),
                }
            });
            if let Err(error) = outcome {
                shows_nothing(&error);
                errors.set(errors.get() + 1);
            }
            Ok(())
        })
        .unwrap();
    assert!(errors.get() > 300, "only {} errors", errors.get());
}

#[tokio::test]
async fn errors_without_the_key_keep_their_words() {
    let server = CloudServer::start().await.unwrap();
    let backend = OpenAiCompatible::new(options(&server.base_url())).unwrap();
    let body = json!({"error": {"message": "temperature is too high", "param": "temperature"}});
    server.next(Script::json(400, &body));
    let error = backend.generate(Box::new(request())).await.err().unwrap();
    assert!(error.message.ends_with("It says: temperature is too high"), "{error}");
    assert_eq!(error.param.as_deref(), Some("temperature"));
}

#[test]
fn debug_texts_hide_the_key() {
    let options = options("https://host.example/v1");
    let shown = format!("{options:?}");
    let backend = OpenAiCompatible::new(options).unwrap();
    let shown = format!("{shown} {backend:?}");
    assert!(shown.contains("cloud") && shown.contains("hidden"), "{shown}");
    assert!(!shown.contains("sk-test"), "{shown}");
}
