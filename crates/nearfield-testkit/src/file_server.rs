//! A file server over plain HTTP/1.1 that misbehaves on request.
//!
//! It writes its answers byte by byte itself, so that it can do what a proper server library prevents: state a wrong
//! length, cut the connection in the middle of a body, go silent, send another part than was asked for.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Longest request head read.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// One way to misbehave. Each answers one request.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Fault {
    /// Cut the connection after so many bytes of the body.
    CutAfter(usize),
    /// Go silent for good after so many bytes of the body, with the connection open.
    StallAfter(usize),
    /// Say nothing at all, with the connection open.
    Silence,
    /// Send the body in pieces of so many bytes with pauses between them.
    Slow {
        /// Bytes of a piece.
        piece: usize,
        /// Pause after each.
        pause: Duration,
    },
    /// Answer with this status, these headers and this body.
    Answer {
        /// Status code.
        status: u16,
        /// Extra headers.
        headers: Vec<(String, String)>,
        /// Body.
        body: Bytes,
    },
    /// State this `Content-Length`, send the true body, close.
    StateLength(usize),
    /// Send no `Content-Length`, close at the end of the body.
    NoLength,
    /// Answer the whole body with 200 although a range was asked for.
    IgnoreRange,
    /// Answer 206 from another start than was asked for.
    WrongRange,
    /// Send another body of the same length: every byte inverted.
    Corrupt,
}

impl Fault {
    /// An answer without body and with one header.
    pub fn status(status: u16, header: Option<(&str, &str)>) -> Self {
        let headers = header.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self::Answer { status, headers, body: Bytes::new() }
    }

    /// A redirect.
    pub fn redirect(location: &str) -> Self {
        Self::status(302, Some(("Location", location)))
    }
}

/// A file that the server offers.
#[derive(Debug, Clone, Default)]
pub struct ServedFile {
    body: Bytes,
    content_type: Option<&'static str>,
    etag: Option<String>,
    /// Faults for the next requests, in order; afterwards the file is served well.
    faults: VecDeque<Fault>,
    /// A fault for every request.
    always: Option<Fault>,
    /// The `Authorization` that a request must carry.
    authorization: Option<String>,
}

impl ServedFile {
    /// A file with this content.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..Self::default() }
    }

    /// Sets the `Content-Type`.
    pub fn content_type(mut self, content_type: &'static str) -> Self {
        self.content_type = Some(content_type);
        self
    }

    /// Sets the entity tag, with its quotes.
    pub fn etag(mut self, etag: &str) -> Self {
        self.etag = Some(etag.to_owned());
        self
    }

    /// Adds a fault for the next request that has none yet.
    pub fn fault(mut self, fault: Fault) -> Self {
        self.faults.push_back(fault);
        self
    }

    /// Sets a fault for every request after those of [`ServedFile::fault`].
    pub fn always(mut self, fault: Fault) -> Self {
        self.always = Some(fault);
        self
    }

    /// Refuses with 401 every request without this `Authorization`.
    pub fn authorization(mut self, authorization: &str) -> Self {
        self.authorization = Some(authorization.to_owned());
        self
    }
}

/// A wheel on a package index.
#[derive(Debug, Clone)]
pub struct Wheel {
    /// `name-version-py3-none-any.whl`.
    pub file_name: String,
    /// Its content.
    pub file: ServedFile,
    /// The SHA-256 that the index states, in hexadecimal digits.
    pub sha256: Option<String>,
}

/// A request as the server saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenRequest {
    /// Method.
    pub method: String,
    /// Path with query.
    pub target: String,
    /// Headers with lower-case names.
    pub headers: Vec<(String, String)>,
}

impl SeenRequest {
    /// The first header of this (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<String, ServedFile>,
    seen: Vec<SeenRequest>,
}

