//! A running server, and clients that see every byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nearfield_api::sse::Decoder;
use nearfield_api::{Backend, Message, Prompt, Request, Role};
use nearfield_privacy::{DataClass, HashKey};
use nearfield_router::attempts::Resilience;
use nearfield_router::rules::Rules;
use nearfield_router::{Policy, PolicyMode};
use nearfield_server::gateway::{CacheDomains, ConfiguredBackend, Gateway, GatewayOptions, Network};
use nearfield_server::http::{ServeError, Server, ServerOptions, Shutdown};
use nearfield_server::keys::{Authenticator, KeyStore};
use nearfield_server::limits::Limits;
use nearfield_store::{DEFAULT_REFERENCE, Filter, Ledger, Prices, Row, Tariff};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub(crate) const KEY: &str = "test-key";
/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Short enough that each can be met in a test.
pub(crate) fn test_limits() -> Limits {
    Limits {
        header_read: Duration::from_millis(400),
        body_read: Duration::from_millis(400),
        first_event: Duration::from_millis(300),
        keep_alive: Duration::from_millis(200),
        grace: Duration::from_secs(5),
        ..Limits::default()
    }
}

pub(crate) struct Setup {
    pub(crate) backends: Vec<ConfiguredBackend>,
    pub(crate) policy: Policy,
    pub(crate) options: ServerOptions,
    pub(crate) resilience: Resilience,
    /// A policy file, and the key of its pseudonyms.
    pub(crate) rules: Option<(Rules, HashKey)>,
    pub(crate) network: Network,
}

impl Setup {
    pub(crate) fn new(mode: PolicyMode, backends: Vec<Arc<dyn Backend>>) -> Self {
        let options = ServerOptions { port: 0, limits: test_limits(), ..ServerOptions::default() };
        let policy = Policy::up_to(DataClass::Internal, mode);
        let (backends, network) = (priced(backends), Network::default());
        Self { backends, policy, options, resilience: Resilience::plain(), rules: None, network }
    }

    pub(crate) fn local(backend: Arc<dyn Backend>) -> Self {
        Self::new(PolicyMode::LocalOnly, vec![backend])
    }

    pub(crate) fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.options.limits);
        self
    }

    pub(crate) async fn start(self) -> Running {
        let folder = TempDir::new().unwrap();
        let ledger = Ledger::open(folder.path().join("ledger")).await.unwrap();
        let gateway = of_backends(self.backends, self.policy, ledger.clone());
        let gateway = gateway.with_resilience(self.resilience).with_network(self.network);
        let gateway = Arc::new(match self.rules {
            None => gateway,
            Some((rules, key)) => gateway.with_rules(rules, key).unwrap(),
        });
        let store = KeyStore::open(folder.path()).unwrap();
        let keys = Authenticator::new(store, Some(KEY)).unwrap();
        let server = Server::bind(self.options).await.unwrap();
        let (address, base_url) = (server.address(), server.base_url());
        let shutdown = Shutdown::new();
        let task = tokio::spawn(server.run(Arc::clone(&gateway), keys, shutdown.clone()));
        Running { gateway, folder, ledger, address, base_url, shutdown, task }
    }
}

/// A gateway that asks each backend once.
pub(crate) fn gateway(backends: Vec<Arc<dyn Backend>>, policy: Policy, ledger: Ledger) -> Gateway {
    of_backends(priced(backends), policy, ledger).with_resilience(Resilience::plain())
}

/// Backends that have the prices of `openai`.
fn priced(backends: Vec<Arc<dyn Backend>>) -> Vec<ConfiguredBackend> {
    let configured = |backend| {
        let price_provider = Some("openai".to_owned());
        ConfiguredBackend { price_provider, ..ConfiguredBackend::new(backend) }
    };
    backends.into_iter().map(configured).collect()
}

/// A gateway of backends as they are configured.
pub(crate) fn of_backends(backends: Vec<ConfiguredBackend>, policy: Policy, ledger: Ledger) -> Gateway {
    Gateway::new(GatewayOptions {
        backends,
        policy,
        ledger,
        prices: Prices::built_in().unwrap(),
        tariff: Tariff { watts: Some(100.0), dollars_per_kwh: Some(0.5) },
        reference: DEFAULT_REFERENCE.to_owned(),
        cache_domains: CacheDomains::new([("team", ["joined_1", "joined_2"])]).unwrap(),
    })
    .unwrap()
}

pub(crate) struct Running {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) folder: TempDir,
    pub(crate) ledger: Ledger,
    pub(crate) address: SocketAddr,
    pub(crate) base_url: String,
    pub(crate) shutdown: Shutdown,
    pub(crate) task: JoinHandle<Result<(), ServeError>>,
}

