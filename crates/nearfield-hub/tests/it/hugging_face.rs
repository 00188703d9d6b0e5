//! Repositories of the hub: revisions, shards, licences, refusals.

use std::fs;
use std::path::Path;

use nearfield_hub::{Digest, HubError, PullOptions, Secret};
use nearfield_testkit::file_server::{Fault, FileServer, ServedFile};
use serde_json::json;

use crate::support::{Fixture, model_bytes};

const TOKEN: &str = "hf_s3cretToken";

/// Offers a repository: its listing for `revision` and its files at a commit.
pub(crate) fn publish(
    server: &FileServer,
    repository: &str,
    revision: &str,
    commit: char,
    files: &[(&str, &[u8])],
) {
    let siblings: Vec<_> = files
        .iter()
        .map(|(path, bytes)| {
            let extension = Path::new(path).extension();
            let large = extension.is_some_and(|found| found == "gguf" || found == "safetensors");
            let lfs =
                large.then(|| json!({ "sha256": Digest::of(bytes), "size": bytes.len(), "pointerSize": 1 }));
            json!({ "rfilename": path, "size": bytes.len(), "blobId": "x", "lfs": lfs })
        })
        .collect();
    let commit = commit.to_string().repeat(40);
    let listing =
        json!({ "id": repository, "sha": commit, "siblings": siblings, "cardData": { "license": "mit" } });
    let address = format!("/api/models/{repository}/revision/{revision}?blobs=true");
    server.put(&address, ServedFile::new(listing.to_string()).content_type("application/json"));
    for (path, bytes) in files {
        let tag = format!("\"{}\"", Digest::of(bytes));
        server.put(
            &format!("/{repository}/resolve/{commit}/{path}"),
            ServedFile::new(bytes.to_vec()).etag(&tag),
        );
    }
}

#[tokio::test]
async fn a_file_of_a_repository_is_pinned_to_its_commit() {
    let fixture = Fixture::new().await;
    let (bytes, other) = (model_bytes(50_000, 1), model_bytes(40_000, 2));
    publish(&fixture.server, "org/name", "main", 'a', &[("q4.gguf", &bytes), ("q8.gguf", &other)]);
    publish(&fixture.server, "org/name", "v1.0", 'b', &[("q4.gguf", &other)]);
    let hub = fixture.hub();
    let installed = fixture.pull(&hub, "hf:org/name/q4.gguf").await.unwrap();
    assert_eq!(fs::read(&installed.path).unwrap(), bytes);
    let manifest = installed.manifest.unwrap();
    assert_eq!(manifest.revision.as_deref(), Some("a".repeat(40).as_str()));
    assert_eq!(manifest.license.unwrap().name, "mit");
    let installed = fixture.pull(&hub, "hf:org/name@v1.0/q4.gguf").await.unwrap();
    assert_eq!(fs::read(installed.path).unwrap(), other);
    assert_eq!(hub.list().unwrap().installed.len(), 2);
    // Two to choose from, and none chosen.
    let error = fixture.pull(&hub, "hf:org/name").await.unwrap_err();
    assert!(error.to_string().contains("q4.gguf, q8.gguf"), "{error}");
    let error = fixture.pull(&hub, "hf:org/name/q5.gguf").await.unwrap_err();
    assert!(error.to_string().contains("there are q4.gguf, q8.gguf"), "{error}");
}

