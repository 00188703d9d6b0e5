//! Recorded exchanges with real providers, from the folder of outside test data.

use std::io;
use std::path::{Path, PathBuf};

use nearfield_api::bedrock::EventStreamDecoder;
use nearfield_api::openai::Limits;
use nearfield_api::sse::{Decoder, SseEvent};
use nearfield_api::{Dialect, Error, Event, Request};
use serde_json::Value;
use serde_yaml_ng::Value as Yaml;

/// Longest frame of a recorded stream.
const LARGEST_FRAME: usize = 1 << 20;

/// What lies `below` the folder of outside test data, or `None` (said aloud) when it is not there.
///
/// # Panics
/// In continuous integration, when it is not there.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so beside the results of the others")]
pub fn test_data(below: &str) -> Option<PathBuf> {
    let root = std::env::var_os("NEARFIELD_TEST_DATA").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data")),
        PathBuf::from,
    );
    let path = root.join(below);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is missing; set NEARFIELD_TEST_DATA", path.display());
    eprintln!("skipped: {} is missing; set NEARFIELD_TEST_DATA", path.display());
    None
}

/// One exchange.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// File and place in it.
    pub name: String,
    /// Method of the request.
    pub method: String,
    /// Address of the request.
    pub uri: String,
    /// The request's body, where it is JSON.
    pub sent: Option<Value>,
    /// The reply's status.
    pub status: u16,
    /// The reply's media type, with its parameters; empty when it has none.
    pub media_type: String,
    /// The reply's body.
    pub received: Received,
}

/// The body of a reply.
#[derive(Debug, Clone)]
pub enum Received {
    /// JSON, which was kept as such.
    Json(Value),
    /// The bytes themselves.
    Bytes(Vec<u8>),
    /// None.
    Nothing,
}

/// What an exchange is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An answer in a dialect.
    Answer(Dialect),
    /// Something else, and what.
    Else(&'static str),
}

impl Exchange {
    /// What it is, by its address.
    pub fn kind(&self) -> Kind {
        let path = self.path();
        let is = |part: &str| path.contains(part);
        Kind::Else(match self.method.as_str() {
            "POST" if path.ends_with("/chat/completions") => return Kind::Answer(Dialect::OpenAiChat),
            "POST" if path.ends_with("/v1/responses") => return Kind::Answer(Dialect::OpenAiResponses),
            "POST" if path.ends_with("/v1/messages") => return Kind::Answer(Dialect::Anthropic),
            "POST" if is(":generateContent") || is(":streamGenerateContent") => {
                return Kind::Answer(Dialect::Gemini);
            }
            "POST" if path.ends_with("/converse") || path.ends_with("/converse-stream") => {
                return Kind::Answer(Dialect::Bedrock);
            }
            "GET" if is("/v1/responses/") => return Kind::Answer(Dialect::OpenAiResponses),
            _ if is("count_tokens") || is("countTokens") || is("count-tokens") || is("input_tokens") => {
                "counts tokens and answers nothing"
            }
            _ if is("/responses/compact") => "shortens a conversation and answers nothing",
            _ if is("/files") || is("vector_stores") || is("fileSearchStores") || is("/upload/") => {
                "keeps files at the provider"
            }
            _ if is("/conversations") => "keeps conversations at the provider",
            "GET" => "fetches a file from somewhere else",
            _ => "is not known",
        })
    }

    fn path(&self) -> &str {
        self.uri.split('?').next().unwrap_or_default()
    }

    /// Whether the reply is a stream.
    pub fn streams(&self) -> bool {
        matches!(&self.received, Received::Bytes(bytes) if !bytes.trim_ascii_start().starts_with(b"{"))
    }

    /// The model in the address, decoded.
    pub fn model(&self) -> String {
        let path = self.path();
        let name =
            path.rsplit_once("/models/").or_else(|| path.rsplit_once("/model/")).map_or("", |(_, name)| name);
        let name = name.split([':', '/']).next().unwrap_or_default();
        name.replace("%3A", ":").replace("%2F", "/")
    }

    /// The request in the tree.
    ///
    /// # Errors
    /// There is no body, or the codec refuses it.
    pub fn request(&self, dialect: Dialect) -> Result<Request, Error> {
        let body = self.sent.as_ref().map(Value::to_string).unwrap_or_default();
        let streams = self.uri.contains("stream");
        dialect.decode_request(body.as_bytes(), &self.model(), streams, &Limits::default())
    }
}

