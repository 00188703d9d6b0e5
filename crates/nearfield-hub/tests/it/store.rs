//! The store itself: one pull at a time, all or nothing, what stays and what goes.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nearfield_hub::{Digest, HubError, PullOptions};
use nearfield_testkit::file_server::{Fault, ServedFile};

use crate::support::{Fixture, Recorder, model_bytes};

const PATH: &str = "/m.gguf";
const LEN: usize = 100_000;

fn served(seed: u64) -> ServedFile {
    let bytes = model_bytes(LEN, seed);
    let tag = format!("\"{}\"", Digest::of(&bytes));
    ServedFile::new(bytes).etag(&tag)
}

fn slow() -> Fault {
    Fault::Slow { piece: 20_000, pause: Duration::from_millis(150) }
}

#[tokio::test]
async fn a_second_pull_waits_for_the_first_and_finds_its_work_done() {
    let fixture = Fixture::new().await;
    fixture.server.put(PATH, served(1).fault(slow()));
    let (hub, url) = (fixture.hub(), fixture.server.url(PATH));
    let others = fixture.hub();
    let second = Recorder::default();
    let late = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        // Meanwhile the model is not there, cannot be removed, and who does not want to wait is told.
        assert_eq!(others.find(&url).unwrap(), None);
        assert!(matches!(others.remove(&url), Err(HubError::Busy { .. })));
        let options = PullOptions::default().fail_if_busy(true);
        let busy = Box::pin(others.pull(&url, options, &second)).await;
        assert!(matches!(busy, Err(HubError::Busy { .. })));
        Box::pin(others.pull(&url, PullOptions::default(), &second)).await
    };
    let (first, late) = tokio::join!(fixture.pull(&hub, &url), late);
    assert_eq!(first.unwrap(), late.unwrap());
    assert_eq!(fixture.server.seen().len(), 1);
    assert!(second.messages()[0].contains("another process is pulling"), "{:?}", second.messages());
    assert_eq!(second.messages().len(), 1);
}

#[tokio::test]
async fn a_cancelled_pull_keeps_what_came_and_the_next_continues() {
    let fixture = Fixture::new().await;
    let bytes = model_bytes(LEN, 2);
    fixture.server.put(PATH, served(2).fault(Fault::StallAfter(40_000)));
    let hub = fixture.hub_with(|settings| settings.idle_timeout = Duration::from_millis(250));
    let url = fixture.server.url(PATH);
    // The stall makes what came so far reach the disk; the pull is dropped while it pauses before the next attempt.
    let hasty = fixture.hub_with(|settings| {
        settings.idle_timeout = Duration::from_millis(250);
        settings.retry_delay = Duration::from_mins(1);
    });
    let cancelled = tokio::time::timeout(Duration::from_millis(900), fixture.pull(&hasty, &url)).await;
    assert!(cancelled.is_err());
    assert_eq!(hub.find(&url).unwrap(), None);
    let inventory = hub.list().unwrap();
    assert!(inventory.installed.is_empty());
    assert!(inventory.partial[0].bytes >= 40_000, "{inventory:?}");
    let installed = fixture.pull(&hub, &url).await.unwrap();
    assert_eq!(fs::read(installed.path).unwrap(), bytes);
    assert_eq!(fixture.ranges(PATH), [None, Some("bytes=40000-".to_owned())]);
    assert!(hub.list().unwrap().partial.is_empty());
}

#[tokio::test]
async fn without_its_manifest_a_model_is_not_installed() {
    let fixture = Fixture::new().await;
    fixture.server.put(PATH, served(3));
    let (hub, url) = (fixture.hub(), fixture.server.url(PATH));
    let installed = fixture.pull(&hub, &url).await.unwrap();
    let manifest = fixture.files_ending("manifest.json").pop().unwrap();
    let text = fs::read(&manifest).unwrap();
    fs::remove_file(&manifest).unwrap();
    assert_eq!(hub.find(&url).unwrap(), None);
    assert!(hub.list().unwrap().installed.is_empty());
    assert!(installed.path.exists());
    assert_eq!(fixture.pull(&hub, &url).await.unwrap().bytes, LEN as u64);
    // A manifest that cannot be used is told, listed, and cured by a pull.
    fs::write(&manifest, &text[..text.len() / 2]).unwrap();
    assert!(matches!(hub.find(&url), Err(HubError::Manifest { .. })));
    assert_eq!(hub.list().unwrap().damaged.len(), 1);
    fixture.pull(&hub, &url).await.unwrap();
    assert!(hub.find(&url).unwrap().is_some());
    assert_eq!(fixture.files_ending(".gguf").len(), 1);
}

