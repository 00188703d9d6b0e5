//! Every limit, met from outside.

use std::time::Duration;

use futures_util::future::join_all;
use nearfield_server::http::{Server, ServerOptions};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::scripted::{Play, Script, Scripted, delta, hello, started};
use crate::support::{KEY, Reply, Running, Setup, chat, chat_with};

fn setup() -> Setup {
    Setup::local(Scripted::local([hello()]))
}

async fn raw(server: &Running, bytes: &[u8]) -> Reply {
    let mut client = server.connect().await;
    client.write(bytes).await;
    client.reply().await
}

fn post(headers: &str, body: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\n{headers}\r\n{body}"
    )
}

fn with_length(body: &str) -> String {
    post(&format!("content-length: {}\r\n", body.len()), body)
}

#[tokio::test]
async fn header_bytes() {
    let server = setup().limits(|l| l.header_bytes = 9000).start().await;
    let ask = async |size: usize| {
        let request =
            format!("GET /health HTTP/1.1\r\nhost: localhost\r\nx-long: {}\r\n\r\n", "a".repeat(size));
        raw(&server, request.as_bytes()).await.status
    };
    assert_eq!(ask(8800).await, 200);
    assert_eq!(ask(9100).await, 431);
    assert_eq!(ask(100_000).await, 431);
}

#[tokio::test]
async fn header_count() {
    let server = setup().limits(|l| l.headers = 10).start().await;
    let ask = async |count: usize| {
        let headers = "x-same: 1\r\n".repeat(count);
        raw(&server, format!("GET /health HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n").as_bytes())
            .await
            .status
    };
    assert_eq!(ask(9).await, 200);
    assert_eq!(ask(10).await, 431);
}

#[tokio::test]
async fn a_crowd_that_comes_at_once_waits_in_the_queue() {
    let options = ServerOptions { port: 0, ..ServerOptions::default() };
    // It does not accept yet, so all of them have to wait. Whoever finds no place tries again after a second.
    let server = Server::bind(options).await.unwrap();
    let crowd = join_all((0..400).map(|_| TcpStream::connect(server.address())));
    let came = tokio::time::timeout(Duration::from_millis(900), crowd).await.expect("the queue is too short");
    assert!(came.iter().all(Result::is_ok));
}

/// How long the server waits before it ends the connection.
async fn patience(server: &Running, bytes: &[u8]) -> Duration {
    let mut client = server.connect().await;
    client.write(bytes).await;
    let began = Instant::now();
    while client.try_head().await.is_some() {}
    began.elapsed()
}

#[tokio::test]
async fn header_read_time() {
    let server = setup().start().await;
    for bytes in
        [&b""[..], b"GET /health HT", b"GET /health HTTP/1.1\r\nhost: localhost\r\n", b"PRI * HTTP/2.0\r\n"]
    {
        let waited = patience(&server, bytes).await;
        let text = String::from_utf8_lossy(bytes);
        assert!(
            waited > Duration::from_millis(300) && waited < Duration::from_secs(3),
            "{text:?}: {waited:?}"
        );
    }
    // The time is for all headers together, not for each byte.
    let mut client = server.connect().await;
    let began = Instant::now();
    let slowly = async {
        for byte in b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" {
            use tokio::io::AsyncWriteExt as _;
            if client.stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    slowly.await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn body_read_time() {
    let server = setup().start().await;
    let began = Instant::now();
    let mut client = server.connect().await;
    client.write(post("content-length: 100\r\n", "{\"model\"").as_bytes()).await;
    let reply = client.reply().await;
    assert_eq!((reply.status, &reply.error()["code"]), (408, &json!("request_timeout")));
    assert_eq!(reply.header("connection"), Some("close"));
    assert!(client.is_closed().await);
    assert!(began.elapsed() < Duration::from_secs(3));
    assert!(server.rows().await.is_empty());
}

#[tokio::test]
async fn body_bytes() {
    let server = setup().limits(|l| l.requests.json.bytes = 2000).start().await;
    assert_eq!(raw(&server, with_length(&chat(&"a".repeat(1800)).to_string()).as_bytes()).await.status, 200);
    let long = chat(&"a".repeat(2000)).to_string();
    let reply = raw(&server, with_length(&long).as_bytes()).await;
    assert_eq!((reply.status, &reply.error()["code"]), (413, &json!("request_too_large")));
    // A length that is only claimed is not waited for.
    assert_eq!(raw(&server, post("content-length: 5000000000\r\n", "").as_bytes()).await.status, 413);
    let chunked = format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len());
    let reply = raw(&server, post("transfer-encoding: chunked\r\n", &chunked).as_bytes()).await;
    assert_eq!(reply.status, 413);
}

#[tokio::test]
async fn bodies_together() {
    let server = setup().limits(|l| l.bodies_in_flight_bytes = 1000).start().await;
    assert_eq!(raw(&server, with_length(&chat("Hi").to_string()).as_bytes()).await.status, 200);
    let reply = raw(&server, with_length(&chat(&"a".repeat(2000)).to_string()).as_bytes()).await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
}

#[tokio::test]
async fn json_depth() {
    let server = setup().limits(|l| l.requests.json.depth = 8).start().await;
    let nested = |depth: usize| {
        let value = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"model":"m","messages":[{{"role":"user","content":"Hi"}}],"metadata":{value}}}"#)
    };
    let reply = raw(&server, with_length(&nested(2000)).as_bytes()).await;
    assert_eq!(reply.status, 400);
    let message = reply.error()["message"].as_str().unwrap().to_owned();
    assert!(message.contains('8'), "{message}");
}

