//! A cloud of OpenAI's dialect, over plain HTTP/1.1, that misbehaves on request.
//!
//! Without a script it answers well: a short stream or body, and a list of models. A script says for one request,
//! byte by byte, what goes over the wire and when, so that it can do what a server library prevents: a head that
//! trickles, a chunk that ends in the middle, silence, a reset.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cloud_dialects::plain;
use crate::cloud_faults::{self, Fault};
use crate::plays;

/// Longest request read.
const MAX_REQUEST_BYTES: usize = 64 * 1024 * 1024;

/// The text of the answers without a script, in its two pieces.
pub const ANSWER: [&str; 2] = plays::HELLO;
/// Prompt and completion tokens of the answers without a script.
pub const TOKENS: (u64, u64) = plays::TOKENS;
/// The names of the models that are listed without a script.
pub const MODELS: [&str; 2] = ["cloud-large", "cloud-small"];

/// What the server does for one request.
#[derive(Debug, Clone, Default)]
pub struct Script {
    steps: Vec<Step>,
    /// The connection can serve another request afterwards.
    reusable: bool,
    /// By what name [`CloudServer::played`] counts it.
    name: Option<&'static str>,
}

#[derive(Debug, Clone)]
enum Step {
    Write(Bytes),
    Drip(Bytes),
    Pause(Duration),
    Silence,
    Reset,
}

impl Script {
    /// A script that says nothing yet; the connection is closed at its end.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives it a name, by which is counted how often it was played.
    #[must_use]
    pub fn named(mut self, name: &'static str) -> Self {
        self.name = Some(name);
        self
    }

    /// Sends bytes.
    pub fn bytes(mut self, bytes: impl Into<Bytes>) -> Self {
        self.steps.push(Step::Write(bytes.into()));
        self
    }

    /// Sends bytes, each in a write of its own; between them whoever reads in the same runtime gets a turn.
    pub fn byte_by_byte(mut self, bytes: impl Into<Bytes>) -> Self {
        self.steps.push(Step::Drip(bytes.into()));
        self
    }

    /// Waits.
    pub fn pause(mut self, pause: Duration) -> Self {
        self.steps.push(Step::Pause(pause));
        self
    }

    /// Keeps silent until the client goes away.
    pub fn silence(mut self) -> Self {
        self.steps.push(Step::Silence);
        self
    }

    /// Resets the connection.
    pub fn reset(mut self) -> Self {
        self.steps.push(Step::Reset);
        self
    }

    /// A whole answer.
    pub fn answer(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let length = body.len().to_string();
        let mut bytes = head(status, headers.iter().copied().chain([("Content-Length", length.as_str())]));
        bytes.extend_from_slice(body);
        Self { reusable: true, ..Self::new().bytes(bytes) }
    }

    /// A whole answer in JSON.
    pub fn json(status: u16, body: &Value) -> Self {
        Self::answer(status, &[("Content-Type", "application/json")], body.to_string())
    }

    /// The head of a stream of events. The body follows in [`Script::chunk`]s and ends with [`Script::end`].
    pub fn stream() -> Self {
        Self::stream_of("text/event-stream")
    }

    /// The head of a stream of another media type.
    pub fn stream_of(media_type: &str) -> Self {
        let headers = [("Content-Type", media_type), ("Transfer-Encoding", "chunked")];
        Self::new().bytes(head(200, headers.into_iter()))
    }

    /// One chunk of the body.
    pub fn chunk(self, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut bytes = format!("{:x}\r\n", body.len()).into_bytes();
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(b"\r\n");
        self.bytes(bytes)
    }

    /// A body in chunks of `size` bytes, which the client's library hands out one by one.
    pub fn chunks_of(self, size: usize, body: impl AsRef<[u8]>) -> Self {
        body.as_ref().chunks(size.max(1)).fold(self, Self::chunk)
    }

    /// One event, as a chunk of its own.
    pub fn event(self, data: &str) -> Self {
        self.chunk(format!("data: {data}\n\n"))
    }

    /// The end of a body in chunks.
    pub fn end(mut self) -> Self {
        self.reusable = true;
        self.bytes("0\r\n\r\n")
    }
}

