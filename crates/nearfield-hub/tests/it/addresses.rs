//! Files by address, from a server that misbehaves.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::time::{Duration, Instant};

use nearfield_hub::{Digest, HubError, PullOptions};
use nearfield_testkit::file_server::{Fault, FileServer, ServedFile};

use crate::support::{Fixture, model_bytes};

const LEN: usize = 200_000;
const PATH: &str = "/m.gguf";

/// A served model with an entity tag.
fn tagged(bytes: &[u8]) -> ServedFile {
    ServedFile::new(bytes.to_vec()).etag(&format!("\"{}\"", Digest::of(bytes)))
}

#[tokio::test]
async fn a_file_is_fetched_hashed_and_installed() {
    let fixture = Fixture::new().await;
    let bytes = model_bytes(LEN, 1);
    fixture.server.put(PATH, tagged(&bytes));
    let hub = fixture.hub();
    let url = fixture.server.url(PATH);
    let installed = fixture.pull(&hub, &url).await.unwrap();
    assert_eq!(std::fs::read(&installed.path).unwrap(), bytes);
    assert_eq!(installed.path.file_name().unwrap(), "m.gguf");
    let manifest = installed.manifest.unwrap();
    assert_eq!((manifest.name.as_str(), manifest.source.as_str()), (url.as_str(), url.as_str()));
    assert_eq!((manifest.files[0].sha256, manifest.files[0].bytes), (Digest::of(&bytes), LEN as u64));
    let seen = fixture.server.seen();
    assert_eq!(seen[0].header("accept-encoding"), Some("identity"));
    assert_eq!(fixture.progress.last().done, LEN as u64);
    assert_eq!(fixture.progress.last().total, Some(LEN as u64));
    // Here already: the server is not asked again.
    fixture.pull(&hub, &url).await.unwrap();
    assert_eq!(fixture.server.seen().len(), 1);
}

#[tokio::test]
async fn a_cut_download_continues_where_it_stopped() {
    let fixture = Fixture::new().await;
    let bytes = model_bytes(LEN, 2);
    let file = tagged(&bytes).fault(Fault::CutAfter(60_000)).fault(Fault::CutAfter(50_000));
    fixture.server.put(PATH, file);
    let installed = fixture.pull(&fixture.hub(), &fixture.server.url(PATH)).await.unwrap();
    assert_eq!(std::fs::read(installed.path).unwrap(), bytes);
    let expected = [None, Some("bytes=60000-".to_owned()), Some("bytes=110000-".to_owned())];
    assert_eq!(fixture.ranges(PATH), expected);
    let tag = format!("\"{}\"", Digest::of(&bytes));
    assert_eq!(fixture.server.seen()[1].header("if-range"), Some(tag.as_str()));
}

#[tokio::test]
async fn progress_lets_a_download_outlast_its_attempts_and_standstill_does_not() {
    let fixture = Fixture::new().await;
    let bytes = model_bytes(LEN, 3);
    let mut file = tagged(&bytes);
    for _ in 0..8 {
        file = file.fault(Fault::CutAfter(20_000));
    }
    fixture.server.put(PATH, file);
    fixture.pull(&fixture.hub(), &fixture.server.url(PATH)).await.unwrap();
    assert_eq!(fixture.server.seen().len(), 9);

    fixture.server.put("/never.gguf", tagged(&bytes).always(Fault::CutAfter(0)));
    let error = fixture.pull(&fixture.hub(), &fixture.server.url("/never.gguf")).await.unwrap_err();
    assert!(matches!(error, HubError::Network { unreachable: false, .. }), "{error:?}");
    assert_eq!(fixture.server.seen_at("/never.gguf").len(), 3);
}

#[tokio::test]
async fn without_validator_and_digest_a_cut_download_starts_over() {
    let fixture = Fixture::new().await;
    let bytes = model_bytes(LEN, 4);
    fixture.server.put(PATH, ServedFile::new(bytes.clone()).fault(Fault::CutAfter(60_000)));
    let installed = fixture.pull(&fixture.hub(), &fixture.server.url(PATH)).await.unwrap();
    assert_eq!(std::fs::read(installed.path).unwrap(), bytes);
    assert_eq!(fixture.ranges(PATH), [None, None]);
}