#[tokio::test]
async fn messages() {
    let server = setup().limits(|l| l.requests.messages = 3).start().await;
    let ask = async |count: usize| {
        let messages = vec![json!({ "role": "user", "content": "Hi" }); count];
        server.post("/v1/chat/completions", &json!({ "model": "m", "messages": messages })).await
    };
    assert_eq!(ask(3).await.status, 200);
    let reply = ask(4).await;
    assert_eq!((reply.status, &reply.error()["param"]), (400, &json!("messages")));
}

#[tokio::test]
async fn connections() {
    let server = setup().limits(|l| {
        l.connections = 2;
        l.header_read = Duration::from_secs(20);
    });
    let server = server.start().await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = server.connect().await;
        client.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        assert_eq!(client.reply().await.status, 200);
        held.push(client);
    }
    let mut third = server.connect().await;
    let reply = third.reply().await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    assert_eq!(reply.error()["code"], "too_many_connections");
    assert!(third.is_closed().await);
    held.pop();
    let began = Instant::now();
    loop {
        let mut client = server.connect().await;
        client.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        if client.reply().await.status == 200 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(5), "the place was not given back");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn idle_time() {
    let server = setup().limits(|l| l.idle = Duration::from_millis(300)).start().await;
    let mut client = server.connect().await;
    client.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!(client.reply().await.status, 200);
    let began = Instant::now();
    assert!(client.is_closed().await);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn an_answer_in_progress_is_not_idle() {
    let script =
        Script::Play(vec![started(), delta("a"), crate::scripted::wait(1200), delta("b"), Play::Hang]);
    let server =
        Setup::local(Scripted::local([script])).limits(|l| l.idle = Duration::from_millis(200)).start().await;
    let mut client = server.connect().await;
    client.send("POST", "/v1/chat/completions", &chat_with(json!({ "stream": true })).to_string()).await;
    client.head().await;
    let mut text = String::new();
    while !text.contains(r#""content":"b""#) {
        text += &client.chunk().await.expect("the answer was cut");
    }
}

#[tokio::test]
async fn lengths_that_contradict_each_other() {
    let server = setup().start().await;
    let body = chat("Hi").to_string();
    let length = body.len();
    for headers in [
        format!("content-length: {length}\r\ncontent-length: {}\r\n", length - 1),
        format!("content-length: {length}\r\ncontent-length: {length}\r\n"),
        format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n"),
        format!("content-length: {length}, {length}\r\n"),
        "content-length: +5\r\n".to_owned(),
        "content-length: 0x5\r\n".to_owned(),
    ] {
        let mut client = server.connect().await;
        let second = "GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n";
        client.write(format!("{}{second}", post(&headers, &body)).as_bytes()).await;
        let reply = client.reply().await;
        assert_eq!(reply.status, 400, "{headers}");
        assert!(client.try_head().await.is_none(), "something was answered after {headers}");
    }
    assert!(server.rows().await.is_empty());
}

/// One HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A POST whose body does not end, as a block of literal header fields.
fn open_request() -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    let mut field = |start: &[u8], name: &str, value: &str| {
        block.extend(start);
        if !name.is_empty() {
            block.push(u8::try_from(name.len()).unwrap());
            block.extend(name.bytes());
        }
        block.push(u8::try_from(value.len()).unwrap());
        block.extend(value.bytes());
    };
    field(&[0x04], "", "/v1/chat/completions");
    field(&[0x01], "", "localhost");
    field(&[0x00], "authorization", &format!("Bearer {KEY}"));
    block
}

#[tokio::test]
async fn http2_streams() {
    use tokio::io::AsyncReadExt as _;
    let limits = |l: &mut nearfield_server::limits::Limits| {
        l.http2_streams = 3;
        l.body_read = Duration::from_secs(10);
    };
    let server = setup().limits(limits).start().await;
    let mut client = server.connect().await;
    // What it begins with may come in pieces.
    client.write(b"PR").await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    client.write(b"I * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    client.write(&frame(4, 0, 0, &[])).await;
    let mut announced = None;
    let mut refused = Vec::new();
    let mut opened = false;
    while refused.len() < 2 {
        let mut head = [0; 9];
        tokio::time::timeout(Duration::from_secs(5), client.stream.read_exact(&mut head))
            .await
            .unwrap()
            .unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        client.stream.read_exact(&mut payload).await.unwrap();
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        match (head[3], head[4]) {
            (4, 0) => {
                let of =
                    |entry: &[u8]| (entry[1], u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]));
                announced = payload.chunks(6).map(of).find(|&(id, _)| id == 3).map(|(_, value)| value);
                client.write(&frame(4, 1, 0, &[])).await;
            }
            // The acknowledgement of our settings: from here on the limit holds.
            (4, 1) if !opened => {
                opened = true;
                for id in [1, 3, 5, 7, 9] {
                    client.write(&frame(1, 4, id, &open_request())).await;
                }
            }
            (3, _) => refused.push((stream, u32::from_be_bytes(payload.try_into().unwrap()))),
            _ => {}
        }
    }
    assert_eq!(announced, Some(3));
    let refused_stream = 7;
    assert_eq!(refused, [(7, refused_stream), (9, refused_stream)]);
}

#[tokio::test]
async fn compressed_bodies() {
    let server = setup().start().await;
    let reply = raw(&server, post("content-encoding: gzip\r\ncontent-length: 2\r\n", "{}").as_bytes()).await;
    assert_eq!((reply.status, &reply.error()["code"]), (415, &json!("unsupported_encoding")));
}
