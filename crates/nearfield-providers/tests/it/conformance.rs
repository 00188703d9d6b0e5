//! One suite for all providers, and what is special to single ones. The suite is that of all backends: each answers the
//! same requests in its own dialect, streaming and not, and what comes out is the same.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use nearfield_api::{Backend, Dialect, Error, Event, Message, Prompt, Request, Role};
use nearfield_providers::{Cloud, CloudConfig, CloudKind, Pool, PoolEndpoint, PoolOptions};
use nearfield_testkit::cloud_dialects::ACCESS_TOKEN;
use nearfield_testkit::cloud_server::{CloudRequest, CloudServer};
use nearfield_testkit::conformance::{Check, Report, Subject, run};
use nearfield_testkit::plays::SIGNATURE;
use serde_json::{Value, json};

use crate::support::{self, KEY, drain};

/// A provider, as its section of the configuration has it.
pub(crate) struct Provider {
    pub(crate) name: &'static str,
    kind: CloudKind,
    section: String,
    pub(crate) dialect: Dialect,
}

pub(crate) struct Setup {
    pub(crate) server: Arc<CloudServer>,
    folder: tempfile::TempDir,
    public_key: Vec<u8>,
}

impl Setup {
    pub(crate) async fn new() -> Self {
        let server = Arc::new(CloudServer::start().await.unwrap());
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("key", KEY);
        write("id", "AKIDEXAMPLE");
        let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der = key.as_der().unwrap();
        let account = json!({"type": "service_account", "client_email": "robot@example.iam", "private_key_id": "k1",
            "private_key": format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", base64(der.as_ref())),
            "token_uri": format!("http://{}/token", server.address())});
        write("account.json", &account.to_string());
        Self { server, folder, public_key: key.public_key().as_ref().to_vec() }
    }

    pub(crate) fn providers(&self, whole: bool) -> Vec<Provider> {
        let root = format!("http://{}", self.server.address());
        let all = |name, kind, dialect, url: &str, rest: &str| Provider {
            name,
            kind,
            dialect,
            section: format!("base_url = \"{root}{url}\"\nwhole_answers = {whole}\n{rest}"),
        };
        let key = "key = \"file:key\"";
        let aws = "region = \"us-east-1\"\naccess_key_id = \"file:id\"\nsecret_access_key = \"file:key\"";
        let vertex = "project = \"p-1\"\nlocation = \"europe-west4\"\n";
        vec![
            all("openai responses", CloudKind::OpenAi, Dialect::OpenAiResponses, "/v1", key),
            all(
                "openai chat",
                CloudKind::OpenAi,
                Dialect::OpenAiChat,
                "/v1",
                &format!("{key}\napi = \"chat\""),
            ),
            all("anthropic", CloudKind::Anthropic, Dialect::Anthropic, "/v1", key),
            all("gemini", CloudKind::Gemini, Dialect::Gemini, "/v1beta", key),
            all("vertex with a key", CloudKind::Vertex, Dialect::Gemini, "", &format!("{vertex}{key}")),
            all(
                "vertex with a service account",
                CloudKind::Vertex,
                Dialect::Gemini,
                "",
                &format!("{vertex}service_account = \"file:account.json\""),
            ),
            all("bedrock with signatures", CloudKind::Bedrock, Dialect::Bedrock, "", aws),
            all(
                "bedrock with a key",
                CloudKind::Bedrock,
                Dialect::Bedrock,
                "",
                &format!("region = \"us-east-1\"\n{key}"),
            ),
            all(
                "bedrock, openai's chat",
                CloudKind::Bedrock,
                Dialect::OpenAiChat,
                "",
                &format!("api = \"chat\"\n{aws}"),
            ),
            all(
                "bedrock, openai's responses",
                CloudKind::Bedrock,
                Dialect::OpenAiResponses,
                "/v1",
                &format!("api = \"responses\"\nregion = \"us-east-1\"\n{key}"),
            ),
        ]
    }

    pub(crate) fn build(&self, provider: &Provider) -> Cloud {
        let config: CloudConfig = toml::from_str(&provider.section).unwrap();
        config.build(provider.kind, "cloud", self.folder.path()).unwrap()
    }

    /// The last request that asked for an answer.
    fn sent(&self) -> CloudRequest {
        self.server.seen().into_iter().rev().find(|request| request.target != "/token").unwrap()
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| (group << 8) | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[((group >> (18 - 6 * place)) & 63) as usize] as char;
            text.push(if place <= chunk.len() { digit } else { '=' });
        }
    }
    text
}

fn unbase64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for byte in text.bytes() {
        bits = (bits << 6) | DIGITS.iter().position(|digit| *digit == byte).unwrap() as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}

pub(crate) fn says(words: &str) -> Request {
    let messages = vec![Message::new(Role::System, "Be brief."), Message::new(Role::User, words)];
    Request { max_tokens: Some(64), ..Request::new("vendor.model-1:0", Prompt::Chat(messages)) }
}

