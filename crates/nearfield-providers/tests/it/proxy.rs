//! Through a proxy that the backend names.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use nearfield_providers::OpenAiCompatible;
use nearfield_testkit::cloud_server::{ANSWER, CloudServer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{ask, options, request, text};
use crate::tls::with_tls;

/// `user:p@ss`, as a proxy is told it.
const AUTHORIZATION: &str = "proxy-authorization: Basic dXNlcjpwQHNz";

/// A proxy that leads everything to one place; the heads that it was sent.
async fn proxy(target: SocketAddr) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((mut outside, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(outside.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let mut inside = TcpStream::connect(target).await.unwrap();
                if head.starts_with("CONNECT ") {
                    outside.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                } else {
                    let head = head.replacen("http://backend.example", "", 1);
                    inside.write_all(head.as_bytes()).await.unwrap();
                }
                seen.lock().unwrap().push(head);
                drop(copy_bidirectional(&mut outside, &mut inside).await);
            });
        }
    });
    (port, heads)
}

#[tokio::test]
async fn plain_requests_are_sent_to_it_whole() {
    let server = CloudServer::start().await.unwrap();
    let (port, heads) = proxy(server.address()).await;
    let mut options = options("http://backend.example/v1");
    options.allow_plaintext = true;
    options.proxy = Some(format!("http://user:p%40ss@127.0.0.1:{port}"));
    let backend = OpenAiCompatible::new(options).unwrap();
    for _ in 0..2 {
        assert_eq!(text(&ask(&backend, request()).await), ANSWER.concat());
    }
    let heads = heads.lock().unwrap().clone();
    let [head] = &heads[..] else { panic!("a connection was not used again: {heads:?}") };
    assert!(head.starts_with("POST http://backend.example/v1/chat/completions HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(AUTHORIZATION), "{head}");
}

#[tokio::test]
async fn it_sees_nothing_of_a_request_with_tls() {
    let server = CloudServer::start().await.unwrap();
    let (port, pem) = with_tls(&server, "backend.example").await;
    let (port, heads) = proxy(([127, 0, 0, 1], port).into()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, pem).unwrap();
    let mut options = options("https://backend.example/v1");
    options.certificates = Some(file);
    options.proxy = Some(format!("user:p%40ss@127.0.0.1:{port}"));
    assert_eq!(text(&ask(&OpenAiCompatible::new(options).unwrap(), request()).await), ANSWER.concat());
    let heads = heads.lock().unwrap().clone();
    let [head] = &heads[..] else { panic!("{heads:?}") };
    assert!(head.starts_with("CONNECT backend.example:443 HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains(&AUTHORIZATION.to_lowercase()), "{head}");
    assert!(!head.to_lowercase().contains("\r\nauthorization"), "{head}");
    assert_eq!(server.seen()[0].header("proxy-authorization"), None);
}

#[tokio::test]
async fn this_machine_is_not_reached_through_it() {
    let server = CloudServer::start().await.unwrap();
    let mut options = options(&server.base_url());
    options.proxy = Some("http://127.0.0.1:9".to_owned());
    assert_eq!(text(&ask(&OpenAiCompatible::new(options).unwrap(), request()).await), ANSWER.concat());
}

#[test]
fn what_is_no_proxy_is_refused_without_repeating_it() {
    for proxy in ["ftp://user:hunter2@host", "socks5://user:hunter2@host", "http://user:hunter2@", "http://"]
    {
        let mut options = options("https://backend.example/v1");
        options.proxy = Some(proxy.to_owned());
        let error = OpenAiCompatible::new(options).unwrap_err().to_string();
        assert!(error.contains("proxy") && !error.contains("hunter2"), "{error}");
    }
}
