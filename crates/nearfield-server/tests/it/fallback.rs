//! From one candidate to the next: only before the first token, only inside the candidate set, and told.

use std::sync::Arc;

use futures_util::StreamExt as _;
use nearfield_api::{Backend, ErrorKind};
use nearfield_router::{Policy, PolicyError, PolicyMode};
use nearfield_server::gateway::{CacheDomains, Caller, ConfiguredBackend, Gateway, GatewayOptions};
use nearfield_store::{Ledger, NanoDollars, Outcome, Prices, Row, Tariff};
use serde_json::json;

use crate::scripted::{Script, Scripted, cloud_hello, delta, fail, hello, refuse, started};
use crate::support::{Reply, Setup, chat, chat_with};

/// One request under a policy; its reply and its only row.
async fn ask(mode: PolicyMode, backends: Vec<Arc<dyn Backend>>, streamed: bool) -> (Reply, Row) {
    let server = Setup::new(mode, backends).start().await;
    let reply = server.post("/v1/chat/completions", &chat_with(json!({ "stream": streamed }))).await;
    let mut rows = server.ended_rows(1).await;
    assert_eq!(rows.len(), 1);
    (reply, rows.remove(0))
}

#[tokio::test]
async fn prefer_local_spills_and_says_why() {
    for (kind, why) in [
        (ErrorKind::Overloaded, "the local queue is full"),
        (ErrorKind::NotFound, "the model is not installed here"),
        (ErrorKind::ContextLength, "the context does not fit here"),
        (ErrorKind::Internal, "local failed before its first token: internal"),
    ] {
        for script in [refuse(kind), Script::Play(vec![started(), fail(kind)])] {
            let local = Scripted::local([script]);
            let far = Scripted::cloud("far", [cloud_hello()]);
            let (reply, row) = ask(PolicyMode::PreferLocal, vec![local, far], false).await;
            assert_eq!(reply.status, 200, "{reply:?}");
            let reason = format!("prefer-local: {why}");
            assert_eq!(reply.header("x-nearfield-backend"), Some("far"));
            assert_eq!(reply.header("x-nearfield-reason"), Some(reason.as_str()));
            assert_eq!(reply.json()["nearfield"]["reason"], reason);
            assert_eq!(reply.json()["choices"][0]["message"]["content"], "Hello from afar");
            assert_eq!((row.backend.as_deref(), &row.outcome), (Some("far"), &Some(Outcome::Done)));
            assert_eq!(row.reason, reason);
            let attempts: Vec<_> =
                row.attempts.iter().map(|at| (at.backend.as_str(), at.why.as_str(), at.bytes_out)).collect();
            assert_eq!(attempts, [("local", "prefer-local", 0), ("far", why, 2)]);
            assert_eq!(row.attempts[0].outcome, Some(Outcome::Error(kind.as_str().to_owned())));
        }
    }
}

#[tokio::test]
async fn nothing_leaves_under_local_only() {
    let far = Scripted::cloud("far", [cloud_hello()]);
    for kind in [ErrorKind::Overloaded, ErrorKind::NotFound, ErrorKind::Internal] {
        let local = Scripted::local([refuse(kind)]);
        let (reply, row) = ask(PolicyMode::LocalOnly, vec![local, far.clone()], false).await;
        assert_eq!(reply.status, kind.http_status());
        assert_eq!(row.attempts.len(), 1);
    }
    assert_eq!(far.calls(), 0);
}

#[tokio::test]
async fn after_the_first_token_nothing_else_answers() {
    let far = Scripted::cloud("far", [cloud_hello()]);
    let local = Scripted::local([Script::Play(vec![started(), delta("Hel"), fail(ErrorKind::Internal)])]);
    let (reply, row) = ask(PolicyMode::PreferLocal, vec![local, far.clone()], true).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.events().iter().filter(|event| event.contains("\"error\"")).count(), 1);
    assert_eq!(row.outcome, Some(Outcome::Truncated));
    assert_eq!(row.attempts.len(), 1);
    assert_eq!(far.calls(), 0);
}

#[tokio::test]
async fn what_nobody_saw_can_still_be_had_elsewhere() {
    let far = Scripted::cloud("far", [cloud_hello()]);
    let local = Scripted::local([Script::Play(vec![started(), delta("Hel"), fail(ErrorKind::Internal)])]);
    let (reply, row) = ask(PolicyMode::PreferLocal, vec![local, far], false).await;
    assert_eq!(reply.json()["choices"][0]["message"]["content"], "Hello from afar");
    assert_eq!(row.attempts[0].outcome, Some(Outcome::Error("internal".to_owned())));
    let usage = row.attempts[0].usage.unwrap();
    assert_eq!((usage.output, usage.measured), (1, false), "a discarded answer is not nothing");
    assert_eq!(row.outcome, Some(Outcome::Done));
}

#[tokio::test]
async fn an_empty_first_piece_is_a_token_too() {
    let local = Scripted::local([Script::Play(vec![started(), delta(""), fail(ErrorKind::Internal)])]);
    let far = Scripted::cloud("far", [cloud_hello()]);
    let (reply, _) = ask(PolicyMode::PreferLocal, vec![local, far.clone()], true).await;
    assert_eq!((reply.status, far.calls()), (200, 0));
}