#[tokio::test]
async fn removing_frees_the_space_and_says_so() {
    let fixture = Fixture::new().await;
    fixture.server.put(PATH, served(4));
    let (hub, url) = (fixture.hub(), fixture.server.url(PATH));
    assert!(matches!(hub.remove(&url), Err(HubError::NotInstalled { .. })));
    fixture.pull(&hub, &url).await.unwrap();
    assert!(hub.remove(&url).unwrap() >= LEN as u64);
    assert_eq!(hub.find(&url).unwrap(), None);
    assert!(fixture.files_ending(".gguf").is_empty());
    let error = hub.remove(&url).unwrap_err();
    assert!(error.to_string().contains("not on this machine"), "{error}");
    // What an interrupted pull left goes too.
    fixture.server.put(PATH, served(4).always(Fault::CutAfter(1000)));
    let hasty = fixture.hub_with(|settings| settings.attempts = 1);
    fixture.pull(&hasty, &url).await.unwrap_err();
    assert_eq!(hub.list().unwrap().partial.len(), 1);
    assert!(hub.remove(&url).unwrap() >= 1000);
    assert!(hub.list().unwrap().partial.is_empty());
    // Files outside the store are their owner's.
    let own = fixture.folder.path().join("own.gguf");
    fs::write(&own, b"GGUF").unwrap();
    assert!(hub.remove(&own.to_string_lossy()).unwrap_err().to_string().contains("only pulled models"));
    assert!(own.exists());
}

#[tokio::test]
async fn verifying_finds_what_the_disk_lost() {
    let fixture = Fixture::new().await;
    fixture.server.put(PATH, served(5));
    let (hub, url) = (fixture.hub(), fixture.server.url(PATH));
    assert!(matches!(hub.verify(&url), Err(HubError::NotInstalled { .. })));
    let path = fixture.pull(&hub, &url).await.unwrap().path;
    hub.verify(&url).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[50_000] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = hub.verify(&url).unwrap_err();
    assert!(matches!(error, HubError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("nearfield rm "), "{error}");
    assert!(path.exists());
    // A refresh does not take the damaged file for the good one.
    Box::pin(hub.pull(&url, PullOptions::default().refresh(true), &fixture.progress)).await.unwrap();
    let path = hub.verify(&url).unwrap().path;
    // Another length is seen without hashing; a pull repairs it.
    fs::write(&path, b"GGUF").unwrap();
    assert!(hub.find(&url).unwrap_err().to_string().contains("4 bytes"));
    fixture.pull(&hub, &url).await.unwrap();
    let path = hub.verify(&url).unwrap().path;
    fs::remove_file(path).unwrap();
    assert!(hub.verify(&url).unwrap_err().to_string().contains("missing"));
    fixture.pull(&hub, &url).await.unwrap();
    hub.verify(&url).unwrap();
}

#[tokio::test]
async fn a_full_disk_is_noticed_before_it_is_filled() {
    let fixture = Fixture::new().await;
    fixture.server.put(PATH, served(6));
    let free = Arc::new(AtomicU64::new(64 << 20));
    let asked = Arc::clone(&free);
    let hub = fixture.hub_with(|settings| {
        settings.free_space = Arc::new(move |_| Ok(asked.load(Ordering::Relaxed)));
    });
    let url = fixture.server.url(PATH);
    let error = fixture.pull(&hub, &url).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, HubError::DiskFull { .. }), "{text}");
    assert!(text.contains("67.1 MB are free") && text.contains("NEARFIELD_DATA_DIR"), "{text}");
    assert_eq!(fs::metadata(fixture.files_ending(".part").pop().unwrap()).unwrap().len(), 0);
    free.store(65 << 20, Ordering::Relaxed);
    fixture.pull(&hub, &url).await.unwrap();
    // pip is not even started.
    free.store(0, Ordering::Relaxed);
    let error = fixture.pull(&hub, "pypi:tiny-model").await.unwrap_err();
    assert!(matches!(error, HubError::DiskFull { .. }), "{error}");
}

#[tokio::test]
async fn unknown_names_bring_suggestions_from_catalogue_and_store() {
    let fixture = Fixture::new().await;
    let hub = fixture.hub();
    let error = fixture.pull(&hub, "smolm2:135m").await.unwrap_err();
    assert!(error.to_string().contains("did you mean `smollm2:135m`"), "{error}");
    assert!(fixture.server.seen().is_empty());
    let description = hub.show("smollm2:135m").unwrap();
    assert_eq!(description.entry.unwrap().bytes, 98_362_432);
    assert_eq!(description.installed, None);
}
