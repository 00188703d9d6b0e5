//! Which endpoint of a pool gets a request: the one with the fewest tokens under way for its weight, or the one that has
//! read the conversation before, as long as that does not have too much to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row after which an endpoint is down until a check succeeds.
const FAILURES: u32 = 2;
/// How long an endpoint rests after a single failure, so that a repetition goes elsewhere.
const REST: Duration = Duration::from_secs(1);
/// The share of its weight that an endpoint has when it comes back.
const FIRST_SHARE: f64 = 0.1;
/// How many times the work of the least busy endpoint, the request included, a conversation's own may have for its weight
/// before the conversation leaves it.
const FAITH: f64 = 2.0;

/// One endpoint's standing.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) weight: f64,
    pub(super) draining: bool,
    /// Tokens of requests under way: of prompts, and those that answers may still have.
    pub(super) outstanding: Arc<AtomicU64>,
    failures: u32,
    rests_until: Option<Instant>,
    /// When it came back, while it is started slowly.
    back_since: Option<Instant>,
}

impl Standing {
    pub(super) fn new(weight: f64, draining: bool) -> Self {
        Self {
            weight,
            draining,
            outstanding: Arc::default(),
            failures: 0,
            rests_until: None,
            back_since: None,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.failures < FAILURES
    }

    fn is_ready(&self, now: Instant) -> bool {
        self.is_up() && self.rests_until.is_none_or(|until| until <= now)
    }
}

/// All endpoints of a pool.
#[derive(Debug)]
pub(super) struct Balance {
    pub(super) endpoints: Vec<Standing>,
    slow_start: Duration,
    /// Whose turn it is among equals.
    turn: usize,
}

impl Balance {
    pub(super) fn new(endpoints: Vec<Standing>, slow_start: Duration) -> Self {
        Self { endpoints, slow_start, turn: 0 }
    }

    /// Takes an endpoint for a request of so many tokens. `known` has read its beginning. `None` when all drain.
    pub(super) fn choose(&mut self, tokens: u64, known: Option<usize>, now: Instant) -> Option<usize> {
        let open: Vec<usize> = (0..self.endpoints.len()).filter(|&at| !self.endpoints[at].draining).collect();
        let ready: Vec<usize> = open.iter().copied().filter(|&at| self.endpoints[at].is_ready(now)).collect();
        // When none is ready one is tried all the same: the checks may be wrong, and the caller learns the reason.
        let among = if ready.is_empty() { open } else { ready };
        let load = |at: usize| self.endpoints[at].outstanding.load(Ordering::Relaxed) as f64;
        let after = |at: usize| (load(at) + tokens as f64) / self.weight(at, now);
        let count = self.endpoints.len();
        let turn = |at: usize| (at + count - self.turn) % count;
        let least = among
            .iter()
            .copied()
            .min_by(|&a, &b| after(a).total_cmp(&after(b)).then(turn(a).cmp(&turn(b))))?;
        let kept = known.filter(|at| among.contains(at)).filter(|&at| after(at) <= FAITH * after(least));
        let chosen = kept.unwrap_or(least);
        self.turn = (chosen + 1) % count;
        self.endpoints[chosen].outstanding.fetch_add(tokens, Ordering::Relaxed);
        Some(chosen)
    }

    /// Its weight, while it is started slowly a share of it that grows.
    fn weight(&self, at: usize, now: Instant) -> f64 {
        let Standing { weight, back_since, .. } = &self.endpoints[at];
        let share = back_since.map_or(1.0, |since| {
            now.saturating_duration_since(since).as_secs_f64() / self.slow_start.as_secs_f64().max(1e-9)
        });
        weight * share.clamp(FIRST_SHARE, 1.0)
    }

    /// Notes a failure that says that the endpoint does not work. Whether it is down from now on.
    pub(super) fn failed(&mut self, at: usize, now: Instant) -> bool {
        let endpoint = &mut self.endpoints[at];
        endpoint.failures = endpoint.failures.saturating_add(1);
        endpoint.rests_until = Some(now + REST);
        endpoint.failures == FAILURES
    }

    /// Notes that it wants to be left alone for a while.
    pub(super) fn busy(&mut self, at: usize, wait: Duration, now: Instant) {
        self.endpoints[at].rests_until = Some(now + wait);
    }

