//! Panics in the middle of requests that hold markers: in a process of its own that logs all it can, since what a panic
//! says goes to the whole process's standard error.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use nearfield_api::{Backend, Error, Event, EventStream, Locality, ModelInfo, Request};
use nearfield_privacy::HashKey;
use nearfield_router::Policy;
use nearfield_router::rules::Rules;
use nearfield_server::gateway::{CacheDomains, ConfiguredBackend, Gateway, GatewayOptions};
use nearfield_server::http::{Server, ServerOptions, Shutdown};
use nearfield_server::keys::{Authenticator, KeyStore};
use nearfield_store::{DEFAULT_REFERENCE, Filter, Ledger, Outcome, Prices, Tariff};
use serde_json::{Value, json};

use crate::logging::{self, Level};

const INBOUND_KEY: &str = "canaryInboundKey4cZ1";
const PROVIDER_KEY: &str = "canaryProviderKey9xQ2";
const PROMPT: &str = "canaryPromptText7wL3";
const TOOL_RESULT: &str = "canaryToolResult2mB4";
const MASKED: &str = "canary.masked.5rT8@example-clinic.org";
const ANSWER: &str = "canaryAnswer1kP6";
const MODEL: &str = "canaryModelName3vD5";

const NOWHERE: [&str; 6] = [INBOUND_KEY, PROVIDER_KEY, PROMPT, TOOL_RESULT, MASKED, ANSWER];
/// Tells the process with the faults where to work.
const FOLDER: &str = "NEARFIELD_TEST_PANICS";
const RULES: &str = r#"{
    "key": { "env": { "class": "internal" } },
    "rule": [{ "name": "masked", "when": { "class": ["internal", "personal"] },
               "backends": ["away", "here"], "mask": ["personal"] }]
}"#;

/// A backend that panics with all that it knows.
struct Faulty {
    name: &'static str,
    locality: Locality,
}

