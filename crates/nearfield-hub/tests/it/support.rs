//! What the tests share: a server with a hub in front of it, a progress that remembers, model files and wheels.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nearfield_hub::{Digest, Hub, HubError, HubSettings, Installed, Progress, PullOptions, Transfer};
use nearfield_testkit::file_server::{FileServer, ServedFile, Wheel};
use tempfile::TempDir;
use zip::write::SimpleFileOptions;

/// A folder of models and a server to fill it from.
pub(crate) struct Fixture {
    pub(crate) folder: TempDir,
    pub(crate) server: FileServer,
    pub(crate) progress: Recorder,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            server: FileServer::start().await.unwrap(),
            progress: Recorder::default(),
        }
    }

    /// Little patience, the server as hub and as package index, nothing of the machine's own settings.
    pub(crate) fn settings(&self) -> HubSettings {
        let mut settings = HubSettings::new().unwrap();
        settings.hugging_face_endpoint = self.server.url("/").parse().unwrap();
        settings.connect_timeout = Duration::from_secs(2);
        settings.idle_timeout = Duration::from_millis(400);
        settings.pip_idle_timeout = Duration::from_secs(20);
        settings.max_retry_after = Duration::from_secs(5);
        settings.attempts = 3;
        settings.retry_delay = Duration::from_millis(2);
        settings.python_environment = pip_environment(&self.server.url("/simple/"));
        settings
    }

    pub(crate) fn hub(&self) -> Hub {
        self.hub_with(|_| {})
    }

    pub(crate) fn hub_with(&self, change: impl FnOnce(&mut HubSettings)) -> Hub {
        let mut settings = self.settings();
        change(&mut settings);
        Hub::with_settings(self.folder.path().join("models"), settings).unwrap()
    }

    pub(crate) async fn pull(&self, hub: &Hub, model: &str) -> Result<Installed, HubError> {
        Box::pin(hub.pull(model, PullOptions::default(), &self.progress)).await
    }

    /// Every file of the models folder whose name ends like this.
    pub(crate) fn files_ending(&self, ending: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(&self.folder.path().join("models"), ending, &mut found);
        found
    }

    /// The `Range` headers of all requests for `path`, in order.
    pub(crate) fn ranges(&self, path: &str) -> Vec<Option<String>> {
        let range = |request: &nearfield_testkit::file_server::SeenRequest| {
            request.header("range").map(ToOwned::to_owned)
        };
        self.server.seen_at(path).iter().map(range).collect()
    }
}

fn collect(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, ending, found);
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
}

/// The environment of a pip that knows one index only, gives up at once, and reads no configuration.
pub(crate) fn pip_environment(index: &str) -> Vec<(std::ffi::OsString, Option<std::ffi::OsString>)> {
    let set = [
        ("PIP_INDEX_URL", index),
        ("PIP_CONFIG_FILE", if cfg!(windows) { "nul" } else { "/dev/null" }),
        ("PIP_RETRIES", "1"),
        ("PIP_DEFAULT_TIMEOUT", "5"),
    ];
    let unset = ["PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_CERT", "PIP_PROXY", "PIP_LOG"];
    let proxies = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];
    set.iter()
        .map(|(name, value)| ((*name).into(), Some((*value).into())))
        .chain(unset.iter().chain(&proxies).map(|name| ((*name).into(), None)))
        .collect()
}

/// Remembers what it is told.
#[derive(Debug, Default, Clone)]
pub(crate) struct Recorder {
    messages: Arc<Mutex<Vec<String>>>,
    last: Arc<Mutex<Option<Transfer>>>,
}

impl Recorder {
    pub(crate) fn messages(&self) -> Vec<String> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn last(&self) -> Transfer {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap()
    }
}

impl Progress for Recorder {
    fn update(&self, transfer: &Transfer) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(transfer.clone());
    }

    fn message(&self, text: &str) {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
    }
}

/// Bytes that begin as a GGUF file does and do not repeat; `seed` makes them differ.
pub(crate) fn model_bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = b"GGUF".to_vec();
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_be_bytes()[..4]);
    }
    bytes.truncate(len);
    bytes
}

/// A wheel with one file beside its metadata, on an index that states its true digest.
pub(crate) fn wheel(name: &str, version: &str, member: &str, content: &[u8]) -> Wheel {
    wheel_of(name, version, &[(member, content)])
}

/// A wheel with these files beside its metadata.
pub(crate) fn wheel_of(name: &str, version: &str, members: &[(&str, &[u8])]) -> Wheel {
    let bytes = wheel_bytes(name, version, members);
    let sha256 = Some(Digest::of(&bytes).to_string());
    Wheel { file_name: wheel_name(name, version), file: ServedFile::new(bytes), sha256 }
}

pub(crate) fn wheel_name(name: &str, version: &str) -> String {
    format!("{}-{version}-py3-none-any.whl", name.replace('-', "_"))
}

pub(crate) fn wheel_bytes(name: &str, version: &str, members: &[(&str, &[u8])]) -> Vec<u8> {
    let plain = name.replace('-', "_");
    let info = |file: &str| format!("{plain}-{version}.dist-info/{file}");
    let metadata = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n");
    let about = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let mut add = |path: &str, content: &[u8], options: SimpleFileOptions| {
        writer.start_file(path, options).unwrap();
        writer.write_all(content).unwrap();
    };
    let deflated = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    add(&format!("{plain}/__init__.py"), b"", stored);
    for (index, (path, content)) in members.iter().enumerate() {
        add(path, content, if index % 2 == 0 { deflated } else { stored });
    }
    add(&info("METADATA"), metadata.as_bytes(), stored);
    add(&info("WHEEL"), about.as_bytes(), stored);
    add(&info("RECORD"), b"", stored);
    writer.finish().unwrap().into_inner()
}

/// Whether pip can be run. Without it its tests are passed over, except in CI, where they must run.
pub(crate) fn pip_is_here() -> bool {
    let run = std::process::Command::new(HubSettings::new().unwrap().python)
        .args(["-m", "pip", "--version"])
        .output();
    let here = run.is_ok_and(|output| output.status.success());
    assert!(here || std::env::var_os("CI").is_none(), "python3 with pip is needed in CI");
    if !here {
        println!("skipped: there is no python3 with pip");
    }
    here
}