/// The data of an event with a piece of text of a chat's first choice.
pub fn delta(text: &str) -> String {
    json!({"model": "m", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]})
        .to_string()
}

/// The data of the event that ends a chat's first choice.
pub fn finish(reason: &str) -> String {
    json!({"model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}).to_string()
}

/// The data of the event with the usage.
pub fn usage(prompt: u64, completion: u64) -> String {
    json!({"model": "m", "choices": [], "usage": usage_object(prompt, completion)}).to_string()
}

pub(crate) fn usage_object(prompt: u64, completion: u64) -> Value {
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}

/// A request as the server saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudRequest {
    /// Method.
    pub method: String,
    /// Path with query.
    pub target: String,
    /// Headers with lower-case names.
    pub headers: Vec<(String, String)>,
    /// The body's bytes.
    pub body: Bytes,
}

impl CloudRequest {
    /// The first header of this (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

#[derive(Debug, Default)]
struct State {
    /// For the next requests, in order.
    scripts: VecDeque<Script>,
    /// For every request after those.
    always: Option<Script>,
    seen: Vec<CloudRequest>,
    played: BTreeMap<&'static str, u64>,
    connections: usize,
    /// Scripts that are being played.
    playing: usize,
    /// `GET /seen` tells what came.
    tells: bool,
    /// Models whose name selects a fault do so, at this scale of time.
    faults: Option<f64>,
    /// How often each such model was asked for, and since when.
    asked: BTreeMap<String, (usize, Instant)>,
}

impl State {
    /// What a request gets whose model selects a fault.
    fn fault(&mut self, request: &CloudRequest) -> Option<Script> {
        let scale = self.faults?;
        let body = request.json();
        let named = |part: &str| part.strip_prefix("/model/")?.split('/').next().map(str::to_owned);
        let model = body["model"].as_str().map(str::to_owned).or_else(|| named(&request.target))?;
        if model == "stand-in" {
            return Some(cloud_faults::stand_in(request));
        }
        let fault = Fault::of(&model)?;
        let (count, since) = self.asked.entry(model).or_insert_with(|| (0, Instant::now()));
        *count += 1;
        Some(fault.script(scale, *count - 1, since.elapsed()))
    }
}

/// The server, on a port of its own on 127.0.0.1. It ends when dropped.
#[derive(Debug)]
pub struct CloudServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    gone: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Drop for CloudServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl CloudServer {
    /// Starts a server that answers well.
    ///
    /// # Errors
    /// No port can be opened.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let (gone_sender, gone) = watch::channel(0);
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let gone = Arc::new(gone_sender);
            while let Ok((stream, _)) = listener.accept().await {
                lock(&shared).connections += 1;
                let (shared, gone) = (Arc::clone(&shared), Arc::clone(&gone));
                // A client that goes away is no concern of the server's.
                tokio::spawn(async move { drop(serve(stream, &shared, &gone).await) });
            }
        });
        Ok(Self { address, state, gone, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base of its API.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Adds a script for the next request that has none yet.
    pub fn next(&self, script: Script) {
        lock(&self.state).scripts.push_back(script);
    }

    /// Sets the script of every request after those of [`CloudServer::next`].
    pub fn always(&self, script: Script) {
        lock(&self.state).always = Some(script);
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<CloudRequest> {
        lock(&self.state).seen.clone()
    }

    /// All requests since the last call, and no script is left for those to come.
    pub fn take_seen(&self) -> Vec<CloudRequest> {
        let mut state = lock(&self.state);
        state.scripts.clear();
        std::mem::take(&mut state.seen)
    }

    /// How often each script with a name was played.
    pub fn played(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.state).played.clone()
    }

    /// Answers `GET /seen` with all other requests so far, their bodies in hexadecimal.
    pub fn tell_what_was_seen(&self) {
        lock(&self.state).tells = true;
    }

    /// Lets models whose names select a fault do so, at a scale of time; the model `stand-in` always answers.
    pub fn misbehave(&self, scale: f64) {
        lock(&self.state).faults = Some(scale);
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        lock(&self.state).connections
    }

    /// How many requests are being answered.
    pub fn under_way(&self) -> usize {
        lock(&self.state).playing
    }

    /// Waits until so many clients have gone away while a script waited or kept silent.
    ///
    /// # Errors
    /// That has not come to pass within ten seconds.
    pub async fn clients_gone(&self, count: usize) -> io::Result<()> {
        let mut gone = self.gone.clone();
        let wait = tokio::time::timeout(Duration::from_secs(10), gone.wait_for(|gone| *gone >= count));
        match wait.await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::TimedOut, "the client is still there")),
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A script that is being played.
struct Playing<'a>(&'a Mutex<State>);

impl<'a> Playing<'a> {
    fn new(state: &'a Mutex<State>) -> Self {
        lock(state).playing += 1;
        Self(state)
    }
}

impl Drop for Playing<'_> {
    fn drop(&mut self) {
        lock(self.0).playing -= 1;
    }
}

