//! The plan of attempts, carried out: retries, hedges, circuits, and what becomes of an answer that nobody reads.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nearfield_api::{Backend, ErrorKind};
use nearfield_router::PolicyMode;
use nearfield_router::attempts::{Disconnect, Resilience};
use nearfield_store::{NanoDollars, Outcome};
use serde_json::json;

use crate::scripted::{
    Play, Script, Scripted, USAGE, cloud_hello, delta, fail, finished, refuse, started_as, wait,
};
use crate::support::{Running, Setup, chat_with};

const MOMENT: Duration = Duration::from_millis(60);

async fn start(backends: Vec<Arc<dyn Backend>>, resilience: Resilience) -> Running {
    let mut setup = Setup::new(PolicyMode::CloudOnly, backends);
    setup.resilience = resilience;
    setup.start().await
}

fn body(streamed: bool) -> serde_json::Value {
    chat_with(json!({ "model": "gpt-5.4-nano", "stream": streamed, "max_tokens": 100 }))
}

fn quick() -> Resilience {
    Resilience { backoff: Duration::from_millis(2), ..Resilience::default() }
}

#[tokio::test]
async fn what_may_have_passed_is_asked_again() {
    let far =
        Scripted::cloud("far", [refuse(ErrorKind::Upstream), refuse(ErrorKind::Overloaded), cloud_hello()]);
    let server = start(vec![far.clone()], quick()).await;
    let reply = server.post("/v1/chat/completions", &body(true)).await;
    assert_eq!((reply.status, far.calls()), (200, 3));
    let row = server.ended_rows(1).await.remove(0);
    let whys: Vec<_> = row.attempts.iter().map(|attempt| attempt.why.as_str()).collect();
    let failed = "far failed before its first token: upstream; asked again";
    assert_eq!(whys, ["cloud-only", failed, "far is overloaded; asked again"]);
    assert_eq!(row.outcome, Some(Outcome::Done));
}

#[tokio::test]
async fn a_slow_candidate_is_overtaken_and_costs() {
    let slow = Scripted::cloud("slow", [Script::Silence]);
    let quickly = Scripted::cloud("quick", [cloud_hello()]);
    let resilience = Resilience { hedge_after: Some(MOMENT), ..quick() };
    let server = start(vec![slow, quickly], resilience).await;
    let reply = server.post("/v1/chat/completions", &body(true)).await;
    assert_eq!(reply.header("x-nearfield-backend"), Some("quick"));
    let row = server.ended_rows(1).await.remove(0);
    assert_eq!(row.attempts.len(), 2);
    let [loser, winner] = &row.attempts[..] else { panic!() };
    assert_eq!((&loser.outcome, &winner.outcome), (&Some(Outcome::Cancelled), &Some(Outcome::Done)));
    // "Hi" is estimated as one token, at 200 nano-dollars.
    assert_eq!(loser.cost, Some(NanoDollars(200)));
    assert_eq!(row.cost, loser.cost.zip(winner.cost).map(|(one, two)| one + two));
}

#[tokio::test]
async fn what_was_overtaken_is_priced_by_the_backends_own_name_of_the_model() {
    let slow = Scripted::cloud("slow", [Script::Silence]);
    let quickly = Scripted::cloud("quick", [cloud_hello()]);
    let mut setup = Setup::new(PolicyMode::CloudOnly, vec![slow, quickly]);
    for configured in &mut setup.backends {
        configured.facts.model_map = [("fast".to_owned(), "gpt-5.4-nano".to_owned())].into();
    }
    setup.resilience = Resilience { hedge_after: Some(MOMENT), ..quick() };
    let server = setup.start().await;
    let mut body = body(true);
    body["model"] = json!("fast");
    assert_eq!(server.post("/v1/chat/completions", &body).await.status, 200);
    let row = server.ended_rows(1).await.remove(0);
    assert_eq!(row.attempts[0].cost, Some(NanoDollars(200)), "{row:?}");
    assert!(row.cost.is_some());
}

#[tokio::test]
async fn who_stood_first_may_win_and_stands_in_the_row() {
    let first =
        Script::Play(vec![started_as("m"), wait(200), delta("x"), finished(), crate::scripted::done()]);
    let first = Scripted::cloud("first", [first]);
    let beside = Scripted::cloud("beside", [Script::Play(vec![Play::Hang])]);
    let resilience = Resilience { hedge_after: Some(MOMENT), ..quick() };
    let server = start(vec![first, beside.clone()], resilience).await;
    server.post("/v1/chat/completions", &body(false)).await;
    let row = server.ended_rows(1).await.remove(0);
    assert_eq!((row.backend.as_deref(), row.attempts.len()), (Some("first"), 2));
    assert_eq!(row.attempts[1].outcome, Some(Outcome::Cancelled));
    assert_eq!(beside.dropped.load(Ordering::SeqCst), 1, "the loser goes on");
}