#[tokio::test]
async fn a_file_that_changed_between_two_pulls_is_fetched_whole() {
    let fixture = Fixture::new().await;
    let (old, new) = (model_bytes(LEN, 5), model_bytes(LEN, 6));
    let hub = fixture.hub_with(|settings| settings.attempts = 1);
    fixture.server.put(PATH, tagged(&old).always(Fault::CutAfter(60_000)));
    fixture.pull(&hub, &fixture.server.url(PATH)).await.unwrap_err();
    fixture.server.put(PATH, tagged(&new));
    let installed = fixture.pull(&hub, &fixture.server.url(PATH)).await.unwrap();
    assert_eq!(std::fs::read(installed.path).unwrap(), new);
    assert_eq!(fixture.ranges(PATH), [None, Some("bytes=60000-".to_owned())]);
}

#[tokio::test]
async fn a_server_that_ignores_or_mistakes_the_range_does_no_harm() {
    for fault in [Fault::IgnoreRange, Fault::WrongRange] {
        let fixture = Fixture::new().await;
        let bytes = model_bytes(LEN, 7);
        let name = format!("{fault:?}");
        fixture.server.put(PATH, tagged(&bytes).fault(Fault::CutAfter(60_000)).fault(fault));
        let installed = fixture.pull(&fixture.hub(), &fixture.server.url(PATH)).await.unwrap();
        assert!(std::fs::read(installed.path).unwrap() == bytes, "{name}");
    }
}

#[tokio::test]
async fn a_wrong_hash_is_an_error_and_nothing_stays() {
    let fixture = Fixture::new().await;
    let (bytes, other) = (model_bytes(LEN, 8), model_bytes(LEN, 9));
    fixture.server.put(PATH, tagged(&bytes));
    let hub = fixture.hub();
    let reference = format!("{}#sha256={}", fixture.server.url(PATH), Digest::of(&other));
    let error = fixture.pull(&hub, &reference).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, HubError::WrongHash { .. }), "{text}");
    assert!(text.contains(&Digest::of(&other).to_string()) && text.contains("discarded"), "{text}");
    assert_eq!(hub.find(&reference).unwrap(), None);
    assert!(fixture.files_ending(".part").is_empty());
    let inventory = hub.list().unwrap();
    assert!(inventory.installed.is_empty() && inventory.partial.is_empty());
    assert_eq!(fixture.server.seen().len(), 1);
}

#[tokio::test]
async fn pieces_that_do_not_make_up_the_file_are_fetched_anew_once() {
    let fixture = Fixture::new().await;
    let bytes = model_bytes(LEN, 10);
    let reference = format!("{}#sha256={}", fixture.server.url(PATH), Digest::of(&bytes));
    let hub = fixture.hub();
    fixture.server.put(PATH, tagged(&bytes).fault(Fault::CutAfter(60_000)).fault(Fault::Corrupt));
    let installed = fixture.pull(&hub, &reference).await.unwrap();
    assert_eq!(std::fs::read(installed.path).unwrap(), bytes);
    assert_eq!(fixture.ranges(PATH), [None, Some("bytes=60000-".to_owned()), None]);
    assert!(fixture.progress.messages()[0].contains("anew"), "{:?}", fixture.progress.messages());

    hub.remove(&reference).unwrap();
    let mut file = tagged(&bytes);
    for _ in 0..4 {
        file = file.fault(Fault::CutAfter(60_000)).fault(Fault::Corrupt);
    }
    fixture.server.put(PATH, file);
    let error = fixture.pull(&hub, &reference).await.unwrap_err();
    assert!(matches!(error, HubError::WrongHash { .. }), "{error}");
    assert_eq!(fixture.server.seen().len(), 3 + 4);
}

#[tokio::test]
async fn status_416_ends_a_whole_file_and_restarts_a_wrong_one() {
    let fixture = Fixture::new().await;
    let bytes = model_bytes(LEN, 11);
    let hub = fixture.hub_with(|settings| settings.attempts = 1);
    let patient = fixture.hub();
    for (path, extra) in [("/whole.gguf", 0), ("/longer.gguf", 1000)] {
        fixture.server.put(path, tagged(&bytes).fault(Fault::CutAfter(60_000)));
        fixture.pull(&hub, &fixture.server.url(path)).await.unwrap_err();
        // The rest came, and then the machine went down before the file was verified.
        let part = fixture.files_ending(".part").pop().unwrap();
        let mut part = OpenOptions::new().append(true).open(part).unwrap();
        part.write_all(&bytes[60_000..]).unwrap();
        part.write_all(&vec![0; extra]).unwrap();
        let installed = fixture.pull(&patient, &fixture.server.url(path)).await.unwrap();
        assert!(std::fs::read(installed.path).unwrap() == bytes, "{path}");
    }
    assert_eq!(fixture.ranges("/whole.gguf"), [None, Some("bytes=200000-".to_owned())]);
    assert_eq!(fixture.ranges("/longer.gguf"), [None, Some("bytes=201000-".to_owned()), None]);
}