#[tokio::test]
async fn a_refusal_of_the_request_is_final() {
    for kind in [ErrorKind::InvalidRequest, ErrorKind::Authentication, ErrorKind::PermissionDenied] {
        let (a, b) = (Scripted::cloud("a", [refuse(kind)]), Scripted::cloud("b", [cloud_hello()]));
        let (reply, _) = ask(PolicyMode::CloudOnly, vec![a, b.clone()], false).await;
        assert_eq!((reply.status, b.calls()), (kind.http_status(), 0));
    }
}

#[tokio::test]
async fn cloud_backends_stand_in_for_each_other_in_their_order() {
    let a = Scripted::cloud("a", [refuse(ErrorKind::RateLimited)]);
    let b = Scripted::cloud("b", [refuse(ErrorKind::Timeout)]);
    let c = Scripted::cloud("c", [cloud_hello()]);
    let (reply, row) = ask(PolicyMode::CloudOnly, vec![a, b, c], true).await;
    assert_eq!(reply.header("x-nearfield-backend"), Some("c"));
    assert_eq!(row.reason, "cloud-only: a limits the rate; b failed before its first token: timeout");
    assert_eq!(row.attempts.len(), 3);
    assert_eq!(row.attempts[0].cost, Some(NanoDollars::ZERO), "a refusal costs nothing");
    assert_eq!(row.attempts[1].cost, None, "what ran into a timeout may be charged");
    assert_eq!(row.cost, None);
}

#[tokio::test]
async fn when_all_fail_the_last_error_is_the_answer() {
    let local = Scripted::local([refuse(ErrorKind::NotFound)]);
    let far = Scripted::cloud("far", [refuse(ErrorKind::Upstream)]);
    let (reply, row) = ask(PolicyMode::PreferLocal, vec![local, far], false).await;
    assert_eq!(reply.status, 502);
    assert_eq!(row.outcome, Some(Outcome::Error("upstream".to_owned())));
    assert_eq!(row.reason, "prefer-local: the model is not installed here");
    assert_eq!(row.cost, Some(NanoDollars::ZERO));
}

#[tokio::test]
async fn each_candidate_gets_the_request_as_it_was_asked() {
    let local = Scripted::local([refuse(ErrorKind::Overloaded)]);
    let far = Scripted::cloud("far", [cloud_hello()]);
    ask(PolicyMode::PreferLocal, vec![local.clone(), far.clone()], false).await;
    assert_eq!(*local.seen.lock().unwrap(), *far.seen.lock().unwrap());
}

async fn with_models(models: &[&str], policy: Policy) -> Result<Gateway, PolicyError> {
    let folder = tempfile::tempdir().unwrap();
    let mut limited = ConfiguredBackend::new(Scripted::cloud("far", [cloud_hello()]));
    limited.facts.models = Some(models.iter().map(|&name| name.to_owned()).collect());
    let here = ConfiguredBackend::new(Scripted::local([hello()]));
    Gateway::new(GatewayOptions {
        backends: vec![limited, here],
        policy,
        ledger: Ledger::open(folder.path()).await.unwrap(),
        prices: Prices::default(),
        tariff: Tariff::default(),
        reference: "none".to_owned(),
        cache_domains: CacheDomains::default(),
    })
}

#[tokio::test]
async fn models_come_from_every_backend_that_may_answer() {
    let ids = async |mode| {
        let gateway = with_models(&["big", "m"], Policy::up_to(Policy::MOST, mode)).await.unwrap();
        let entries = gateway.models().await.unwrap();
        entries.iter().map(|entry| format!("{}@{}", entry.info.id, entry.owned_by)).collect::<Vec<_>>()
    };
    assert_eq!(ids(PolicyMode::PreferLocal).await, ["m@local", "local-only@local", "big@far"]);
    assert_eq!(ids(PolicyMode::LocalOnly).await, ["m@local", "local-only@local"]);
    assert_eq!(ids(PolicyMode::CloudOnly).await, ["big@far", "m@far"]);
}

#[tokio::test]
async fn a_policy_that_fits_no_backend_is_found_at_the_start() {
    let policy =
        Policy { cloud: vec!["fra".to_owned()], ..Policy::up_to(Policy::MOST, PolicyMode::PreferLocal) };
    assert!(matches!(with_models(&[], policy).await, Err(PolicyError::UnknownBackend { .. })));
    let silent = Policy { mode: PolicyMode::PreferLocal, ..Policy::default() };
    assert!(matches!(with_models(&[], silent).await, Err(PolicyError::NothingDeclared { .. })));
}

#[tokio::test]
async fn an_unknown_price_is_unknown_and_not_nothing() {
    let policy = Policy::up_to(Policy::MOST, PolicyMode::CloudOnly);
    let gateway = with_models(&["m"], policy).await.unwrap();
    let caller = Caller::new("k");
    let mut answer = gateway.answer(&caller, crate::support::request()).await.unwrap();
    while let Some(event) = answer.events.next().await {
        event.unwrap();
    }
    let fields = answer.receipt.fields();
    assert_eq!((fields.cost, fields.counterfactual), (None, None));
    assert_eq!(fields.outcome, Some(Outcome::Done));
}

#[tokio::test]
async fn a_model_that_only_the_cloud_has_goes_there_at_once() {
    let server = Setup::new(
        PolicyMode::PreferLocal,
        vec![Scripted::local([refuse(ErrorKind::NotFound)]), Scripted::cloud("far", [cloud_hello()])],
    )
    .start()
    .await;
    let reply = server.post("/v1/chat/completions", &chat("Hi")).await;
    assert_eq!(reply.header("x-nearfield-locality"), Some("cloud"));
}
