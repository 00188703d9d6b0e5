//! Recorded streams of real providers, served byte by byte to the backends that ask those providers.

use std::collections::BTreeMap;
use std::time::Instant;

use nearfield_api::{Backend as _, Dialect, Event, Message, Prompt, Request, Role};
use nearfield_providers::Cloud;
use nearfield_testkit::cloud_server::{CloudServer, Script};
use nearfield_testkit::recordings::{self, Exchange, Kind, Received};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::conformance::Setup;
use crate::support::drain;

/// The backend that asks the provider of a recording.
fn provider_of(exchange: &Exchange, dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::OpenAiChat => "openai chat",
        Dialect::OpenAiResponses => "openai responses",
        Dialect::Anthropic => "anthropic",
        Dialect::Gemini if exchange.uri.contains("aiplatform") => "vertex with a key",
        Dialect::Gemini => "gemini",
        Dialect::Bedrock => "bedrock with signatures",
    }
}

/// What the backend makes of an answer that is served so.
async fn served(setup: &Setup, backend: &Cloud, request: &Request, script: Script) -> Vec<Event> {
    setup.server.next(script);
    let stream = backend.generate(Box::new(request.clone())).await.unwrap();
    drain(stream).await.unwrap()
}

#[tokio::test]
async fn recorded_streams_are_read_byte_by_byte() {
    let Some(exchanges) = recordings::exchanges().unwrap() else { return };
    let setup = Setup::new().await;
    let backends: BTreeMap<&str, Cloud> =
        setup.providers(false).iter().map(|provider| (provider.name, setup.build(provider))).collect();
    let mut done: BTreeMap<&str, (u32, usize)> = BTreeMap::new();
    let started = Instant::now();
    for exchange in &exchanges {
        let (Kind::Answer(dialect), Received::Bytes(body)) = (exchange.kind(), &exchange.received) else {
            continue;
        };
        // That host answers with nonsense, to show what is made of it.
        if !exchange.streams() || exchange.uri.contains("demo-endpoints") {
            continue;
        }
        let asked = Prompt::Chat(vec![Message::new(Role::User, "go on")]);
        let request = exchange.request(dialect).unwrap_or_else(|_| Request::new("m", asked));
        let frames = recordings::frames(dialect, [body.as_slice()]).unwrap();
        let expected = recordings::decode(dialect, &frames, &request).unwrap();
        let name = provider_of(exchange, dialect);
        let backend = &backends[name];
        // The whole reply in writes of one byte, its head too, until the connection closes.
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {}\r\n\r\n", exchange.media_type);
        let reply = [head.as_bytes(), body].concat();
        let events = served(&setup, backend, &request, Script::new().byte_by_byte(reply)).await;
        assert_eq!(events, expected, "{}, in writes of one byte", exchange.name);
        // However many bytes a read brings, in chunks of one byte they are handed on one by one.
        let script = Script::stream_of(&exchange.media_type).chunks_of(1, body).end();
        let events = served(&setup, backend, &request, script).await;
        assert_eq!(events, expected, "{}, in chunks of one byte", exchange.name);
        let (streams, bytes) = done.entry(name).or_default();
        (*streams, *bytes) = (*streams + 1, *bytes + body.len());
    }
    for (name, (streams, bytes)) in &done {
        eprintln!("{name}: {streams} streams, {bytes} bytes, each in a write and in a chunk of its own");
    }
    let streams: u32 = done.values().map(|(streams, _)| streams).sum();
    eprintln!("{streams} streams in {:.1} s", started.elapsed().as_secs_f32());
    assert!(streams >= 27 && done.len() == 6, "{done:?}");
}

/// Without this the test above could pass with all bytes in one read.
#[tokio::test]
async fn bytes_that_are_written_one_by_one_are_read_so() {
    let server = CloudServer::start().await.unwrap();
    server.next(Script::new().byte_by_byte(vec![b'x'; 2000]));
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut buffer = [0; 4096];
    let (mut reads, mut bytes) = (0, 0);
    loop {
        match stream.read(&mut buffer).await.unwrap() {
            0 => break,
            count => (reads, bytes) = (reads + 1, bytes + count),
        }
    }
    assert_eq!(bytes, 2000);
    assert!(reads > 1900, "{reads} reads");
}