#[tokio::test]
async fn sharded_safetensors_come_by_their_index() {
    let fixture = Fixture::new().await;
    let index = json!({ "weight_map": { "a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors" } })
        .to_string();
    let files: [(&str, &[u8]); 8] = [
        ("model.safetensors.index.json", index.as_bytes()),
        ("model-1.safetensors", b"one"),
        ("model-2.safetensors", b"two"),
        ("model-3.safetensors", b"not in the index"),
        ("config.json", b"{}"),
        ("tokenizer.json", b"{\"t\":1}"),
        ("README.md", b"words"),
        ("pytorch_model.bin", b"pickled"),
    ];
    publish(&fixture.server, "org/name", "main", 'a', &files);
    let installed = fixture.pull(&fixture.hub(), "hf:org/name").await.unwrap();
    assert!(installed.path.is_dir());
    let mut names: Vec<String> = fs::read_dir(&installed.path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected = [
        "config.json",
        "model-1.safetensors",
        "model-2.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ];
    assert_eq!(names, expected);
    assert_eq!(fs::read(installed.path.join("model-2.safetensors")).unwrap(), b"two");
}

#[tokio::test]
async fn names_that_leave_the_folder_are_refused() {
    for evil in [
        "../../evil.safetensors",
        "/tmp/evil.safetensors",
        "a/../../evil.safetensors",
        "C:\\evil.safetensors",
    ] {
        let fixture = Fixture::new().await;
        let index = json!({ "weight_map": { "a": evil } }).to_string();
        let files: [(&str, &[u8]); 3] =
            [("model.safetensors.index.json", index.as_bytes()), ("config.json", b"{}"), (evil, b"evil")];
        publish(&fixture.server, "org/name", "main", 'a', &files);
        let error = fixture.pull(&fixture.hub(), "hf:org/name").await.unwrap_err();
        assert!(error.to_string().contains("refused the file name"), "{evil}: {error}");
        assert!(fixture.files_ending("evil.safetensors").is_empty());
        assert!(!fixture.folder.path().join("evil.safetensors").exists());
        // Only the listing and the index were asked for.
        assert_eq!(fixture.server.seen().len(), 2, "{evil}");
    }
}

#[tokio::test]
async fn an_index_that_names_a_missing_shard_is_an_error() {
    let fixture = Fixture::new().await;
    let index = json!({ "weight_map": { "a": "model-1.safetensors" } }).to_string();
    let files: [(&str, &[u8]); 2] =
        [("model.safetensors.index.json", index.as_bytes()), ("config.json", b"{}")];
    publish(&fixture.server, "org/name", "main", 'a', &files);
    let error = fixture.pull(&fixture.hub(), "hf:org/name").await.unwrap_err();
    assert!(error.to_string().contains("`model-1.safetensors` is missing"), "{error}");
}

#[tokio::test]
async fn the_hub_s_length_and_digest_are_checked() {
    let fixture = Fixture::new().await;
    let bytes = model_bytes(50_000, 3);
    let path = format!("/org/name/resolve/{}/m.gguf", "a".repeat(40));
    publish(&fixture.server, "org/name", "main", 'a', &[("m.gguf", &bytes)]);
    fixture.server.put(&path, ServedFile::new(bytes.clone()).always(Fault::Corrupt));
    let error = fixture.pull(&fixture.hub(), "hf:org/name").await.unwrap_err();
    assert!(matches!(error, HubError::WrongHash { .. }), "{error}");
    for length in [49_000, 51_000] {
        fixture.server.put(&path, ServedFile::new(model_bytes(length, 3)));
        let error = fixture.pull(&fixture.hub(), "hf:org/name").await.unwrap_err();
        assert!(matches!(error, HubError::WrongLength { expected: 50_000, .. }), "{error}");
    }
    assert!(fixture.files_ending(".part").is_empty());
}

#[tokio::test]
async fn refusals_of_the_hub_are_said_in_words() {
    let fixture = Fixture::new().await;
    let answer = |status: u16, code: &str| Fault::status(status, Some(("X-Error-Code", code)));
    let listing = |name: &str| format!("/api/models/org/{name}/revision/main?blobs=true");
    let bytes = model_bytes(1000, 4);
    publish(&fixture.server, "org/gated", "main", 'a', &[("m.gguf", &bytes)]);
    let gated = format!("/org/gated/resolve/{}/m.gguf", "a".repeat(40));
    fixture.server.put(&gated, ServedFile::default().always(answer(403, "GatedRepo")));
    let put = |name: &str, fault: Fault| {
        fixture.server.put(&listing(name), ServedFile::default().always(fault));
    };
    put("gone", answer(401, "RepoNotFound"));
    put("norev", answer(404, "RevisionNotFound"));
    put("denied", Fault::status(403, None));
    put("private", Fault::status(401, None));
    let open = fixture.hub();
    let signed = fixture.hub_with(|settings| settings.hugging_face_token = Some(Secret::new(TOKEN)));
    let page = fixture.server.url("/org/gated");
    for (name, hub, parts) in [
        ("gated", &open, vec!["accept it at", page.as_str(), "set HF_TOKEN"]),
        ("gated", &signed, vec!["account of your HF_TOKEN", page.as_str()]),
        ("gone", &open, vec!["does not exist or is private", "set HF_TOKEN"]),
        ("norev", &open, vec!["no revision `main`"]),
        ("denied", &open, vec!["accept its licence", "HF_TOKEN"]),
        ("private", &signed, vec!["HF_TOKEN is not valid"]),
    ] {
        let error = fixture.pull(hub, &format!("hf:org/{name}")).await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(parts.iter().all(|part| text.contains(part)), "{name}: {text}");
        assert!(!text.contains(TOKEN), "{text}");
        assert_eq!(matches!(error, HubError::Gated { .. }), name == "gated");
    }
}

#[tokio::test]
async fn answers_that_make_no_sense_are_errors() {
    let fixture = Fixture::new().await;
    let address = "/api/models/org/name/revision/main?blobs=true";
    for body in ["", "[]", "{\"sha\":\"main\"}", "{\"sha\":17}", "<html>"] {
        fixture.server.put(address, ServedFile::new(body));
        let error = fixture.pull(&fixture.hub(), "hf:org/name").await.unwrap_err();
        assert!(matches!(error, HubError::BadResponse { .. }), "{body}: {error}");
    }
}

#[tokio::test]
async fn a_refresh_fetches_what_changed_and_keeps_the_rest() {
    let fixture = Fixture::new().await;
    let tensors = model_bytes(50_000, 5);
    let files =
        |config: &'static [u8]| [("model.safetensors", tensors.clone()), ("config.json", config.to_vec())];
    let put = |commit: char, config: &'static [u8]| {
        let files = files(config);
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        publish(&fixture.server, "org/name", "main", commit, &files);
    };
    let hub = fixture.hub();
    put('a', b"{}");
    let first = fixture.pull(&hub, "hf:org/name").await.unwrap();
    put('b', b"{\"new\":1}");
    assert_eq!(fixture.pull(&hub, "hf:org/name").await.unwrap(), first);
    let refresh = PullOptions::default().refresh(true);
    let second = Box::pin(hub.pull("hf:org/name", refresh, &fixture.progress)).await.unwrap();
    assert_eq!(fs::read(second.path.join("config.json")).unwrap(), b"{\"new\":1}");
    assert_eq!(fs::read(second.path.join("model.safetensors")).unwrap(), tensors);
    let moved = format!("/org/name/resolve/{}/model.safetensors", "b".repeat(40));
    assert!(fixture.server.seen_at(&moved).is_empty());
    assert!(!first.path.exists(), "the old revision is removed");
    // Nothing new: the same content is installed again.
    let third = Box::pin(hub.pull("hf:org/name", refresh, &fixture.progress)).await.unwrap();
    assert_eq!(fs::read(third.path.join("model.safetensors")).unwrap(), tensors);
    assert_eq!(fixture.files_ending("model.safetensors").len(), 1);
}
