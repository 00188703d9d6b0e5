use nearfield_api::Locality;

use super::*;
use crate::PolicyMode;

const SECOND: Duration = Duration::from_secs(1);

fn facts(names: &[(&str, Locality)]) -> Vec<BackendFacts> {
    let one = |&(name, locality): &(&str, Locality)| BackendFacts::new(name, locality);
    names.iter().map(one).collect()
}

fn policy() -> Policy {
    Policy { mode: PolicyMode::PreferLocal, ..Policy::default() }
}

fn failed(kind: ErrorKind) -> Failed<'static> {
    Failed { kind, code: None, retry_after: None, seen: false, elapsed: Duration::ZERO, chance: u64::MAX / 3 }
}

#[test]
fn a_cloud_is_asked_again_and_then_the_next() {
    let (settings, policy) = (Resilience::default(), policy());
    let facts = facts(&[("a", Locality::Cloud), ("b", Locality::Cloud)]);
    let mut plan = Plan::new(&settings, &policy, &facts);
    assert_eq!(plan.first().unwrap().cause, Cause::First);
    let mut waits = Vec::new();
    for _ in 0..2 {
        let next = plan.failed(0, &failed(ErrorKind::Upstream)).unwrap();
        assert_eq!((next.step.candidate, next.step.cause), (0, Cause::Retry));
        waits.push(next.step.after);
    }
    assert!(waits[0] >= settings.backoff / 2 && waits[0] <= settings.backoff, "{waits:?}");
    assert!(waits[1] >= settings.backoff && waits[1] <= settings.backoff * 2, "{waits:?}");
    let next = plan.failed(0, &failed(ErrorKind::Upstream)).unwrap();
    assert_eq!((next.step.candidate, next.step.cause), (1, Cause::Fallback));
    assert_eq!(next.step.after, Duration::ZERO);
}

#[test]
fn another_server_of_this_machine_is_asked_again_and_the_own_engine_is_not() {
    let (settings, policy) = (Resilience::default(), policy());
    for (facts, again) in
        [(BackendFacts::new("pool", Locality::Local), true), (BackendFacts::own_engine("local"), false)]
    {
        let facts = [facts];
        let mut plan = Plan::new(&settings, &policy, &facts);
        plan.first();
        let next = plan.failed(0, &failed(ErrorKind::Upstream));
        assert_eq!(next.map(|next| next.step.cause), again.then_some(Cause::Retry));
    }
}

#[test]
fn what_the_backend_asks_for_is_waited_for_or_not_at_all() {
    let (settings, policy) = (Resilience::default(), policy());
    let facts = facts(&[("a", Locality::Cloud), ("b", Locality::Cloud)]);
    let mut plan = Plan::new(&settings, &policy, &facts);
    plan.first();
    let mut wait = failed(ErrorKind::RateLimited);
    wait.retry_after = Some(2 * SECOND);
    let next = plan.failed(0, &wait).unwrap();
    assert_eq!(next.step.cause, Cause::Retry);
    assert!(next.step.after >= 2 * SECOND && next.step.after < 3 * SECOND, "{next:?}");
    wait.retry_after = Some(60 * SECOND);
    assert_eq!(plan.failed(0, &wait).unwrap().step.candidate, 1);
    assert_eq!(plan.failed(1, &wait), None);
}

#[test]
fn refusals_what_was_seen_and_what_lasts_are_not_tried_again() {
    let (settings, policy) = (Resilience::default(), policy());
    let facts = facts(&[("a", Locality::Cloud)]);
    let after = |failure: &Failed<'_>| {
        let mut plan = Plan::new(&settings, &policy, &facts);
        plan.first();
        plan.failed(0, failure)
    };
    assert!(after(&failed(ErrorKind::Upstream)).is_some());
    assert_eq!(after(&failed(ErrorKind::InvalidRequest)), None);
    assert_eq!(after(&failed(ErrorKind::ContextLength)), None);
    assert_eq!(after(&failed(ErrorKind::Timeout)), None);
    assert_eq!(after(&Failed { seen: true, ..failed(ErrorKind::Upstream) }), None);
    assert_eq!(after(&Failed { code: Some("backend_credentials"), ..failed(ErrorKind::Upstream) }), None);
    let late = Failed { elapsed: settings.give_up_after, ..failed(ErrorKind::Upstream) };
    assert_eq!(after(&late), None);
}