type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl Backend for Faulty {
    fn name(&self) -> &str {
        self.name
    }

    fn locality(&self) -> Locality {
        self.locality
    }

    fn is_engine(&self) -> bool {
        self.locality == Locality::Local
    }

    fn models<'own, 'later>(&'own self) -> Later<'later, Result<Vec<ModelInfo>, Error>>
    where
        'own: 'later,
        Self: 'later,
    {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn generate<'own, 'later>(&'own self, request: Box<Request>) -> Later<'later, Result<EventStream, Error>>
    where
        'own: 'later,
        Self: 'later,
    {
        Box::pin(async move {
            let known = format!("{PROVIDER_KEY} {:?}", request.prompt);
            assert_eq!(known.contains(MASKED), self.locality == Locality::Local);
            assert!(known.contains(PROMPT) && known.contains(TOOL_RESULT));
            match request.max_tokens {
                Some(1) => panic!("cannot go on with {known}"),
                // Quotes the text, as the standard library does.
                Some(2) => drop(known[..known.len() + 9].to_owned()),
                _ => {}
            }
            let text = format!("{known} {ANSWER}");
            let begun = [
                Event::Started { model: "m".to_owned(), engine: None },
                Event::Delta { choice: 0, text: text.clone(), logprobs: Vec::new() },
            ];
            let fault = futures_util::stream::once(async move {
                // The beginning is on its way by then.
                tokio::time::sleep(Duration::from_millis(50)).await;
                panic!("cannot go on after {text}")
            });
            Ok(futures_util::stream::iter(begun.map(Ok)).chain(fault).boxed())
        })
    }
}

/// What a request is to meet.
#[derive(Clone, Copy, Debug)]
struct Scene {
    backend: &'static str,
    /// 1 and 2 before anything is answered, 3 in the middle of it.
    fault: u32,
    stream: bool,
    /// Worked on beside the threads that serve connections.
    large: bool,
}

fn scenes() -> Vec<Scene> {
    let mut scenes = Vec::new();
    for backend in ["here", "away"] {
        for (fault, stream, large) in [
            (1, false, false),
            (2, true, false),
            (3, false, false),
            (3, true, false),
            (1, false, true),
            (3, true, true),
        ] {
            scenes.push(Scene { backend, fault, stream, large });
        }
    }
    scenes
}

fn send(address: SocketAddr, head: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(
        stream,
        "{head}\r\nHost: localhost\r\nAuthorization: Bearer {INBOUND_KEY}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

fn ask(address: SocketAddr, scene: Scene) -> String {
    let call =
        json!({ "id": "call_1", "type": "function", "function": { "name": "look_up", "arguments": "{}" } });
    let filling = if scene.large { "a long story ".repeat(20_000) } else { String::new() };
    let body = json!({
        "model": MODEL,
        "messages": [
            { "role": "user", "content": format!("{PROMPT}, write to {MASKED} {filling}") },
            { "role": "assistant", "content": null, "tool_calls": [call] },
            { "role": "tool", "tool_call_id": "call_1", "content": format!("{TOOL_RESULT} of {MASKED}") },
        ],
        "stream": scene.stream,
        "max_tokens": scene.fault,
    });
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nX-Nearfield-Backends: {}", scene.backend);
    send(address, &head, &body.to_string())
}

async fn server(folder: &Path) -> (SocketAddr, Ledger) {
    let data = folder.join("data");
    let ledger = Ledger::open(data.join("ledger")).await.unwrap();
    let backends = [("here", Locality::Local), ("away", Locality::Cloud)].map(|(name, locality)| {
        let backend: Arc<dyn Backend> = Arc::new(Faulty { name, locality });
        ConfiguredBackend::new(backend)
    });
    let gateway = Gateway::new(GatewayOptions {
        backends: backends.into(),
        policy: Policy::default(),
        ledger: ledger.clone(),
        prices: Prices::built_in().unwrap(),
        tariff: Tariff::default(),
        reference: DEFAULT_REFERENCE.to_owned(),
        cache_domains: CacheDomains::default(),
    });
    let rules: Rules = serde_json::from_str(RULES).unwrap();
    let gateway = gateway.unwrap().with_rules(rules, HashKey::new([5; 32])).unwrap();
    let keys = Authenticator::new(KeyStore::open(&data).unwrap(), Some(INBOUND_KEY)).unwrap();
    let server = Server::bind(ServerOptions { port: 0, ..ServerOptions::default() }).await.unwrap();
    let address = server.address();
    tokio::spawn(server.run(Arc::new(gateway), keys, Shutdown::new()));
    (address, ledger)
}

#[test]
#[ignore = "a process of its own that the test below starts"]
fn the_process_with_the_faults() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    logging::start(Level::Trace);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (address, ledger) = runtime.block_on(server(&folder));
    let replies: Vec<Value> = scenes().into_iter().map(|scene| ask(address, scene).into()).collect();
    fs::write(folder.join("replies.json"), Value::from(replies).to_string()).unwrap();
    let metrics = send(address, "GET /metrics HTTP/1.1", "");
    fs::write(folder.join("metrics"), metrics).unwrap();
    runtime.block_on(ledger.flush()).unwrap();
    // Its end leaves journal and database as they are.
    std::process::exit(0);
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[track_caller]
fn nothing_of(markers: &[&str], bytes: &[u8], place: &str) {
    for marker in markers {
        let found = bytes.windows(marker.len()).position(|window| window == marker.as_bytes());
        let around = found.map(|at| {
            String::from_utf8_lossy(&bytes[at.saturating_sub(200)..(at + 80).min(bytes.len())]).into_owned()
        });
        assert_eq!(around, None, "{marker} stands in {place}");
    }
}

#[test]
fn a_fault_of_the_server_writes_down_nothing_of_the_request() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "panics::tests::the_process_with_the_faults", "--ignored", "--nocapture"])
        .env(FOLDER, folder.path())
        .env_remove("RUST_LOG")
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null())
        .stdout(File::create(folder.path().join("stdout")).unwrap())
        .stderr(File::create(&log).unwrap());
    assert!(command.status().unwrap().success());

    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    let replies: Vec<String> = serde_json::from_slice(&read("replies.json")).unwrap();
    for (scene, reply) in scenes().into_iter().zip(&replies) {
        // No answer, or the beginning of one without its end.
        let begun = scene.stream && scene.fault == 3;
        assert_eq!(reply.starts_with("HTTP/1.1 200"), begun, "{scene:?} {reply}");
        assert!(!reply.contains("[DONE]") && !reply.ends_with("0\r\n\r\n"), "{scene:?} {reply}");
    }

    let logged = String::from_utf8(read("log")).unwrap();
    nothing_of(&NOWHERE, logged.as_bytes(), "the log");
    nothing_of(&NOWHERE, &read("stdout"), "standard output");
    nothing_of(&NOWHERE, &read("metrics"), "/metrics");
    nothing_of(&[MODEL], &read("metrics"), "/metrics, whose labels are configured names");
    let faults: Vec<&str> = logged.lines().filter(|line| line.contains("a fault of this program")).collect();
    assert_eq!(faults.len(), scenes().len(), "{faults:#?}");
    assert!(faults.iter().all(|line| line.contains("panics/tests.rs:")), "each says where: {faults:#?}");
    let requests = logged.lines().filter(|line| line.contains("route=\"/v1/chat/completions\"")).count();
    assert_eq!(requests, scenes().len(), "each has its line: {logged}");
    let data = files(&folder.path().join("data"));
    for part in ["ledger.db-wal", "ledger.db", "journal"] {
        assert!(data.iter().any(|path| path.to_string_lossy().contains(part)), "{part}: {data:?}");
    }
    for path in data {
        nothing_of(&NOWHERE, &fs::read(&path).unwrap(), &path.display().to_string());
    }

    let rows = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let ledger = Ledger::open(folder.path().join("data/ledger")).await.unwrap();
        ledger.rows(&Filter::default()).await.unwrap()
    });
    assert_eq!(rows.len(), scenes().len(), "one row each");
    let outcomes: Vec<_> = rows.iter().map(|row| row.outcome.clone().unwrap()).collect();
    let failed = |outcome: &Outcome| matches!(outcome, Outcome::Truncated | Outcome::Error(_));
    assert!(outcomes.iter().all(failed), "{outcomes:?}");
    assert!(rows.iter().all(|row| row.model == MODEL && row.attempts.len() == 1), "{rows:?}");
}
