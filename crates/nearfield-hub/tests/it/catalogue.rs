//! Catalogue models: the sources in order, the same digest for all.

use std::time::{Duration, Instant};

use nearfield_hub::{Catalogue, Digest, Hub, HubError};
use nearfield_testkit::file_server::{Fault, FileServer, ServedFile};

use crate::hugging_face::publish;
use crate::support::{Fixture, model_bytes};

const MODEL: &str = "tiny:1m";

/// A catalogue of one model with the hub first and an address second.
fn catalogue(bytes: &[u8], second: &str) -> Catalogue {
    Catalogue::from_toml(&format!(
        r#"[[model]]
        name = "{MODEL}"
        title = "Tiny"
        architecture = "llama"
        parameters = 1
        quantization = "F16"
        context = 512
        chat = false
        license = {{ name = "MIT" }}
        file = "tiny.gguf"
        bytes = {}
        sha256 = "{}"
        sources = ["hf:org/name/other-name.gguf", "{second}"]"#,
        bytes.len(),
        Digest::of(bytes)
    ))
    .unwrap()
}

/// The second source, on a server of its own.
async fn mirror(bytes: &[u8]) -> FileServer {
    let server = FileServer::start().await.unwrap();
    server.put("/tiny.gguf", ServedFile::new(bytes.to_vec()));
    server
}

fn hub(fixture: &Fixture, bytes: &[u8], second: &str) -> Hub {
    fixture.hub_with(|settings| settings.catalogue = catalogue(bytes, second))
}

#[tokio::test]
async fn the_hub_comes_first_and_the_file_has_the_catalogue_s_name() {
    let fixture = Fixture::new().await;
    let bytes = model_bytes(50_000, 1);
    let mirror = mirror(&bytes).await;
    publish(&fixture.server, "org/name", "main", 'a', &[("other-name.gguf", &bytes)]);
    let hub = hub(&fixture, &bytes, &mirror.url("/tiny.gguf"));
    let installed = fixture.pull(&hub, "TINY:1m").await.unwrap();
    assert_eq!(installed.name, MODEL);
    assert_eq!(installed.path.file_name().unwrap(), "tiny.gguf");
    let manifest = installed.manifest.clone().unwrap();
    assert_eq!(manifest.source, "hf:org/name/other-name.gguf");
    assert_eq!(manifest.license.unwrap().name, "MIT");
    assert!(mirror.seen().is_empty());
    assert!(fixture.progress.messages().is_empty());
    // The same model by its source: here already.
    assert_eq!(hub.find("hf:org/name/other-name.gguf").unwrap(), Some(installed.clone()));
    assert_eq!(fixture.pull(&hub, "hf:org/name/other-name.gguf").await.unwrap(), installed);
}

#[tokio::test]
async fn a_hub_that_cannot_be_reached_is_given_up_at_once_and_said_in_one_line() {
    let fixture = Fixture::new().await;
    let bytes = model_bytes(50_000, 2);
    let mirror = mirror(&bytes).await;
    let gone = FileServer::start().await.unwrap().url("/");
    // Names below `.invalid` are never resolved (RFC 2606).
    for endpoint in [gone.as_str(), "https://hub.invalid/"] {
        let hub = fixture.hub_with(|settings| {
            settings.catalogue = catalogue(&bytes, &mirror.url("/tiny.gguf"));
            settings.hugging_face_endpoint = endpoint.parse().unwrap();
            settings.attempts = 5;
            settings.retry_delay = Duration::from_secs(1);
        });
        let before = fixture.progress.messages().len();
        let start = Instant::now();
        let installed = fixture.pull(&hub, MODEL).await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        assert_eq!(std::fs::read(installed.path).unwrap(), bytes);
        let messages = fixture.progress.messages();
        assert_eq!(messages.len(), before + 1, "{messages:?}");
        let line = messages.last().unwrap();
        assert!(line.contains("cannot connect") && line.contains("; trying http://127.0.0.1"), "{line}");
        hub.remove(MODEL).unwrap();
    }
}

#[tokio::test]
async fn a_hub_that_is_silent_refuses_or_has_another_file_is_passed_over() {
    let bytes = model_bytes(50_000, 3);
    let mirror = mirror(&bytes).await;
    let listing = "/api/models/org/name/revision/main?blobs=true";
    for (fault, requests) in
        [(Fault::Silence, 1), (Fault::status(503, None), 2), (Fault::status(404, None), 1)]
    {
        let fixture = Fixture::new().await;
        fixture.server.put(listing, ServedFile::default().always(fault.clone()));
        let hub = hub(&fixture, &bytes, &mirror.url("/tiny.gguf"));
        fixture.pull(&hub, MODEL).await.unwrap();
        assert_eq!(fixture.server.seen().len(), requests, "{fault:?}");
        assert_eq!(fixture.progress.messages().len(), 1);
    }
    for other in [model_bytes(50_000, 4), model_bytes(49_000, 3)] {
        let fixture = Fixture::new().await;
        publish(&fixture.server, "org/name", "main", 'a', &[("other-name.gguf", &other)]);
        let hub = hub(&fixture, &bytes, &mirror.url("/tiny.gguf"));
        let installed = fixture.pull(&hub, MODEL).await.unwrap();
        assert_eq!(std::fs::read(installed.path).unwrap(), bytes);
        assert_eq!(fixture.server.seen().len(), 1, "the listing alone tells that it is another file");
    }
}

#[tokio::test]
async fn when_all_sources_fail_each_is_named_with_its_reason() {
    let fixture = Fixture::new().await;
    let bytes = model_bytes(50_000, 5);
    let mirror = mirror(&model_bytes(50_000, 6)).await;
    let hub = hub(&fixture, &bytes, &mirror.url("/tiny.gguf"));
    let error = fixture.pull(&hub, MODEL).await.unwrap_err();
    let HubError::AllSourcesFailed { attempts, .. } = &error else { panic!("{error}") };
    assert!(matches!(attempts[0].1, HubError::Status { status: 404, .. }));
    assert!(matches!(attempts[1].1, HubError::WrongHash { .. }));
    let text = error.to_string();
    assert!(
        text.contains("hf:org/name/other-name.gguf: ") && text.contains(&mirror.url("/tiny.gguf")),
        "{text}"
    );
    assert_eq!(hub.find(MODEL).unwrap(), None);
}
