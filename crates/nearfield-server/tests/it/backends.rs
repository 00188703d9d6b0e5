//! What every backend promises, asked of each kind: the local engine, and a cloud that speaks OpenAI's dialect, which
//! here is another Nearfield.

use std::sync::Arc;

use futures_util::StreamExt as _;
use nearfield_api::{Backend, ErrorKind, Event, FinishReason, Prompt, Request};
use nearfield_engine::EngineOptions;
use nearfield_hub::{Hub, HubSettings};
use nearfield_providers::{OpenAiCompatible, OpenAiCompatibleOptions, Secret};
use nearfield_router::PolicyMode;
use nearfield_server::local::{LocalBackend, LocalOptions};
use nearfield_store::Outcome;
use serde_json::json;
use tempfile::TempDir;

use crate::support::{self, KEY, Running, Setup};
use crate::tiny::{self, INSTRUCT};

fn local(folder: &TempDir) -> Arc<LocalBackend> {
    let hub = Hub::with_settings(folder.path().join("models"), HubSettings::new().unwrap()).unwrap();
    let engine =
        EngineOptions { threads: Some(1), slots: 4, cache_bytes: Some(4 << 20), ..EngineOptions::default() };
    Arc::new(LocalBackend::new(hub, LocalOptions { engine, allow_paths: true, ..LocalOptions::default() }))
}

fn cloud(server: &Running) -> Arc<OpenAiCompatible> {
    let mut options = OpenAiCompatibleOptions::new("far", server.base_url.as_str());
    options.key = Some(Secret::new(KEY));
    options.allow_plaintext = true;
    Arc::new(OpenAiCompatible::new(options).unwrap())
}

fn request(model: &str) -> Request {
    let mut request = support::request();
    model.clone_into(&mut request.model);
    request.prompt = Prompt::Text { text: "abc".to_owned(), suffix: None };
    request.max_tokens = Some(10);
    request.sampling.seed = Some(7);
    request.sampling.temperature = Some(1.0);
    // No control tokens, and characters of one byte.
    request.sampling.logit_bias = (0..8).chain(104..188).map(|id| (id, -100.0)).collect();
    request
}

/// The events of an answer: whole, in order, and its text by choice.
async fn answer(backend: &dyn Backend, request: Request) -> (Vec<String>, Vec<FinishReason>, u64) {
    let choices = request.choices as usize;
    let (mut texts, mut reasons) = (vec![String::new(); choices], vec![None; choices]);
    let mut events = backend.generate(Box::new(request)).await.unwrap();
    let first = events.next().await.unwrap().unwrap();
    assert!(matches!(first, Event::Started { .. }), "{first:?}");
    let usage = loop {
        match events.next().await.expect("cut").unwrap() {
            Event::Delta { choice, text, .. } => {
                assert_eq!(reasons[choice as usize], None, "text after the end of a choice");
                texts[choice as usize] += &text;
            }
            Event::Finished { choice, reason } => {
                assert_eq!(reasons[choice as usize].replace(reason), None, "ended twice");
            }
            Event::Done { usage, .. } => break usage,
            other => panic!("{other:?}"),
        }
    };
    assert!(events.next().await.is_none(), "something after the end");
    assert!(usage.measured && usage.prompt_tokens() == 3, "{usage:?}");
    (texts, reasons.into_iter().map(Option::unwrap).collect(), usage.completion_tokens())
}