/// The server, on a port of its own on 127.0.0.1. It ends when dropped.
#[derive(Debug)]
pub struct FileServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FileServer {
    /// Starts a server without files.
    ///
    /// # Errors
    /// No port can be opened.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                // A client that goes away is no concern of the server's.
                tokio::spawn(async move { drop(serve(stream, &shared).await) });
            }
        });
        Ok(Self { address, state, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of a path, which begins with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Offers a file at a path (with query, if it has one), in place of what was there.
    pub fn put(&self, path: &str, file: ServedFile) {
        lock(&self.state).files.insert(path.to_owned(), file);
    }

    /// Offers a package as a Python package index does: a page of links at `/simple/NAME/`, each with the digest that
    /// pip then checks, and the wheels below `/wheels/`.
    pub fn put_package(&self, name: &str, wheels: Vec<Wheel>) {
        let mut page = String::from("<!DOCTYPE html><html><body>\n");
        for wheel in wheels {
            let path = format!("/wheels/{}", wheel.file_name);
            let fragment = wheel.sha256.map(|digest| format!("#sha256={digest}")).unwrap_or_default();
            page.extend(["<a href=\"", &path, &fragment, "\">", &wheel.file_name, "</a>\n"]);
            self.put(&path, wheel.file);
        }
        page.push_str("</body></html>\n");
        self.put(&format!("/simple/{name}/"), ServedFile::new(page).content_type("text/html"));
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<SeenRequest> {
        lock(&self.state).seen.clone()
    }

    /// The requests so far for a path, with query.
    pub fn seen_at(&self, path: &str) -> Vec<SeenRequest> {
        self.seen().into_iter().filter(|request| request.target == path).collect()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers one request and closes: cuts and wrong lengths leave no connection to go on with.
async fn serve(mut stream: TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let request = read_request(&mut stream).await?;
    let (file, fault) = {
        let mut state = lock(state);
        state.seen.push(request.clone());
        match state.files.get_mut(&request.target) {
            None => (None, None),
            Some(file) => {
                let fault = file.faults.pop_front().or_else(|| file.always.clone());
                (Some(file.clone()), fault)
            }
        }
    };
    let Some(file) = file else {
        return send(&mut stream, 404, &[], Some(9), b"not found").await;
    };
    if let Some(Fault::Answer { status, headers, body }) = &fault {
        return send(&mut stream, *status, headers, Some(body.len()), body).await;
    }
    if file.authorization.is_some() && file.authorization.as_deref() != request.header("authorization") {
        return send(&mut stream, 401, &[], Some(0), b"").await;
    }
    if matches!(fault, Some(Fault::Silence)) {
        return silence(&mut stream).await;
    }
    deliver(&mut stream, &request, &file, fault).await
}

/// Sends the file, or the part asked for, in the way that the fault says.
async fn deliver(
    stream: &mut TcpStream,
    request: &SeenRequest,
    file: &ServedFile,
    fault: Option<Fault>,
) -> io::Result<()> {
    let total = file.body.len();
    let mut headers = vec![("Accept-Ranges".to_owned(), "bytes".to_owned())];
    headers.extend(file.content_type.map(|value| ("Content-Type".to_owned(), value.to_owned())));
    headers.extend(file.etag.clone().map(|value| ("ETag".to_owned(), value)));
    let same = request.header("if-range").is_none_or(|tag| file.etag.as_deref() == Some(tag));
    let range = request
        .header("range")
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let range: Option<usize> = range.filter(|_| same && !matches!(fault, Some(Fault::IgnoreRange)));
    if range.is_some_and(|start| start >= total) {
        headers.push(("Content-Range".to_owned(), format!("bytes */{total}")));
        return send(stream, 416, &headers, Some(0), b"").await;
    }
    let shift = usize::from(matches!(fault, Some(Fault::WrongRange)));
    let start = range.map_or(0, |start| (start + shift).min(total));
    if range.is_some() {
        headers
            .push(("Content-Range".to_owned(), format!("bytes {start}-{}/{total}", total.saturating_sub(1))));
    }
    let mut body = file.body.slice(start..);
    if matches!(fault, Some(Fault::Corrupt)) {
        body = body.iter().map(|byte| !byte).collect();
    }
    let length = match fault {
        Some(Fault::StateLength(length)) => Some(length),
        Some(Fault::NoLength) => None,
        _ => Some(body.len()),
    };
    let head = head(if range.is_some() { 206 } else { 200 }, &headers, length);
    stream.write_all(head.as_bytes()).await?;
    match fault {
        Some(Fault::CutAfter(count)) => {
            stream.write_all(&body.slice(..count.min(body.len()))).await?;
            stream.flush().await
        }
        Some(Fault::StallAfter(count)) => {
            stream.write_all(&body.slice(..count.min(body.len()))).await?;
            stream.flush().await?;
            silence(stream).await
        }
        Some(Fault::Slow { piece, pause }) => {
            for piece in body.chunks(piece.max(1)) {
                stream.write_all(piece).await?;
                stream.flush().await?;
                tokio::time::sleep(pause).await;
            }
            Ok(())
        }
        _ => {
            stream.write_all(&body).await?;
            stream.shutdown().await
        }
    }
}

/// Sends nothing until the client goes away.
async fn silence(stream: &mut TcpStream) -> io::Result<()> {
    let mut byte = [0_u8];
    while stream.read(&mut byte).await? > 0 {}
    Ok(())
}

async fn send(
    stream: &mut TcpStream,
    status: u16,
    headers: &[(String, String)],
    length: Option<usize>,
    body: &[u8],
) -> io::Result<()> {
    stream.write_all(head(status, headers, length).as_bytes()).await?;
    stream.write_all(body).await?;
    stream.shutdown().await
}

fn head(status: u16, headers: &[(String, String)], length: Option<usize>) -> String {
    let mut text = format!("HTTP/1.1 {status} Answer\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.extend([name, ": ", value, "\r\n"]);
    }
    if let Some(length) = length {
        text.extend(["Content-Length: ", &length.to_string(), "\r\n"]);
    }
    text + "\r\n"
}

async fn read_request(stream: &mut TcpStream) -> io::Result<SeenRequest> {
    let mut bytes = Vec::new();
    let mut chunk = [0_u8; 4096];
    while !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
        let count = stream.read(&mut chunk).await?;
        if count == 0 || bytes.len() > MAX_HEAD_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        bytes.extend_from_slice(chunk.get(..count).unwrap_or_default());
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut lines = text.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let (method, target) = (word(), word());
    let headers = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Ok(SeenRequest { method, target, headers })
}