pub(crate) async fn ask(backend: &Cloud, request: Request) -> Result<Vec<Event>, Error> {
    drain(backend.generate(Box::new(request)).await?).await.map_err(|(_, error)| error)
}

/// Nothing but what the dialect, the transport and the key need.
fn headers_are_ours(sent: &CloudRequest, name: &str) {
    const OURS: [&str; 13] = [
        "host",
        "user-agent",
        "accept",
        "accept-encoding",
        "content-type",
        "content-length",
        "authorization",
        "x-api-key",
        "x-goog-api-key",
        "anthropic-version",
        "x-amz-date",
        "x-amz-security-token",
        "connection",
    ];
    for (header, _) in &sent.headers {
        assert!(OURS.contains(&header.as_str()), "{name}: {header}");
    }
}

/// The suite, and beside it what was sent.
async fn every_provider_conforms(whole: bool) -> Vec<Report> {
    let setup = Setup::new().await;
    let mut reports = Vec::new();
    for provider in setup.providers(whole) {
        let backend = setup.build(&provider);
        assert_eq!(backend.dialect(), provider.dialect, "{}", provider.name);
        let name =
            if whole { format!("{}, in whole answers", provider.name) } else { provider.name.to_owned() };
        let far = Arc::clone(&setup.server);
        let mut subject = Subject::of_dialect(&name, provider.dialect, Arc::new(backend), far);
        subject.streams = !whole;
        let report = run(&subject).await;
        let seen = setup.server.take_seen();
        for sent in &seen {
            headers_are_ours(sent, &name);
            let streams = sent.target.contains("stream") || sent.json()["stream"] == true;
            let asks = sent.method == "POST" && sent.target != "/token";
            assert_eq!(streams, asks && !whole, "{name}: {}", sent.target);
        }
        let holds_signature = |sent: &CloudRequest| String::from_utf8_lossy(&sent.body).contains(SIGNATURE);
        assert_eq!(seen.iter().any(holds_signature), report.kept(Check::ThoughtReturns), "{name}");
        reports.push(report);
    }
    reports
}

#[tokio::test]
async fn every_provider_does_all_of_it_streaming() {
    let reports = every_provider_conforms(false).await;
    for report in &reports {
        println!("{report}");
    }
    assert!(reports.iter().all(Report::passed), "see what was printed");
    for check in Check::ALL {
        assert!(reports.iter().any(|report| report.kept(check)), "nobody does {check:?}");
    }
}

#[tokio::test]
async fn every_provider_does_all_of_it_in_whole_answers() {
    let reports = every_provider_conforms(true).await;
    for report in &reports {
        println!("{report}");
    }
    assert!(reports.iter().all(Report::passed), "see what was printed");
}

#[tokio::test]
async fn a_compatible_server_and_a_pool_of_two_do_all_of_it() {
    let server = Arc::new(CloudServer::start().await.unwrap());
    let lone = Arc::new(support::backend(&server));
    let lone = Subject::of_dialect("openai-compatible", Dialect::OpenAiChat, lone, server);
    let mut servers = Vec::new();
    for _ in 0..2 {
        servers.push(Arc::new(CloudServer::start().await.unwrap()));
    }
    let endpoint = |server: &Arc<CloudServer>| PoolEndpoint {
        base_url: server.base_url(),
        socket: None,
        weight: 1.0,
        drain: false,
    };
    let pool = Pool::new(PoolOptions {
        common: support::options(""),
        endpoints: servers.iter().map(endpoint).collect(),
        check_every: Duration::from_secs(1),
        slow_start: Duration::ZERO,
        cache_salt: false,
    });
    let mut pool =
        Subject::of_dialect("a pool of two", Dialect::OpenAiChat, Arc::new(pool.unwrap()), servers.clone());
    pool.endpoints = 2;
    for subject in [lone, pool] {
        let report = run(&subject).await;
        println!("{report}");
        assert!(report.passed(), "{report}");
    }
    assert!(servers.iter().all(|server| server.seen().iter().any(|request| request.method == "POST")));
}

