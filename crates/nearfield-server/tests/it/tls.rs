//! TLS, and HTTP/2 through it.

use nearfield_server::http::{ServeError, Server, ServerOptions};
use nearfield_server::tls::TlsFiles;
use reqwest::Version;
use serde_json::Value;

use crate::scripted::{Scripted, hello};
use crate::support::{KEY, Setup, chat};

fn certificate(folder: &std::path::Path) -> (TlsFiles, reqwest::Certificate) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let files = TlsFiles { certificate: folder.join("cert.pem"), key: folder.join("key.pem") };
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    (files, reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap())
}

#[tokio::test]
async fn both_protocols_answer_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let (files, root) = certificate(folder.path());
    let mut setup = Setup::local(Scripted::local([hello()]));
    setup.options.tls = Some(files);
    let server = setup.start().await;
    assert!(server.base_url.starts_with("https://127.0.0.1:"), "{}", server.base_url);
    for (version, http1) in [(Version::HTTP_2, false), (Version::HTTP_11, true)] {
        let builder = reqwest::Client::builder().tls_certs_only([root.clone()]).no_proxy();
        let client = if http1 { builder.http1_only() } else { builder }.build().unwrap();
        let reply = client
            .post(format!("{}/chat/completions", server.base_url))
            .bearer_auth(KEY)
            .body(chat("Hi").to_string())
            .send()
            .await
            .unwrap();
        assert_eq!((reply.status().as_u16(), reply.version()), (200, version));
        let body: Value = reply.json().await.unwrap();
        assert_eq!(body["choices"][0]["message"]["content"], "Hello, world");
    }
    let mut plain = server.connect().await;
    plain.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(plain.try_head().await.is_none(), "plain text was answered on a TLS port");
}

#[tokio::test]
async fn files_that_are_no_certificate_are_found_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let (mut files, _) = certificate(folder.path());
    std::fs::write(&files.certificate, "no PEM").unwrap();
    let bind = async |files: &TlsFiles| {
        let options = ServerOptions { port: 0, tls: Some(files.clone()), ..ServerOptions::default() };
        Server::bind(options).await.unwrap_err()
    };
    let error = bind(&files).await;
    assert!(matches!(error, ServeError::Tls(_)) && error.to_string().contains("cert.pem"), "{error}");
    files.certificate = folder.path().join("none.pem");
    assert!(bind(&files).await.to_string().contains("none.pem"));
}

#[tokio::test]
async fn a_port_in_use_is_said() {
    let server = Setup::local(Scripted::local([hello()])).start().await;
    let port = server.address.port();
    let error = Server::bind(ServerOptions { port, ..ServerOptions::default() }).await.unwrap_err();
    assert!(matches!(error, ServeError::PortInUse { .. }));
    assert!(error.to_string().contains(&port.to_string()) && error.to_string().contains("--port"), "{error}");
}
