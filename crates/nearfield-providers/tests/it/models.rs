//! Lists of models.

use std::collections::BTreeMap;

use nearfield_api::{Backend as _, ErrorKind, Locality, ModelInfo};
use nearfield_providers::{OpenAiCompatible, OpenAiCompatibleOptions, ProviderError};
use nearfield_testkit::cloud_server::{CloudServer, MODELS, Script};
use serde_json::json;

use crate::support::{KEY, SHORT, backend, impatient, options};

#[tokio::test]
async fn a_list_is_asked_for_once() {
    let server = CloudServer::start().await.unwrap();
    let backend = backend(&server);
    assert_eq!((backend.name(), backend.locality()), ("cloud", Locality::Cloud));
    let expected = MODELS.map(|id| ModelInfo { id: id.to_owned(), context_length: None });
    let (one, two) = tokio::join!(backend.models(), backend.models());
    assert_eq!((one.unwrap(), two.unwrap()), (expected.to_vec(), expected.to_vec()));
    assert_eq!(backend.models().await.unwrap(), expected);
    let seen = server.seen();
    let [sent] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!(sent.target, "/v1/models");
    assert_eq!(sent.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
}

#[tokio::test]
async fn configured_models_are_not_asked_for() {
    let server = CloudServer::start().await.unwrap();
    let options = OpenAiCompatibleOptions {
        models: vec!["a".to_owned()],
        model_map: BTreeMap::from([("b".to_owned(), "up".to_owned())]),
        ..options(&server.base_url())
    };
    let models = OpenAiCompatible::new(options).unwrap().models().await.unwrap();
    assert_eq!(models.iter().map(|model| model.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn lists_that_cannot_be_had() {
    let server = CloudServer::start().await.unwrap();
    for (script, kind, says) in [
        (Script::answer(401, &[], "no"), ErrorKind::Upstream, "check the key"),
        (Script::answer(200, &[], "<html>"), ErrorKind::Upstream, "list of models"),
        (Script::json(200, &json!({"data": "x"})), ErrorKind::Upstream, "list of models"),
        (Script::answer(302, &[("Location", "/")], ""), ErrorKind::Upstream, "redirect"),
        (Script::answer(200, &[], vec![b' '; 9 << 20]), ErrorKind::Upstream, "larger than"),
        (Script::new().silence(), ErrorKind::Timeout, "did not answer"),
        (
            Script::new().bytes("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{").silence(),
            ErrorKind::Timeout,
            "did not answer",
        ),
    ] {
        let backend = impatient(&server, |timeouts| timeouts.first_byte = SHORT * 3);
        let before = server.seen().len();
        server.next(script);
        let error = backend.models().await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.message.contains(says) && error.message.contains("`cloud`"), "{error}");
        // A failure is remembered for a moment.
        assert_eq!(backend.models().await.unwrap_err(), error);
        assert_eq!(server.seen().len(), before + 1);
    }
}

#[test]
fn options_that_make_no_sense() {
    let make = |change: &dyn Fn(&mut OpenAiCompatibleOptions)| {
        let mut options = options("https://host.example/v1");
        change(&mut options);
        OpenAiCompatible::new(options).unwrap_err()
    };
    let error = make(&|options| options.base_url = "http://host.example/v1".to_owned());
    assert!(matches!(error, ProviderError::BaseUrl { .. }), "{error}");
    let error = make(&|options| options.timeouts.idle = std::time::Duration::ZERO);
    assert!(error.to_string().contains("idle_timeout_seconds"), "{error}");
    let error = make(&|options| options.models = vec![String::new()]);
    assert!(error.to_string().contains("models"), "{error}");
    let error = make(&|options| options.model_map = BTreeMap::from([("a".to_owned(), String::new())]));
    assert!(error.to_string().contains("model_map"), "{error}");
    let error = make(&|options| options.certificates = Some("/no/such/file.pem".into()));
    assert!(error.to_string().contains("/no/such/file.pem"), "{error}");
    for key in ["", "sk-\n", "sk-\u{1f511}"] {
        let error = make(&|options| options.key = Some(nearfield_providers::Secret::new(key)));
        assert!(error.to_string().contains("header") && !format!("{error:?}").contains("sk-"), "{error}");
    }
}
