//! What every request must pass: host, origin, key.

use nearfield_server::keys::KeyStore;
use serde_json::json;

use crate::scripted::{Scripted, hello};
use crate::support::{KEY, Reply, Running, Setup};

async fn raw(server: &Running, text: &str) -> Reply {
    let mut client = server.connect().await;
    client.write(text.as_bytes()).await;
    client.reply().await
}

fn models(headers: &str) -> String {
    format!("GET /v1/models HTTP/1.1\r\n{headers}\r\n")
}

#[tokio::test]
async fn a_key_is_asked_for_everywhere_but_at_health() {
    let server = Setup::local(Scripted::local([hello()])).start().await;
    for path in ["/v1/models", "/v1/models/m", "/metrics", "/v1/none", "/none"] {
        for authorization in ["", "authorization: Bearer wrong\r\n", "authorization: Basic dGVzdC1rZXk=\r\n"]
        {
            let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{authorization}\r\n");
            let reply = raw(&server, &request).await;
            assert_eq!(reply.status, 401, "{path} {authorization}");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
            let error = reply.error();
            let form = (&error["type"], &error["code"], &error["param"]);
            assert_eq!(form, (&json!("authentication_error"), &json!("invalid_api_key"), &json!(null)));
            assert!(!reply.body.contains("wrong"), "a key is echoed");
        }
    }
    let reply = raw(&server, "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!(reply.status, 200);
    assert!(server.rows().await.is_empty(), "what was not let in is no request");
}

#[tokio::test]
async fn a_revoked_key_is_refused_by_the_next_request() {
    let server = Setup::local(Scripted::local([hello()])).start().await;
    // As another process would.
    let store = KeyStore::open(server.folder.path()).unwrap();
    let key = store.add("laptop").unwrap();
    let request = models(&format!("host: localhost\r\nauthorization: Bearer {}\r\n", key.plaintext));
    assert_eq!(raw(&server, &request).await.status, 200);
    store.revoke("laptop").unwrap();
    assert_eq!(raw(&server, &request).await.status, 401);
}

#[tokio::test]
async fn only_our_own_host_names_are_answered() {
    let mut setup = Setup::local(Scripted::local([hello()]));
    setup.options.allowed_hosts = vec!["box.example".to_owned()];
    let server = setup.start().await;
    let to = async |hosts: &[&str]| {
        let hosts: String = hosts.iter().flat_map(|host| ["host: ", host, "\r\n"]).collect();
        raw(&server, &models(&format!("{hosts}authorization: Bearer {KEY}\r\n"))).await
    };
    let own = server.address.to_string();
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:80", "box.example", own.as_str()] {
        assert_eq!(to(&[host]).await.status, 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example", "192.0.2.1", "a.box.example"] {
        let reply = to(&[host]).await;
        assert_eq!((reply.status, &reply.error()["code"]), (421, &json!("host_not_allowed")), "{host}");
    }
    assert_eq!(to(&[]).await.status, 400);
    assert_eq!(to(&["localhost", "localhost"]).await.status, 400);
    let health = raw(&server, "GET /health HTTP/1.1\r\nhost: evil.example\r\n\r\n").await;
    assert_eq!(health.status, 421, "rebinding reaches nothing");
}

fn from_page(origin: &str) -> String {
    models(&format!("host: localhost\r\nauthorization: Bearer {KEY}\r\norigin: {origin}\r\n"))
}

fn cors(reply: &Reply) -> Vec<&str> {
    reply
        .headers
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| name.starts_with("access-control"))
        .collect()
}

#[tokio::test]
async fn no_page_may_call_unless_its_origin_is_listed() {
    let closed = Setup::local(Scripted::local([hello()])).start().await;
    let reply = raw(&closed, &from_page("https://chat.example")).await;
    assert!(cors(&reply).is_empty(), "{reply:?}");
    let preflight = "OPTIONS /v1/models HTTP/1.1\r\nhost: localhost\r\norigin: https://chat.example\r\n\
                     access-control-request-method: GET\r\n\r\n";
    let reply = raw(&closed, preflight).await;
    assert!(cors(&reply).is_empty() && reply.status >= 400, "{reply:?}");

    let mut setup = Setup::local(Scripted::local([hello()]));
    setup.options.cors_origins = vec!["https://chat.example".to_owned()];
    let open = setup.start().await;
    let reply = raw(&open, &from_page("https://chat.example")).await;
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://chat.example"));
    assert!(reply.header("access-control-expose-headers").unwrap().contains("x-nearfield-backend"));
    let reply = raw(&open, preflight).await;
    assert_eq!(reply.status, 204);
    assert_eq!(reply.header("access-control-allow-methods"), Some("GET, POST"));
    for origin in ["https://evil.example", "null", "https://chat.example.evil.example", "http://chat.example"]
    {
        let reply = raw(&open, &from_page(origin)).await;
        assert!(cors(&reply).is_empty(), "{origin}");
        assert_eq!(reply.header("vary"), Some("origin"));
    }
}