#[tokio::test]
async fn nothing_is_asked_beside_that_costs_too_much_or_without_being_told() {
    for (hedge_after, hedge_dollars) in [(None, None), (Some(MOMENT), Some(0.0))] {
        let slow =
            Script::Play(vec![started_as("m"), wait(200), delta("x"), finished(), crate::scripted::done()]);
        let beside = Scripted::cloud("beside", [cloud_hello()]);
        let resilience = Resilience { hedge_after, hedge_dollars, ..quick() };
        let server = start(vec![Scripted::cloud("slow", [slow]), beside.clone()], resilience).await;
        server.post("/v1/chat/completions", &body(false)).await;
        assert_eq!(beside.calls(), 0);
    }
}

#[tokio::test]
async fn what_asking_beside_costs_counts_every_choice_and_knows_the_models_own_name() {
    // 100 tokens of an answer cost 0.000125 dollars.
    for (fields, asked) in [
        (json!({ "n": 1 }), 1),
        (json!({ "n": 2 }), 0),
        (
            json!({ "tools": [{ "type": "function", "function": { "name": "f", "description": "word ".repeat(2000) } }] }),
            0,
        ),
        (json!({ "model": "fast" }), 1),
        (json!({ "model": "slow" }), 0),
    ] {
        let late =
            Script::Play(vec![started_as("m"), wait(200), delta("x"), finished(), crate::scripted::done()]);
        let beside = Scripted::cloud("beside", [cloud_hello()]);
        let resilience = Resilience { hedge_after: Some(MOMENT), hedge_dollars: Some(0.0002), ..quick() };
        let mut setup =
            Setup::new(PolicyMode::CloudOnly, vec![Scripted::cloud("late", [late]), beside.clone()]);
        setup.backends[1].facts.model_map = [("fast".to_owned(), "gpt-5.4-nano".to_owned())].into();
        setup.resilience = resilience;
        let server = setup.start().await;
        let mut body = body(false);
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        server.post("/v1/chat/completions", &body).await;
        assert_eq!(beside.calls(), asked, "{fields}");
    }
}

#[tokio::test]
async fn who_answers_is_not_slow_however_long_the_whole_answer_takes() {
    let long = Script::Play(vec![
        started_as("m"),
        delta("a"),
        wait(300),
        delta("b"),
        finished(),
        crate::scripted::done(),
    ]);
    for streamed in [false, true] {
        let beside = Scripted::cloud("beside", [cloud_hello()]);
        let resilience = Resilience { hedge_after: Some(MOMENT), ..quick() };
        let server = start(vec![Scripted::cloud("long", [long.clone()]), beside.clone()], resilience).await;
        let reply = server.post("/v1/chat/completions", &body(streamed)).await;
        assert_eq!((reply.header("x-nearfield-backend"), beside.calls()), (Some("long"), 0));
    }
}

#[tokio::test]
async fn a_refusal_beside_is_an_answer() {
    let slow = Scripted::cloud("slow", [Script::Silence]);
    let refuses = Scripted::cloud("refuses", [refuse(ErrorKind::InvalidRequest)]);
    let resilience = Resilience { hedge_after: Some(MOMENT), ..quick() };
    let server = start(vec![slow, refuses], resilience).await;
    assert_eq!(server.post("/v1/chat/completions", &body(true)).await.status, 400);
    let row = server.ended_rows(1).await.remove(0);
    assert!(row.attempts.iter().all(|attempt| attempt.outcome.is_some()));
}