    /// Notes that it works. Whether it was down before.
    pub(super) fn works(&mut self, at: usize, now: Instant) -> bool {
        let endpoint = &mut self.endpoints[at];
        let was_down = !endpoint.is_up();
        endpoint.failures = 0;
        if was_down {
            endpoint.rests_until = None;
            endpoint.back_since = Some(now);
        }
        was_down
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balance(weights: &[f64]) -> Balance {
        let endpoints = weights.iter().map(|weight| Standing::new(*weight, false)).collect();
        Balance::new(endpoints, Duration::from_secs(30))
    }

    fn counts(balance: &mut Balance, requests: usize, now: Instant) -> Vec<usize> {
        let mut counts = vec![0; balance.endpoints.len()];
        for _ in 0..requests {
            counts[balance.choose(10, None, now).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn the_fewest_tokens_for_the_weight_win() {
        let now = Instant::now();
        let mut even = balance(&[1.0, 1.0]);
        assert_eq!(even.choose(100, None, now), Some(0));
        // Ten short ones weigh no more than the long one.
        for _ in 0..10 {
            assert_eq!(even.choose(10, None, now), Some(1));
        }
        even.endpoints[0].outstanding.store(0, Ordering::Relaxed);
        assert_eq!(even.choose(10, None, now), Some(0));
        assert_eq!(counts(&mut balance(&[3.0, 1.0]), 40, now), [30, 10]);
    }

    #[test]
    fn a_conversation_stays_until_its_endpoint_has_too_much_to_do() {
        let now = Instant::now();
        let mut pool = balance(&[1.0, 1.0]);
        for _ in 0..3 {
            assert_eq!(pool.choose(10, Some(1), now), Some(1));
            pool.endpoints[1].outstanding.store(0, Ordering::Relaxed);
        }
        pool.endpoints[0].outstanding.store(100, Ordering::Relaxed);
        pool.endpoints[1].outstanding.store(205, Ordering::Relaxed);
        assert_eq!(pool.choose(10, Some(1), now), Some(1), "not yet twice as much as the other");
        assert_eq!(pool.choose(10, Some(1), now), Some(0), "twice as much");
        let mut weighted = balance(&[1.0, 3.0]);
        weighted.endpoints[0].outstanding.store(90, Ordering::Relaxed);
        weighted.endpoints[1].outstanding.store(590, Ordering::Relaxed);
        assert_eq!(weighted.choose(10, Some(1), now), Some(1), "twice as much for its weight");
        weighted.endpoints[1].outstanding.store(591, Ordering::Relaxed);
        assert_eq!(weighted.choose(10, Some(1), now), Some(0));
        let mut three = balance(&[1.0, 1.0, 1.0]);
        three.endpoints[1].outstanding.store(250, Ordering::Relaxed);
        assert_ne!(three.choose(10, Some(1), now), Some(1), "the others have nothing to do");
        three.endpoints[2].draining = true;
        assert_ne!(three.choose(10, Some(2), now), Some(2));
    }

    #[test]
    fn a_beginning_that_all_share_does_not_fill_one_endpoint() {
        let now = Instant::now();
        let mut pool = balance(&[1.0, 1.0]);
        let mut known = None;
        let mut counts = [0; 2];
        for _ in 0..30 {
            let at = pool.choose(10, known, now).unwrap();
            counts[at] += 1;
            known = Some(at);
        }
        assert!(counts[0] >= 10 && counts[1] >= 10, "{counts:?}");
    }

    #[test]
    fn what_fails_rests_then_is_down_and_comes_back_slowly() {
        let mut now = Instant::now();
        let mut pool = balance(&[1.0, 1.0]);
        assert!(!pool.failed(0, now));
        assert_eq!(counts(&mut pool, 5, now), [0, 5]);
        now += REST;
        assert_eq!(pool.choose(1, None, now), Some(0), "one failure is forgiven");
        assert!(pool.failed(0, now), "two are not");
        now += Duration::from_hours(1);
        assert_eq!(counts(&mut pool, 5, now), [0, 5]);
        assert!(pool.works(0, now));
        for endpoint in &pool.endpoints {
            endpoint.outstanding.store(0, Ordering::Relaxed);
        }
        let [first, second] = counts(&mut pool, 110, now)[..] else { unreachable!() };
        assert_eq!((first, second), (10, 100));
        for endpoint in &pool.endpoints {
            endpoint.outstanding.store(0, Ordering::Relaxed);
        }
        now += Duration::from_secs(30);
        assert_eq!(counts(&mut pool, 100, now), [50, 50]);
        assert!(!pool.works(0, now));
    }

    #[test]
    fn when_none_is_ready_one_is_tried_and_when_all_drain_none() {
        let now = Instant::now();
        let mut pool = balance(&[1.0, 1.0]);
        for at in 0..2 {
            pool.failed(at, now);
            pool.failed(at, now);
        }
        assert!(pool.choose(1, None, now).is_some());
        pool.endpoints[0].draining = true;
        assert_eq!(pool.choose(1, None, now), Some(1));
        pool.endpoints[1].draining = true;
        assert_eq!(pool.choose(1, None, now), None);
        pool.busy(0, Duration::from_secs(5), now);
        pool.endpoints[0].draining = false;
        assert_eq!(pool.choose(1, None, now), Some(0));
    }
}
