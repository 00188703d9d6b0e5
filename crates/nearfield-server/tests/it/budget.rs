//! What keys may spend in a month, and rules that look at how busy this machine is.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use nearfield_api::{
    Backend, BackendLoad, Function, JsonSchema, Message, OutputFormat, Prompt, Request, Role, Tool,
};
use nearfield_privacy::HashKey;
use nearfield_router::Policy;
use nearfield_router::rules::Rules;
use nearfield_server::gateway::{Caller, ConfiguredBackend, Gateway};
use nearfield_store::{Ledger, NanoDollars};

use crate::scripted::{Script, Scripted, cloud_hello, hello, wait};
use crate::support::{gateway, of_backends, rows};

/// A thousand tokens of an answer by this model cost more than half of the key's month.
const LIMITED: &str = r#"{
    "key": { "k": { "class": "internal", "dollars_per_month": 0.002 }, "free": { "class": "internal" } },
    "rule": [
        { "name": "much left", "when": { "dollars_left": 0.0019 }, "backends": ["far", "local"] },
        { "name": "less left", "backends": ["far", "local"] }
    ]
}"#;

async fn limited(folder: &Path, far: Script) -> (Ledger, Arc<Gateway>) {
    let ledger = Ledger::open(folder.join("ledger")).await.unwrap();
    let backends: Vec<Arc<dyn Backend>> = vec![Scripted::local([hello()]), Scripted::cloud("far", [far])];
    let rules: Rules = serde_json::from_str(LIMITED).unwrap();
    let gateway = gateway(backends, Policy::default(), ledger.clone());
    (ledger, Arc::new(gateway.with_rules(rules, HashKey::new([3; 32])).unwrap()))
}

async fn ask(gateway: &Gateway, key: &str, model: &str) -> String {
    let mut request = Request::new(model, Prompt::Chat(vec![Message::new(Role::User, "hello")]));
    request.max_tokens = Some(1000);
    let mut answer = gateway.answer(&Caller::new(key), request).await.unwrap();
    while let Some(event) = answer.events.next().await {
        event.unwrap();
    }
    answer.backend
}

#[tokio::test]
async fn a_month_is_not_spent_twice() {
    let folder = tempfile::tempdir().unwrap();
    let model = "gpt-5.4-nano";
    let mut slow = vec![wait(300)];
    let Script::Play(plays) = cloud_hello() else { unreachable!() };
    slow.extend(plays);
    let (ledger, gateway) = limited(folder.path(), Script::Play(slow)).await;
    // Both may cost more than half of what there is, so only one of them may leave while they run.
    let (one, other) = tokio::join!(ask(&gateway, "k", model), ask(&gateway, "k", model));
    let mut both = [one.as_str(), other.as_str()];
    both.sort_unstable();
    assert_eq!(both, ["far", "local"]);
    // What they did cost is little, and there is room again.
    assert_eq!(ask(&gateway, "k", model).await, "far");
    // What has no price cannot be promised to cost no more than what is left.
    assert_eq!(ask(&gateway, "k", "a-model-without-a-price").await, "local");
    assert_eq!(ask(&gateway, "free", "a-model-without-a-price").await, "far");
    ledger.flush().await.unwrap();
    let rows = rows(&ledger).await;
    let reserved: Vec<bool> = rows.iter().map(|row| row.reserved.is_some()).collect();
    assert_eq!(reserved.iter().filter(|reserved| **reserved).count(), 2, "{rows:?}");
    assert!(rows.iter().filter_map(|row| row.reserved.zip(row.cost)).all(|(most, cost)| cost < most));
    assert!(rows.iter().any(|row| row.reason.starts_with("much left")), "{rows:?}");
}

/// The same key where only the cloud may answer.
const ONLY_FAR: &str = r#"{
    "key": { "k": { "class": "internal", "dollars_per_month": 0.002 } },
    "rule": [{ "name": "far", "backends": ["far"] }]
}"#;

/// A gateway whose cloud calls `fast` by the name that has a price.
async fn mapped(folder: &Path) -> (Ledger, Gateway) {
    let ledger = Ledger::open(folder.join("ledger")).await.unwrap();
    let mut far = ConfiguredBackend::new(Scripted::cloud("far", [cloud_hello()]));
    far.price_provider = Some("openai".to_owned());
    far.facts.models = Some(vec!["fast".to_owned(), "gpt-5.4-nano".to_owned()]);
    far.facts.model_map = [("fast".to_owned(), "gpt-5.4-nano".to_owned())].into();
    let rules: Rules = serde_json::from_str(ONLY_FAR).unwrap();
    let gateway = of_backends(vec![far], Policy::default(), ledger.clone());
    (ledger, gateway.with_rules(rules, HashKey::new([3; 32])).unwrap())
}