/// The reader of YAML leaves binary text as it is: base64.
fn plain(value: &Yaml, binary: bool) -> Received {
    match value.as_str() {
        Some(text) if binary => Received::Bytes(base64(text)),
        Some(text) => Received::Bytes(text.as_bytes().to_vec()),
        None => Received::Nothing,
    }
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for value in text.bytes().filter_map(digit) {
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}

fn text(value: &Yaml) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A body stands under `body`, or under `string` in that.
fn body(message: &Yaml) -> Yaml {
    let body = message.get("body").cloned().unwrap_or_default();
    if body.is_mapping() { body["string"].clone() } else { body }
}

fn media_type(response: &Yaml) -> String {
    let headers = response["headers"].as_mapping();
    let value = headers
        .into_iter()
        .flatten()
        .find(|(name, _)| name.as_str().is_some_and(|name| name.eq_ignore_ascii_case("content-type")));
    value.map(|(_, values)| text(&values[0])).unwrap_or_default()
}

fn exchange(name: String, interaction: &Yaml) -> Exchange {
    let (request, response) = (&interaction["request"], &interaction["response"]);
    let tree = |value: &Yaml| serde_json::to_value(value).ok().filter(|tree| !tree.is_null());
    let sent = tree(&request["parsed_body"])
        .or_else(|| serde_json::from_str(body(request).as_str().unwrap_or_default()).ok());
    let received = match tree(&response["parsed_body"]) {
        Some(tree) => Received::Json(tree),
        None => plain(&body(response), text(&request["uri"]).ends_with("/converse-stream")),
    };
    Exchange {
        name,
        method: text(&request["method"]),
        uri: text(&request["uri"]),
        sent,
        status: response["status"]["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(0),
        media_type: media_type(response),
        received,
    }
}

fn read(file: &Path) -> io::Result<Vec<Exchange>> {
    let cassette: Yaml =
        serde_yaml_ng::from_str(&std::fs::read_to_string(file)?).map_err(io::Error::other)?;
    let part = |path: Option<&Path>| {
        path.and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned()
    };
    let name = format!("{}/{}", part(file.parent()), part(Some(file)));
    let interactions = cassette["interactions"].as_sequence().into_iter().flatten();
    Ok(interactions.enumerate().map(|(i, one)| exchange(format!("{name} #{i}"), one)).collect())
}

/// All exchanges, in the order of their files; `None` when the data is not there.
///
/// # Errors
/// A file cannot be read.
pub fn exchanges() -> io::Result<Option<Vec<Exchange>>> {
    let Some(root) = test_data("cassettes") else { return Ok(None) };
    let mut files = Vec::new();
    for folder in std::fs::read_dir(root)? {
        let folder = folder?.path();
        if folder.is_dir() {
            for file in std::fs::read_dir(folder)? {
                files.push(file?.path());
            }
        }
    }
    files.sort();
    let mut exchanges = Vec::new();
    for file in &files {
        exchanges.extend(read(file)?);
    }
    Ok(Some(exchanges))
}

/// The frames of a stream that comes in pieces.
///
/// # Errors
/// They are none.
pub fn frames<'a>(dialect: Dialect, pieces: impl IntoIterator<Item = &'a [u8]>) -> io::Result<Vec<SseEvent>> {
    let mut frames = Vec::new();
    if dialect == Dialect::Bedrock {
        let mut decoder = EventStreamDecoder::new(LARGEST_FRAME);
        for piece in pieces {
            decoder.push(piece, &mut frames).map_err(io::Error::other)?;
        }
        decoder.finish().map_err(io::Error::other)?;
        return Ok(frames);
    }
    let mut decoder = Decoder::new(LARGEST_FRAME);
    for piece in pieces {
        decoder.push(piece, &mut frames).map_err(io::Error::other)?;
    }
    frames.extend(decoder.finish().map_err(io::Error::other)?);
    Ok(frames)
}

/// What the frames of an answer to `request` say.
///
/// # Errors
/// The error that they tell, or that they are no complete answer.
pub fn decode(dialect: Dialect, frames: &[SseEvent], request: &Request) -> Result<Vec<Event>, Error> {
    let mut decoder = dialect.decoder(request, &request.model);
    let mut events = Vec::new();
    for frame in frames {
        decoder.push(frame, &mut events)?;
    }
    decoder.finish(&mut events)?;
    Ok(events)
}
