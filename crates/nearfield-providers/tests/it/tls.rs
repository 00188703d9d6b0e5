//! Whose certificates are trusted.

use std::sync::Arc;

use nearfield_api::ErrorKind;
use nearfield_providers::OpenAiCompatible;
use nearfield_testkit::cloud_server::{ANSWER, CloudServer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::{ask, options, refused, request, text};

/// Puts TLS in front of a server, under a name; returns its port and the certificate in PEM form.
pub(crate) async fn with_tls(server: &CloudServer, name: &str) -> (u16, String) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (port, target) = (listener.local_addr().unwrap().port(), server.address());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut outside) = acceptor.accept(stream).await else { return };
                let mut inside = TcpStream::connect(target).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut outside, &mut inside).await);
            });
        }
    });
    (port, made.cert.pem())
}

#[tokio::test]
async fn only_the_named_authorities_are_trusted() {
    let server = CloudServer::start().await.unwrap();
    let (port, pem) = with_tls(&server, "localhost").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, pem).unwrap();
    let mut options = options(&format!("https://localhost:{port}/v1"));
    options.certificates = Some(file.clone());
    let backend = OpenAiCompatible::new(options.clone()).unwrap();
    assert_eq!(text(&ask(&backend, request()).await), ANSWER.concat());

    // Another authority, and another name of the same server.
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&file, other.cert.pem()).unwrap();
    let error = refused(&OpenAiCompatible::new(options.clone()).unwrap()).await;
    assert_eq!(error.kind, ErrorKind::Upstream);
    assert!(error.message.contains("certificate"), "{error}");
    std::fs::write(&file, "no certificates here").unwrap();
    let error = OpenAiCompatible::new(options).unwrap_err().to_string();
    assert!(error.contains("no certificate"), "{error}");
    assert_eq!(server.seen().len(), 1, "an untrusted server was sent a request");
}

#[tokio::test]
async fn a_certificate_must_bear_the_servers_name() {
    let server = CloudServer::start().await.unwrap();
    let (port, pem) = with_tls(&server, "localhost").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, pem).unwrap();
    let mut options = options(&format!("https://127.0.0.1:{port}/v1"));
    options.certificates = Some(file);
    let error = refused(&OpenAiCompatible::new(options).unwrap()).await;
    assert!(error.message.contains("certificate"), "{error}");
    assert!(server.seen().is_empty());
}