#[tokio::test]
async fn all_that_a_request_may_cost_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, gateway) = mapped(folder.path()).await;
    let plain = |model: &str| {
        let mut request = Request::new(model, Prompt::Chat(vec![Message::new(Role::User, "hello")]));
        request.max_tokens = Some(600);
        request
    };
    let function = |description: String| {
        Tool::Function(Function {
            name: "f".to_owned(),
            description: Some(description),
            ..Function::default()
        })
    };
    let schema = |description: String| {
        let schema = serde_json::json!({ "type": "object", "description": description });
        Some(OutputFormat::JsonSchema(JsonSchema { schema, ..JsonSchema::default() }))
    };
    let long = || "word ".repeat(6000);
    for (what, request, leaves) in [
        ("a mapped model", plain("fast"), true),
        ("two choices", Request { choices: 2, ..plain("fast") }, true),
        ("three choices", Request { choices: 3, ..plain("fast") }, false),
        ("a short tool", Request { tools: vec![function("adds".to_owned())], ..plain("fast") }, true),
        ("a long tool", Request { tools: vec![function(long())], ..plain("fast") }, false),
        ("a long unknown tool", Request { tools: vec![Tool::Other(long().into())], ..plain("fast") }, false),
        ("a long schema", Request { format: schema(long()), ..plain("fast") }, false),
        ("the model by its own name", plain("gpt-5.4-nano"), true),
    ] {
        let answered = match gateway.answer(&Caller::new("k"), request).await {
            Ok(mut answer) => {
                while let Some(event) = answer.events.next().await {
                    event.unwrap();
                }
                true
            }
            Err(error) => {
                assert_eq!(error.code.as_deref(), Some("policy_forbids"), "{what}");
                false
            }
        };
        assert_eq!(answered, leaves, "{what}");
    }
    let rows = rows(&ledger).await;
    let reserved = |at: usize| rows[at].reserved.unwrap().dollars();
    // A prompt of two tokens, and 600 tokens of an answer; the same twice.
    let one = 2.0 * 0.2e-6 + 600.0 * 1.25e-6;
    assert!((reserved(0) - one).abs() < 1e-9, "{}", reserved(0));
    assert!((reserved(1) - one - 600.0 * 1.25e-6).abs() < 1e-9, "{}", reserved(1));
}

#[tokio::test]
async fn what_is_spent_while_nothing_limits_it_counts_when_something_does_again() {
    let folder = tempfile::tempdir().unwrap();
    let (_ledger, gateway) = limited(folder.path(), cloud_hello()).await;
    // A thousand tokens and the prompt may cost 0.0012504 dollars, and cost 0.00000686: there is room for two.
    let text = LIMITED.replace("0.002", "0.00126");
    let rules = |text: &str| -> Rules { serde_json::from_str(text).unwrap() };
    let free = text.replace(r#", "dollars_per_month": 0.00126"#, "");
    for (text, backend) in [(text.as_str(), "far"), (&free, "far"), (&text, "local")] {
        gateway.replace_rules(rules(text)).unwrap();
        assert_eq!(ask(&gateway, "k", "gpt-5.4-nano").await, backend);
    }
}

#[tokio::test]
async fn what_was_spent_is_known_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    {
        let (ledger, gateway) = limited(folder.path(), cloud_hello()).await;
        for _ in 0..2 {
            assert_eq!(ask(&gateway, "k", "gpt-5.4-nano").await, "far");
        }
        // An attempt whose cost nobody knows counts as what was set aside.
        let admission = nearfield_store::Admission {
            key_id: Some("k".to_owned()),
            model: "gpt-5.4-nano".to_owned(),
            reason: String::new(),
            policy_hash: String::new(),
            retention: None,
            reserved: NanoDollars::from_dollars(0.0015),
        };
        let mut row = ledger.admit(admission).unwrap();
        row.attempt(nearfield_store::AttemptStart {
            backend: "far".to_owned(),
            locality: nearfield_api::Locality::Cloud,
            why: String::new(),
            bytes_out: 1,
        })
        .unwrap();
        drop(row);
        drop(gateway);
        ledger.close().await.unwrap();
    }
    let (ledger, gateway) = limited(folder.path(), cloud_hello()).await;
    assert_eq!(ask(&gateway, "k", "gpt-5.4-nano").await, "local");
    let row = rows(&ledger).await.pop().unwrap();
    assert_eq!((row.reason.as_str(), row.reserved), ("less left (internal)", None));
}

#[tokio::test]
async fn rules_look_at_how_busy_this_machine_is() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path().join("ledger")).await.unwrap();
    let (far, local) = (Scripted::cloud("far", [cloud_hello()]), Scripted::local([hello()]));
    let backends: Vec<Arc<dyn Backend>> = vec![local.clone(), far.clone()];
    let rules: Rules = serde_json::from_str(
        r#"{
        "key": { "k": { "class": "internal" } },
        "rule": [
            { "name": "a queue", "when": { "queue_from": 3 }, "backends": ["far"] },
            { "name": "a full cache", "when": { "free_cache_to": 0.1 }, "backends": ["far"] },
            { "name": "slow", "when": { "first_token_from": 2.5 }, "backends": ["far"] },
            { "name": "idle", "backends": ["local"] }
        ]
    }"#,
    )
    .unwrap();
    let gateway = gateway(backends, Policy::default(), ledger.clone());
    let gateway = gateway.with_rules(rules, HashKey::new([3; 32])).unwrap();
    let idle = BackendLoad { queued: 0, free_cache: 1.0, first_token: None };
    let cases = [
        (None, "idle"),
        (Some(idle), "idle"),
        (Some(BackendLoad { queued: 3, ..idle }), "a queue"),
        (Some(BackendLoad { free_cache: 0.05, ..idle }), "a full cache"),
        (Some(BackendLoad { first_token: Some(Duration::from_secs(3)), ..idle }), "slow"),
        (Some(BackendLoad { first_token: Some(Duration::from_secs(2)), ..idle }), "idle"),
    ];
    for (load, rule) in cases {
        *local.load.lock().unwrap() = load;
        let backend = ask(&gateway, "k", "m").await;
        assert_eq!(backend, if rule == "idle" { "local" } else { "far" }, "{load:?}");
        let row = rows(&ledger).await.pop().unwrap();
        assert_eq!(row.reason, format!("{rule} (internal)"));
    }
}