#[tokio::test]
async fn retry_after_is_obeyed_up_to_a_limit() {
    let fixture = Fixture::new().await;
    let bytes = model_bytes(LEN, 12);
    let busy = |seconds| Fault::status(429, Some(("Retry-After", seconds)));
    fixture.server.put(PATH, tagged(&bytes).fault(busy("1")).fault(Fault::status(503, None)));
    let start = Instant::now();
    fixture.pull(&fixture.hub(), &fixture.server.url(PATH)).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(fixture.server.seen().len(), 3);

    fixture.server.put("/long.gguf", tagged(&bytes).always(busy("3600")));
    let start = Instant::now();
    let error = fixture.pull(&fixture.hub(), &fixture.server.url("/long.gguf")).await.unwrap_err();
    assert!(error.to_string().contains("wait 3600 s"), "{error}");
    assert!(matches!(error, HubError::RateLimited { .. }));
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn refusals_are_repeated_only_where_that_can_help() {
    let fixture = Fixture::new().await;
    for (status, attempts, hint) in
        [(503, 3, "later"), (500, 3, "later"), (404, 1, "check the name"), (403, 1, "credentials")]
    {
        let path = format!("/{status}.gguf");
        fixture.server.put(&path, ServedFile::default().always(Fault::status(status, None)));
        let error = fixture.pull(&fixture.hub(), &fixture.server.url(&path)).await.unwrap_err();
        assert!(matches!(error, HubError::Status { status: found, .. } if found == status), "{error:?}");
        assert!(error.to_string().contains(hint), "{error}");
        assert_eq!(fixture.server.seen_at(&path).len(), attempts, "{status}");
    }
}

#[tokio::test]
async fn silence_ends_and_slowness_does_not() {
    let fixture = Fixture::new().await;
    let bytes = model_bytes(LEN, 13);
    let slow = Fault::Slow { piece: 40_000, pause: Duration::from_millis(120) };
    fixture.server.put("/slow.gguf", tagged(&bytes).fault(slow));
    fixture.server.put("/stall.gguf", tagged(&bytes).fault(Fault::StallAfter(60_000)));
    fixture.server.put("/mute.gguf", tagged(&bytes).always(Fault::Silence));
    let hub = fixture.hub_with(|settings| settings.attempts = 2);
    // Longer altogether than the longest silence allowed.
    fixture.pull(&hub, &fixture.server.url("/slow.gguf")).await.unwrap();
    assert_eq!(fixture.server.seen_at("/slow.gguf").len(), 1);
    fixture.pull(&hub, &fixture.server.url("/stall.gguf")).await.unwrap();
    assert_eq!(fixture.ranges("/stall.gguf"), [None, Some("bytes=60000-".to_owned())]);
    let error = fixture.pull(&hub, &fixture.server.url("/mute.gguf")).await.unwrap_err();
    assert!(matches!(error, HubError::Stalled { .. }), "{error}");
}

#[tokio::test]
async fn redirects_are_followed_but_not_for_ever() {
    let fixture = Fixture::new().await;
    let other = FileServer::start().await.unwrap();
    let bytes = model_bytes(LEN, 14);
    fixture.server.put("/a.gguf", ServedFile::default().always(Fault::redirect("/b.gguf?signature=x")));
    fixture
        .server
        .put("/b.gguf?signature=x", ServedFile::default().always(Fault::redirect(&other.url("/c/whatever"))));
    other.put("/c/whatever", tagged(&bytes).fault(Fault::CutAfter(60_000)));
    let installed = fixture.pull(&fixture.hub(), &fixture.server.url("/a.gguf")).await.unwrap();
    assert_eq!(std::fs::read(&installed.path).unwrap(), bytes);
    assert_eq!(installed.path.file_name().unwrap(), "a.gguf");
    assert_eq!(other.seen_at("/c/whatever")[1].header("range"), Some("bytes=60000-"));

    fixture.server.put("/loop.gguf", ServedFile::default().always(Fault::redirect("/loop.gguf")));
    let error = fixture.pull(&fixture.hub(), &fixture.server.url("/loop.gguf")).await.unwrap_err();
    assert!(error.to_string().contains("redirects"), "{error}");
    fixture.server.put("/out.gguf", ServedFile::default().always(Fault::redirect("http://host.example/x")));
    let error = fixture.pull(&fixture.hub(), &fixture.server.url("/out.gguf")).await.unwrap_err();
    assert!(error.to_string().contains("refused to follow"), "{error}");
}

#[tokio::test]
async fn stated_lengths_must_be_true() {
    let fixture = Fixture::new().await;
    let bytes = model_bytes(LEN, 15);
    let digest = Digest::of(&bytes);
    let hub = fixture.hub();
    // Shorter than the file: what came is not the file.
    fixture.server.put("/short.gguf", tagged(&bytes).always(Fault::StateLength(LEN - 5)));
    let reference = format!("{}#sha256={digest}", fixture.server.url("/short.gguf"));
    let error = fixture.pull(&hub, &reference).await.unwrap_err();
    assert!(matches!(error, HubError::WrongHash { .. }), "{error}");
    // Longer than the file: a cut that does not end, until the server states the truth.
    fixture.server.put("/long.gguf", tagged(&bytes).fault(Fault::StateLength(LEN + 5)));
    let installed = fixture.pull(&hub, &fixture.server.url("/long.gguf")).await.unwrap();
    assert_eq!(std::fs::read(installed.path).unwrap(), bytes);
    fixture.server.put("/longer.gguf", tagged(&bytes).always(Fault::StateLength(LEN + 5)));
    fixture.pull(&hub, &fixture.server.url("/longer.gguf")).await.unwrap_err();
    assert_eq!(hub.find(&fixture.server.url("/longer.gguf")).unwrap(), None);
    // No length at all: a cut could not be told from the end.
    fixture.server.put("/none.gguf", tagged(&bytes).always(Fault::NoLength));
    let error = fixture.pull(&hub, &fixture.server.url("/none.gguf")).await.unwrap_err();
    assert!(error.to_string().contains("how long"), "{error}");
}

#[tokio::test]
async fn a_page_in_place_of_the_model_is_refused() {
    let fixture = Fixture::new().await;
    fixture.server.put(PATH, ServedFile::new("<html>please sign in</html>").content_type("text/html"));
    let error = fixture.pull(&fixture.hub(), &fixture.server.url(PATH)).await.unwrap_err();
    assert!(error.to_string().contains("not a GGUF file"), "{error}");
    assert!(fixture.files_ending(".part").is_empty());
}

#[tokio::test]
async fn a_split_model_comes_with_all_its_parts() {
    let fixture = Fixture::new().await;
    let names = ["s-00001-of-00002.gguf", "s-00002-of-00002.gguf"];
    for (seed, name) in names.iter().enumerate() {
        fixture.server.put(&format!("/x/{name}"), tagged(&model_bytes(50_000, seed as u64)));
    }
    let hub = fixture.hub();
    let url = fixture.server.url("/x/s-00002-of-00002.gguf");
    let installed = fixture.pull(&hub, &url).await.unwrap();
    assert_eq!(installed.bytes, 100_000);
    assert_eq!(installed.path.file_name().unwrap(), names[0]);
    for (seed, name) in names.iter().enumerate() {
        let path = installed.path.with_file_name(name);
        assert_eq!(std::fs::read(path).unwrap(), model_bytes(50_000, seed as u64));
    }
}

#[tokio::test]
async fn a_closed_port_is_told_soon() {
    let fixture = Fixture::new().await;
    let gone = FileServer::start().await.unwrap();
    let url = gone.url(PATH);
    drop(gone);
    tokio::task::yield_now().await;
    let start = Instant::now();
    let result = Box::pin(fixture.hub().pull(&url, PullOptions::default(), &fixture.progress)).await;
    let error = result.unwrap_err();
    assert!(matches!(error, HubError::Network { unreachable: true, .. }), "{error:?}");
    assert!(error.to_string().contains("cannot connect"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(2));
}