#[test]
fn a_hedge_is_one_and_affordable() {
    let settings = Resilience { hedge_after: Some(SECOND), ..Resilience::default() };
    let policy = policy();
    let facts = facts(&[("a", Locality::Cloud), ("b", Locality::Cloud), ("c", Locality::Cloud)]);
    let mut plan = Plan::new(&settings, &policy, &facts);
    plan.first();
    let step = plan.hedge(|facts| facts.name != "b").unwrap();
    assert_eq!((step.candidate, step.cause), (2, Cause::Hedge));
    assert_eq!(plan.hedge(|_| true), None);
    assert_eq!(plan.left_out().unwrap().candidate, 1);
    let off = Resilience::default();
    assert_eq!(Plan::new(&off, &policy, &facts).hedge(|_| true), None);
}

#[test]
fn no_plan_leaves_its_set_and_every_plan_ends() {
    // A small generator: the draws are the same everywhere.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut draw = move |end: u64| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 20) % end
    };
    let kinds = [
        ErrorKind::Upstream,
        ErrorKind::Overloaded,
        ErrorKind::RateLimited,
        ErrorKind::Timeout,
        ErrorKind::InvalidRequest,
        ErrorKind::ContextLength,
    ];
    let all = facts(&[("a", Locality::Local), ("b", Locality::Cloud), ("c", Locality::Cloud)]);
    let policy = policy();
    for _ in 0..100_000 {
        let settings = Resilience {
            retries: draw(4) as u32,
            hedge_after: (draw(2) == 0).then_some(SECOND),
            ..Resilience::default()
        };
        let count = draw(4) as usize;
        let mut plan = Plan::new(&settings, &policy, &all[..count]);
        let mut tries = vec![0; count];
        let mut step = plan.first();
        let mut steps = 0;
        while let Some(now) = step {
            tries[now.candidate] += 1;
            steps += 1;
            if draw(3) == 0
                && let Some(beside) = plan.hedge(|_| true)
            {
                tries[beside.candidate] += 1;
            }
            let failure = Failed {
                retry_after: (draw(3) == 0).then(|| SECOND * draw(8) as u32),
                chance: draw(u64::MAX),
                ..failed(kinds[draw(6) as usize])
            };
            step = match draw(8) {
                0 => plan.left_out(),
                _ => plan.failed(now.candidate, &failure).map(|next| next.step),
            };
            assert!(step.is_none_or(|step| step.after <= settings.longest_wait * 2));
        }
        assert!(tries.iter().all(|&tries| tries <= settings.retries + 1), "{tries:?}");
        assert!(steps <= count * (settings.retries as usize + 1));
    }
}

#[test]
fn a_circuit_opens_probes_and_closes() {
    let mut breaker = Breaker::default();
    let rest = 30 * SECOND;
    for at in 0..4 {
        assert_eq!(breaker.ask(at * SECOND, rest), Pass::Free);
        assert!(!breaker.failed(at * SECOND, 5, rest));
    }
    assert!(breaker.failed(4 * SECOND, 5, rest));
    assert_eq!(breaker.ask(14 * SECOND, rest), Pass::Rest(20 * SECOND));
    assert_eq!(breaker.ask(34 * SECOND, rest), Pass::Probe);
    assert!(matches!(breaker.ask(34 * SECOND, rest), Pass::Rest(_)), "one probe at a time");
    assert!(breaker.failed(35 * SECOND, 5, rest), "a probe that fails opens at once");
    assert_eq!(breaker.ask(65 * SECOND, rest), Pass::Probe);
    breaker.abandoned(66 * SECOND);
    assert_eq!(breaker.ask(66 * SECOND, rest), Pass::Probe);
    breaker.began();
    assert_eq!(breaker.ask(67 * SECOND, rest), Pass::Free);
    assert!(breaker.failed(68 * SECOND, 5, rest), "an answer that breaks off half way counts");
    breaker.done();
    assert!(!breaker.is_open());
    assert!(!breaker.failed(70 * SECOND, 0, rest), "no circuit at all");
}

#[test]
fn settings_are_read_and_checked() {
    let read = |text: &str| toml::from_str::<Resilience>(text);
    assert_eq!(read("").unwrap(), Resilience::default());
    let some =
        read("retries = 1\nhedge_after_seconds = 0.5\ndisconnect = 'drain'\ndrain_pieces = 7").unwrap();
    assert_eq!((some.retries, some.hedge_after), (1, Some(SECOND / 2)));
    assert_eq!(some.disconnect, Disconnect::Drain { time: 30 * SECOND, pieces: 7 });
    for (text, word) in [
        ("retries = 11", "attempts.retries"),
        ("backoff_seconds = 0.0", "attempts.backoff_seconds"),
        ("drain_seconds = 3.0", "attempts.disconnect"),
        ("hedge_dollars = -1.0", "attempts.hedge_dollars"),
        ("retry = 1", "retry"),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.message().contains(word), "{text}: {error}");
    }
}
