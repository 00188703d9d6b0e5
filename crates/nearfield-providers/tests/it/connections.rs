//! Who holds a connection, and how long.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use nearfield_api::{Backend as _, Event};
use nearfield_providers::{OpenAiCompatible, OpenAiCompatibleOptions};
use nearfield_testkit::cloud_server::{CloudServer, Script, delta, finish};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{ask, backend, drain, request, text};

#[tokio::test]
async fn dropping_an_answer_closes_its_connection() {
    let server = CloudServer::start().await.unwrap();
    let backend = backend(&server);
    server.next(Script::stream().event(&delta("ab")).silence());
    let mut stream = backend.generate(Box::new(request())).await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    drop(stream);
    server.clients_gone(1).await.unwrap();
}

#[tokio::test]
async fn giving_up_before_the_answer_closes_the_connection_too() {
    let server = CloudServer::start().await.unwrap();
    let backend = backend(&server);
    for (gone, script) in [(1, Script::new().silence()), (2, Script::stream().chunk(": wait\n\n").silence())]
    {
        server.next(script);
        let waiting = backend.generate(Box::new(request()));
        assert!(tokio::time::timeout(Duration::from_millis(200), waiting).await.is_err());
        server.clients_gone(gone).await.unwrap();
    }
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_whole_answer_leaves_its_connection_for_the_next() {
    let server = CloudServer::start().await.unwrap();
    let backend = backend(&server);
    for _ in 0..5 {
        ask(&backend, request()).await;
    }
    assert_eq!((server.seen().len(), server.connections()), (5, 1));
    // Also when the body's end comes a moment after the answer's.
    let whole = Script::stream().event(&delta("ab")).event(&finish("stop")).event("[DONE]");
    server.next(whole.pause(Duration::from_millis(5)).end());
    ask(&backend, request()).await;
    ask(&backend, request()).await;
    assert_eq!((server.seen().len(), server.connections()), (7, 1));
}

#[tokio::test]
async fn an_answer_that_is_dropped_at_its_end_leaves_its_connection_too() {
    let server = CloudServer::start().await.unwrap();
    let backend = backend(&server);
    for _ in 0..5 {
        let mut stream = backend.generate(Box::new(request())).await.unwrap();
        while !matches!(stream.next().await.unwrap().unwrap(), Event::Done { .. }) {}
        drop(stream);
    }
    assert_eq!((server.seen().len(), server.connections()), (5, 1));
}

#[tokio::test]
async fn a_connection_serves_the_runtime_that_it_was_opened_in() {
    let server = CloudServer::start().await.unwrap();
    let backend = Arc::new(backend(&server));
    ask(&backend, request()).await;
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let own = Arc::clone(&backend);
    let stream = other.spawn(async move { own.generate(Box::new(request())).await.unwrap() }).await.unwrap();
    assert_eq!(server.connections(), 2);
    // Also after its answer was read elsewhere.
    drain(stream).await.unwrap();
    ask(&backend, request()).await;
    let own = Arc::clone(&backend);
    other.spawn(async move { drop(ask(&own, request()).await) }).await.unwrap();
    assert_eq!((server.seen().len(), server.connections()), (4, 2));
    other.shutdown_background();
    ask(&backend, request()).await;
    assert_eq!((server.seen().len(), server.connections()), (5, 2));
}

/// A server that answers one request on each connection, says nothing of its intention, and closes it.
#[tokio::test]
async fn a_connection_that_was_closed_while_it_waited_is_not_used() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let options =
        OpenAiCompatibleOptions::new("cloud", format!("http://{}/v1", listener.local_addr().unwrap()));
    let backend = OpenAiCompatible::new(options).unwrap();
    let (closed, mut was_closed) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let length = head(&mut stream).await;
            stream.read_exact(&mut vec![0; length]).await.unwrap();
            stream.write_all(&reply()).await.unwrap();
            stream.shutdown().await.unwrap();
            drop(stream);
            closed.send(()).unwrap();
        }
    });
    for _ in 0..3 {
        assert_eq!(text(&ask(&backend, request()).await), "a");
        was_closed.recv().await.unwrap();
    }
    assert!(was_closed.is_empty());
}

/// Servers that answer before they have read all, or say more than was asked: what is sent next would be read as
/// something else, and what they said as the answer to it.
#[tokio::test]
async fn a_connection_that_is_not_where_the_next_request_begins_is_not_used_again() {
    for (length, more) in [(32 << 20, ""), (1, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")] {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let options =
            OpenAiCompatibleOptions::new("cloud", format!("http://{}/v1", listener.local_addr().unwrap()));
        let backend = OpenAiCompatible::new(options).unwrap();
        let serving = tokio::spawn(async move {
            let mut open = Vec::new();
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let length = head(&mut stream).await;
                if length < 1 << 20 {
                    stream.read_exact(&mut vec![0; length]).await.unwrap();
                }
                stream.write_all(&[&reply(), more.as_bytes()].concat()).await.unwrap();
                open.push(stream);
            }
            open
        });
        let mut large = request();
        large.model = "m".repeat(length);
        assert_eq!(text(&ask(&backend, large).await), "a");
        assert_eq!(text(&ask(&backend, request()).await), "a");
        assert_eq!(serving.await.unwrap().len(), 2);
    }
}

/// Reads the head of a request; returns how long its body is.
async fn head(stream: &mut TcpStream) -> usize {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    length.parse().unwrap()
}

fn reply() -> Vec<u8> {
    let body = r#"{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}"#;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length:";
    format!("{head} {}\r\n\r\n{body}", body.len()).into_bytes()
}