/// Answers the requests of one connection.
async fn serve(mut stream: TcpStream, state: &Mutex<State>, gone: &watch::Sender<usize>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        let request = read_request(&mut stream, &mut buffer).await?;
        let script = {
            let mut state = lock(state);
            if state.tells && request.target == "/seen" {
                Some(Script::json(200, &told(&state.seen)))
            } else {
                state.seen.push(request.clone());
                state.scripts.pop_front().or_else(|| state.fault(&request)).or_else(|| state.always.clone())
            }
        };
        let script = script.unwrap_or_else(|| plain::answer(&request));
        if let Some(name) = script.name {
            *lock(state).played.entry(name).or_default() += 1;
        }
        let _playing = Playing::new(state);
        for step in script.steps {
            match step {
                Step::Write(bytes) => {
                    stream.write_all(&bytes).await?;
                    stream.flush().await?;
                }
                Step::Drip(bytes) => {
                    for byte in bytes.chunks(1) {
                        stream.write_all(byte).await?;
                        stream.flush().await?;
                        tokio::task::yield_now().await;
                    }
                }
                Step::Pause(pause) => {
                    if let Ok(end) = tokio::time::timeout(pause, until_gone(&mut stream)).await {
                        gone.send_modify(|gone| *gone += 1);
                        return end;
                    }
                }
                Step::Silence => {
                    let end = until_gone(&mut stream).await;
                    gone.send_modify(|gone| *gone += 1);
                    return end;
                }
                Step::Reset => {
                    stream.set_zero_linger()?;
                    return Ok(());
                }
            }
        }
        if !script.reusable {
            return stream.shutdown().await;
        }
    }
}

fn told(seen: &[CloudRequest]) -> Value {
    seen.iter()
        .map(|request| {
            let digit = |value: u8| char::from(b"0123456789abcdef"[usize::from(value & 15)]);
            let body: String = request.body.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect();
            json!({"method": request.method, "target": request.target, "headers": request.headers, "body": body})
        })
        .collect()
}

/// Reads until the client closes or resets.
async fn until_gone(stream: &mut TcpStream) -> io::Result<()> {
    let mut byte = [0_u8];
    while stream.read(&mut byte).await? > 0 {}
    Ok(())
}

fn head<'a>(status: u16, headers: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let lines: Vec<String> = headers.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("HTTP/1.1 {status} Answer\r\n{}\r\n", lines.concat()).into_bytes()
}

/// Reads a request; what comes after it stays in `buffer`.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<CloudRequest> {
    let body_at = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        fill(stream, buffer).await?;
    };
    let text = String::from_utf8_lossy(buffer.get(..body_at).unwrap_or_default()).into_owned();
    let mut lines = text.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let (method, target) = (word(), word());
    let headers = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut request = CloudRequest { method, target, headers, body: Bytes::new() };
    let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    while buffer.len() - body_at < length {
        fill(stream, buffer).await?;
    }
    let rest = buffer.split_off(body_at + length);
    let whole = std::mem::replace(buffer, rest);
    request.body = Bytes::from(whole).slice(body_at..);
    Ok(request)
}

async fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<()> {
    if buffer.len() > MAX_REQUEST_BYTES || stream.read_buf(buffer).await? == 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(())
}