#[tokio::test]
async fn a_backend_that_fails_again_and_again_rests() {
    let bad = Scripted::cloud("bad", [refuse(ErrorKind::Upstream)]);
    let resilience = Resilience { retries: 0, circuit_failures: 2, ..quick() };
    let server = start(vec![bad.clone()], resilience).await;
    for _ in 0..2 {
        assert_eq!(server.post("/v1/chat/completions", &body(false)).await.status, 502);
    }
    let reply = server.post("/v1/chat/completions", &body(false)).await;
    assert_eq!((reply.status, &reply.error()["code"]), (503, &json!("circuit_open")));
    assert!(reply.header("retry-after").unwrap().parse::<u64>().unwrap() <= 30);
    assert_eq!(bad.calls(), 2);
    let rows = server.ended_rows(3).await;
    assert_eq!(rows.iter().map(|row| row.attempts.len()).sum::<usize>(), 2);
    let metrics = server.send("GET", "/metrics", "").await.body;
    let counted = r#"nearfield_attempt_events_total{backend="bad",event="upstream"} 2"#;
    assert!(metrics.contains(counted), "{metrics}");
    assert!(metrics.contains(r#"nearfield_circuit_open{backend="bad"} 1"#), "{metrics}");
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_cancelled_or_drained() {
    for drains in [false, true] {
        let plays = vec![
            started_as("gpt-5.4-nano"),
            delta("a"),
            wait(150),
            delta("b"),
            finished(),
            crate::scripted::done(),
        ];
        let far = Scripted::cloud("far", [Script::Play(plays)]);
        let mut resilience = quick();
        if drains {
            resilience.disconnect = Disconnect::Drain { time: Duration::from_secs(5), pieces: 10 };
        }
        let server = start(vec![far], resilience).await;
        let mut client = server.connect().await;
        client.send("POST", "/v1/chat/completions", &body(true).to_string()).await;
        client.head().await;
        let mut text = String::new();
        while !text.contains(r#""content":"a""#) {
            text += &client.chunk().await.unwrap();
        }
        drop(client);
        let row = server.ended_rows(1).await.remove(0);
        assert_eq!(row.outcome, Some(Outcome::Cancelled));
        let usage = row.usage.unwrap();
        assert_eq!(usage.measured, drains, "{usage:?}");
        assert!(!drains || usage.output == USAGE.output);
        assert!(row.cost.is_some());
    }
}

#[tokio::test]
async fn a_whole_answer_that_nobody_waits_for_is_cancelled_or_drained() {
    for (drains, pieces) in [(None, 2), (Some(10), 3), (Some(1), 3)] {
        let plays = vec![
            started_as("gpt-5.4-nano"),
            delta("a"),
            delta("b"),
            wait(200),
            delta("c"),
            finished(),
            crate::scripted::done(),
        ];
        let far = Scripted::cloud("far", [Script::Play(plays)]);
        let mut resilience = quick();
        if let Some(pieces) = drains {
            resilience.disconnect = Disconnect::Drain { time: Duration::from_secs(5), pieces };
        }
        let server = start(vec![far.clone()], resilience).await;
        let mut client = server.connect().await;
        client.send("POST", "/v1/chat/completions", &body(false).to_string()).await;
        while far.calls() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(MOMENT).await;
        drop(client);
        let row = server.ended_rows(1).await.remove(0);
        let [attempt] = &row.attempts[..] else { panic!("{row:?}") };
        assert_eq!(row.outcome, Some(Outcome::Cancelled));
        assert_eq!(attempt.outcome, Some(Outcome::Cancelled));
        let usage = row.usage.unwrap();
        assert_eq!(usage.measured, drains.is_some(), "{usage:?}");
        assert_eq!(usage.output, if drains.is_some() { USAGE.output } else { pieces });
        assert!(row.cost.is_some_and(|cost| cost > NanoDollars::ZERO), "{row:?}");
        assert_eq!(far.dropped.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn draining_has_a_cap() {
    let endless = std::iter::repeat_with(|| [wait(5), delta("x")]).take(400).flatten();
    let plays = std::iter::once(started_as("m")).chain(endless).collect();
    let far = Scripted::cloud("far", [Script::Play(plays)]);
    let disconnect = Disconnect::Drain { time: Duration::from_secs(20), pieces: 3 };
    let server = start(vec![far.clone()], Resilience { disconnect, ..quick() }).await;
    let mut client = server.connect().await;
    client.send("POST", "/v1/chat/completions", &body(true).to_string()).await;
    client.head().await;
    drop(client);
    let row = server.ended_rows(1).await.remove(0);
    assert!(row.usage.unwrap().output < 200, "{row:?}");
    assert_eq!(far.dropped.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn no_status_is_sent_before_a_cloud_has_a_token() {
    let late = Script::Play(vec![started_as("m"), wait(500), fail(ErrorKind::InvalidRequest)]);
    let server = start(vec![Scripted::cloud("late", [late])], quick()).await;
    assert_eq!(server.post("/v1/chat/completions", &body(true)).await.status, 400);
}

#[tokio::test]
async fn a_cloud_without_a_token_in_time_is_given_up() {
    let silent = Scripted::cloud("silent", [Script::Play(vec![started_as("m"), Play::Hang])]);
    let other = Scripted::cloud("other", [cloud_hello()]);
    let server = start(vec![silent, other], Resilience { first_token: Some(MOMENT), ..quick() }).await;
    let reply = server.post("/v1/chat/completions", &body(true)).await;
    assert_eq!(reply.header("x-nearfield-backend"), Some("other"));
    let row = server.ended_rows(1).await.remove(0);
    assert_eq!(row.attempts[0].outcome, Some(Outcome::Error("timeout".to_owned())));
}