#[tokio::test]
async fn keys_go_where_each_provider_wants_them() {
    let setup = Setup::new().await;
    for provider in setup.providers(false) {
        let backend = setup.build(&provider);
        ask(&backend, says("hello")).await.unwrap();
        let sent = setup.sent();
        let bearer = format!("Bearer {KEY}");
        let found = ["authorization", "x-api-key", "x-goog-api-key"].map(|name| sent.header(name));
        match provider.name {
            "anthropic" => assert_eq!(found, [None, Some(KEY), None]),
            "gemini" | "vertex with a key" => assert_eq!(found, [None, None, Some(KEY)]),
            "vertex with a service account" => {
                assert_eq!(found, [Some(format!("Bearer {ACCESS_TOKEN}").as_str()), None, None]);
            }
            "bedrock with signatures" | "bedrock, openai's chat" => {
                assert!(found[0].unwrap().starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"));
                assert!(!String::from_utf8_lossy(&sent.body).contains(KEY));
            }
            _ => assert_eq!(found, [Some(bearer.as_str()), None, None]),
        }
        let expected = match provider.name {
            "openai responses" | "bedrock, openai's responses" => "/v1/responses",
            "openai chat" => "/v1/chat/completions",
            "anthropic" => "/v1/messages",
            "gemini" => "/v1beta/models/vendor.model-1%3A0:streamGenerateContent?alt=sse",
            "bedrock, openai's chat" => "/openai/v1/chat/completions",
            name if name.starts_with("vertex") => {
                "/v1/projects/p-1/locations/europe-west4/publishers/google/models/vendor.model-1%3A0:streamGenerateContent?alt=sse"
            }
            _ => "/model/vendor.model-1%3A0/converse-stream",
        };
        assert_eq!(sent.target, expected, "{}", provider.name);
    }
}

#[tokio::test]
async fn nothing_is_kept_by_providers_that_keep_answers() {
    let setup = Setup::new().await;
    for provider in setup.providers(false) {
        let keeps = provider.name.starts_with("openai") || provider.name.ends_with("responses");
        for (settings, callers, expected) in [
            ("", None, keeps.then_some(false)),
            ("", Some(true), keeps.then_some(false)),
            ("store = true", Some(false), Some(false)),
            ("store = true", Some(true), None),
        ] {
            if !keeps && !settings.is_empty() {
                continue;
            }
            let section = format!("{}\n{settings}", provider.section);
            let backend = setup.build(&Provider { section, ..provider });
            let mut request = says("hello");
            request.labels.store = callers;
            ask(&backend, request).await.unwrap();
            let sent = setup.sent().json()["store"].as_bool();
            assert_eq!(sent, expected, "{}, {settings:?}, {callers:?}", provider.name);
        }
    }
}

#[tokio::test]
async fn a_service_account_signs_once_for_many_requests() {
    let setup = Setup::new().await;
    let provider = setup.providers(false).into_iter().find(|p| p.name.contains("service account")).unwrap();
    let backend = setup.build(&provider);
    for _ in 0..3 {
        ask(&backend, says("hello")).await.unwrap();
    }
    let tokens: Vec<_> =
        setup.server.seen().into_iter().filter(|request| request.target == "/token").collect();
    let [token] = tokens.as_slice() else { panic!("{tokens:?}") };
    assert_eq!(token.header("content-type"), Some("application/x-www-form-urlencoded"));
    let body = String::from_utf8(token.body.to_vec()).unwrap();
    let jwt = body.split("assertion=").nth(1).unwrap();
    assert!(body.starts_with("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&"), "{body}");
    let (signed, signature) = jwt.rsplit_once('.').unwrap();
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &setup.public_key);
    key.verify(signed.as_bytes(), &unbase64(signature)).unwrap();
    let (header, claims) = signed.split_once('.').unwrap();
    let header: Value = serde_json::from_slice(&unbase64(header)).unwrap();
    assert_eq!(header, json!({"alg": "RS256", "typ": "JWT", "kid": "k1"}));
    let claims: Value = serde_json::from_slice(&unbase64(claims)).unwrap();
    assert_eq!(claims["iss"], "robot@example.iam");
    assert_eq!(claims["aud"], format!("http://{}/token", setup.server.address()));
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 3600);
    assert_eq!(claims["scope"], "https://www.googleapis.com/auth/cloud-platform");
}

#[test]
fn settings_that_do_not_fit_are_named() {
    let build = |kind, text: &str| {
        toml::from_str::<CloudConfig>(text)
            .unwrap()
            .build(kind, "cloud", Path::new(""))
            .unwrap_err()
            .to_string()
    };
    for (kind, text, says) in [
        (CloudKind::OpenAi, "region = \"x\"", "region means nothing"),
        (CloudKind::Anthropic, "api = \"chat\"", "api is not one"),
        (CloudKind::Vertex, "project = \"p\"", "location is missing"),
        (CloudKind::Vertex, "project = \"p\"\nlocation = \"global\"", "only one of them"),
        (CloudKind::Vertex, "project = \"p/../x\"\nlocation = \"global\"", "project has characters"),
        (CloudKind::Bedrock, "region = \"us-east-1\"", "access_key_id"),
        (CloudKind::Bedrock, "key = \"env:PATH\"", "region is missing"),
        (CloudKind::Gemini, "labels = \"pseudonym\"", "label_key is missing"),
        (CloudKind::Gemini, "base_url = \"http://host.example\"", "allow_plaintext"),
        (CloudKind::OpenAi, "key = \"sk-0123\"", "must be a reference"),
    ] {
        let error = build(kind, text);
        assert!(error.contains(says), "{error}");
        assert!(!error.contains("sk-0123"), "{error}");
    }
}