impl Running {
    pub(crate) async fn rows(&self) -> Vec<Row> {
        rows(&self.ledger).await
    }

    /// Waits until so many rows have ended.
    pub(crate) async fn ended_rows(&self, count: usize) -> Vec<Row> {
        let wait = async {
            loop {
                let rows = self.rows().await;
                if rows.len() >= count && rows.iter().all(|row| row.outcome.is_some()) {
                    return rows;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, wait).await.expect("rows did not end")
    }

    pub(crate) async fn connect(&self) -> Client {
        Client { stream: TcpStream::connect(self.address).await.unwrap(), read: Vec::new() }
    }

    /// One request on a connection of its own.
    pub(crate) async fn send(&self, method: &str, path: &str, body: &str) -> Reply {
        let mut client = self.connect().await;
        client.send(method, path, body).await;
        client.reply().await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, &body.to_string()).await
    }
}

pub(crate) async fn rows(ledger: &Ledger) -> Vec<Row> {
    ledger.flush().await.unwrap();
    ledger.rows(&Filter::default()).await.unwrap()
}

/// A plain connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

/// A reply, taken apart.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Client {
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// A request with a key.
    pub(crate) async fn send(&mut self, method: &str, path: &str, body: &str) {
        let text = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.write(text.as_bytes()).await;
    }

    /// Reads on until the text ends the part that is wanted; `None` at the end of the connection.
    async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|window| window == end) {
                return Some(self.read.drain(..at + end.len()).collect());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn more(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let count =
            timeout(PATIENCE, self.stream.read(&mut buffer)).await.expect("nothing came").unwrap_or(0);
        self.read.extend_from_slice(&buffer[..count]);
        count > 0
    }

    async fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count && self.more().await {}
        let count = count.min(self.read.len());
        self.read.drain(..count).collect()
    }

    /// The head of the next reply; `None` when the connection ended without one.
    pub(crate) async fn try_head(&mut self) -> Option<Reply> {
        let head = String::from_utf8(self.until(b"\r\n\r\n").await?).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        Some(Reply { status, headers: lines.filter_map(header).collect(), body: String::new() })
    }

    pub(crate) async fn head(&mut self) -> Reply {
        self.try_head().await.expect("the connection ended without a reply")
    }

    /// The next chunk of a chunked body; `None` after the last, or when the body is cut.
    pub(crate) async fn chunk(&mut self) -> Option<String> {
        let line = String::from_utf8(self.until(b"\r\n").await?).unwrap();
        let size = usize::from_str_radix(line.trim(), 16).unwrap();
        let chunk = self.exactly(size + 2).await;
        (size > 0).then(|| String::from_utf8(chunk[..size].to_vec()).unwrap())
    }

    /// The next reply whole.
    pub(crate) async fn reply(&mut self) -> Reply {
        let mut reply = self.head().await;
        if let Some(length) = reply.header("content-length") {
            let body = self.exactly(length.parse().unwrap()).await;
            reply.body = String::from_utf8(body).unwrap();
        } else if reply.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk().await {
                reply.body.push_str(&chunk);
            }
        }
        reply
    }

    /// Whether the other side closes the connection, and says nothing before.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.read.is_empty() && !self.more().await
    }
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The parts of an error body in OpenAI's form.
    pub(crate) fn error(&self) -> Value {
        let body = self.json();
        let error = &body["error"];
        assert!(error["message"].is_string() && error["type"].is_string(), "{self:?}");
        assert!(error.get("param").is_some() && error.get("code").is_some(), "{self:?}");
        error.clone()
    }

    /// The data of the events of a streamed body.
    pub(crate) fn events(&self) -> Vec<String> {
        let mut decoder = Decoder::new(1 << 20);
        let mut events = Vec::new();
        decoder.push(self.body.as_bytes(), &mut events).unwrap();
        events.into_iter().map(|event| event.data).collect()
    }
}

pub(crate) fn chat(text: &str) -> Value {
    serde_json::json!({ "model": "m", "messages": [{ "role": "user", "content": text }] })
}

/// The same with further fields.
pub(crate) fn chat_with(fields: Value) -> Value {
    let mut body = chat("Hi");
    let Value::Object(fields) = fields else { panic!("not an object") };
    body.as_object_mut().unwrap().extend(fields);
    body
}

pub(crate) fn request() -> Request {
    Request::new("m", Prompt::Chat(vec![Message::new(Role::User, "eight by")]))
}