/// The promises. The result is the same answer, in all its forms, for comparison.
async fn keeps_its_promises(backend: &dyn Backend, model: &str) -> Vec<String> {
    let (texts, reasons, tokens) = answer(backend, request(model)).await;
    assert_eq!((texts[0].len(), &reasons[..], tokens), (10, &[FinishReason::Length][..], 10));
    let mut all = texts.clone();

    let streamed = Request { stream: true, ..request(model) };
    assert_eq!(answer(backend, streamed).await.0, texts, "a stream says the same");

    let stop = texts[0][4..6].to_owned();
    let expected = &texts[0][..texts[0].find(&stop).unwrap()];
    let (stopped, reasons, _) = answer(backend, Request { stop: vec![stop], ..request(model) }).await;
    assert_eq!((stopped[0].as_str(), &reasons[..]), (expected, &[FinishReason::Stop][..]));

    let (several, _, tokens) = answer(backend, Request { choices: 3, ..request(model) }).await;
    assert_eq!((several.len(), tokens), (3, 30));
    all.extend(several);

    let refused = async |request: Request| match backend.generate(Box::new(request)).await {
        Err(error) => error,
        Ok(mut events) => loop {
            if let Err(error) = events.next().await.expect("no error") {
                break error;
            }
        },
    };
    let error = refused(request("/no/such/model")).await;
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    let long = Prompt::Text { text: "a".repeat(600), suffix: None };
    let error = refused(Request { prompt: long, ..request(model) }).await;
    assert_eq!(error.kind, ErrorKind::ContextLength, "{error}");
    all
}

#[tokio::test]
async fn the_local_engine_and_a_cloud_stand_in_for_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny::write(folder.path(), "tiny", INSTRUCT).display().to_string();
    let local = local(&folder);
    let here = keeps_its_promises(&*local, &model).await;
    let server = Setup::local(local).start().await;
    let there = keeps_its_promises(&*cloud(&server), &model).await;
    assert_eq!(here, there);
}

#[tokio::test]
async fn a_cancelled_answer_ends_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny::write(folder.path(), "tiny", INSTRUCT).display().to_string();
    let far = Setup::local(local(&folder)).start().await;
    let near = Setup::new(PolicyMode::CloudOnly, vec![cloud(&far)]).start().await;
    let bias: serde_json::Map<_, _> = (0..8).map(|id| (id.to_string(), json!(-100))).collect();
    let body =
        json!({ "model": model, "prompt": "abc", "max_tokens": 480, "stream": true, "logit_bias": bias });
    let mut client = near.connect().await;
    client.send("POST", "/v1/completions", &body.to_string()).await;
    assert_eq!(client.head().await.status, 200);
    client.chunk().await.unwrap();
    drop(client);
    // The tiny model is quick: it may have ended before the news came, but never without a row on either side.
    for server in [&near, &far] {
        let rows = server.ended_rows(1).await;
        assert_eq!(rows.len(), 1);
        assert!(matches!(rows[0].outcome, Some(Outcome::Cancelled | Outcome::Done)), "{:?}", rows[0]);
    }
}

#[tokio::test]
async fn a_request_that_spills_is_one_row_here_and_one_there() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny::write(folder.path(), "tiny", INSTRUCT).display().to_string();
    let far = Setup::local(local(&folder)).start().await;
    let empty = tempfile::tempdir().unwrap();
    let hub = Hub::with_settings(empty.path().join("models"), HubSettings::new().unwrap()).unwrap();
    let here = Arc::new(LocalBackend::new(hub, LocalOptions::default()));
    let backends: Vec<Arc<dyn Backend>> = vec![here, cloud(&far)];
    let near = Setup::new(PolicyMode::PreferLocal, backends).start().await;
    let messages = json!([{ "role": "user", "content": "Hello" }]);
    let body = json!({ "model": model, "messages": messages, "max_tokens": 5 });
    let reply = near.post("/v1/chat/completions", &body).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let reason = Some("prefer-local: the model is not installed here");
    assert_eq!(
        (reply.header("x-nearfield-locality"), reply.header("x-nearfield-reason")),
        (Some("cloud"), reason)
    );
    let ours = &reply.json()["nearfield"];
    assert_eq!((&ours["backend"], &ours["numerics"]), (&json!("far"), &json!(null)));
    let (row, there) = (near.ended_rows(1).await.remove(0), far.ended_rows(1).await.remove(0));
    assert_eq!(row.attempts.len(), 2);
    assert_eq!((row.attempts[0].bytes_out, row.attempts[1].bytes_out), (0, 5));
    assert_eq!((there.locality.as_deref(), there.usage), (Some("local"), row.usage));
}
