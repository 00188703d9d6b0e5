//! Two Nearfields, of which one is the other's cloud. What every backend promises is asked in `conformance`.

use std::sync::Arc;

use futures_util::StreamExt as _;
use nearfield_api::{Backend, Event, Prompt, Request};
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

pub(crate) fn cloud(server: &Running) -> Arc<OpenAiCompatible> {
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

/// The text of the answer.
async fn answer(backend: &dyn Backend, request: Request) -> String {
    let mut events = backend.generate(Box::new(request)).await.unwrap();
    let mut all = String::new();
    while let Some(event) = events.next().await {
        if let Event::Delta { text, .. } = event.unwrap() {
            all += &text;
        }
    }
    all
}

#[tokio::test]
async fn a_cloud_samples_as_the_local_engine_does() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny::write(folder.path(), "tiny", INSTRUCT).display().to_string();
    let local = local(&folder);
    let here = answer(&*local, request(&model)).await;
    assert_eq!(here.len(), 10);
    let server = Setup::local(local).start().await;
    let cloud = cloud(&server);
    for stream in [false, true] {
        assert_eq!(answer(&*cloud, Request { stream, ..request(&model) }).await, here);
    }
    let mut other = request(&model);
    other.sampling.seed = Some(8);
    assert_ne!(answer(&*cloud, other).await, here, "the seed is lost on the way");
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
