//! What the server counts. Labels are closed sets (routes, backends' configured names, outcomes): never a key, a
//! model name from a request, or anything a user wrote.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder as _, Unit};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use nearfield_api::{EndpointState, Usage};

const REQUESTS: &str = "nearfield_requests_total";
const DURATION: &str = "nearfield_request_duration_seconds";
const IN_FLIGHT: &str = "nearfield_requests_in_flight";
const TOKENS: &str = "nearfield_tokens_total";
const GUESSES: &str = "nearfield_guessed_tokens_total";
const FIRST_TOKEN: &str = "nearfield_time_to_first_token_seconds";
const INTER_TOKEN: &str = "nearfield_inter_token_seconds";
const CONNECTIONS: &str = "nearfield_connections";
const REFUSED: &str = "nearfield_connections_refused_total";

const ATTEMPTS: &str = "nearfield_attempt_events_total";
const CIRCUIT: &str = "nearfield_circuit_open";
const ENDPOINT_UP: &str = "nearfield_pool_endpoint_up";
const ENDPOINT_DRAINING: &str = "nearfield_pool_endpoint_draining";
const ENDPOINT_TOKENS: &str = "nearfield_pool_endpoint_tokens";
const RULE_FAILURES: &str = "nearfield_policy_reload_failures_total";

const METADATA: Metadata<'static> = Metadata::new("nearfield_server", Level::INFO, Some(module_path!()));
const TOKEN_KINDS: [&str; 6] =
    ["input", "cached_input", "cache_write", "output", "reasoning", "unattributed"];
/// Upper bounds in seconds: from one token on a fast machine to a long answer on a slow one.
const LONG_BUCKETS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0];
const SHORT_BUCKETS: [f64; 12] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// One server's metrics. Not global, so that several servers can live in one process.
pub(crate) struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    in_flight: Gauge,
    durations: Known<&'static str, Histogram>,
    /// Requests by route and outcome, under the backend that answered, or the empty name.
    requests: Known<String, Arc<Requests>>,
    backends: Known<String, Arc<BackendMetrics>>,
}

/// Requests by route and outcome.
type Requests = Known<(&'static str, &'static str), Counter>;

/// What is counted of the answers of one backend.
pub(crate) struct BackendMetrics {
    /// Times to the first token.
    pub(crate) first_token: Histogram,
    /// Times between two tokens.
    pub(crate) inter_token: Histogram,
    tokens: [Counter; TOKEN_KINDS.len()],
}

/// Series by their labels, kept since to look one up among all takes as long as all else that is done with it. There are
/// few of each.
struct Known<L, S>(RwLock<Vec<(L, S)>>);

impl<L, S> Default for Known<L, S> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<L, S: Clone> Known<L, S> {
    fn get(&self, is: impl Fn(&L) -> bool, make: impl FnOnce() -> (L, S)) -> S {
        let find = |known: &[(L, S)]| known.iter().find(|(labels, _)| is(labels)).map(|(_, own)| own.clone());
        if let Some(own) = find(&self.0.read().unwrap_or_else(PoisonError::into_inner)) {
            return own;
        }
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have been faster.
        find(&known).unwrap_or_else(|| {
            let (labels, own) = make();
            known.push((labels, own.clone()));
            own
        })
    }
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&LONG_BUCKETS)?
            .set_buckets_for_metric(Matcher::Full(INTER_TOKEN.to_owned()), &SHORT_BUCKETS)?
            .build_recorder();
        let handle = recorder.handle();
        let count = Some(Unit::Count);
        let seconds = Some(Unit::Seconds);
        let counter = |name: &'static str, unit, text: &'static str| {
            recorder.describe_counter(name.into(), unit, text.into());
        };
        counter(REQUESTS, count, "Requests by route, outcome and backend");
        counter(TOKENS, count, "Tokens by backend and kind");
        counter(
            GUESSES,
            count,
            "Tokens that the engine guessed ahead, by backend and whether they were right",
        );
        counter(REFUSED, count, "Connections refused, by reason");
        counter(RULE_FAILURES, count, "Policy files that could not be put in force; the old one stayed");
        counter(
            ATTEMPTS,
            count,
            "What happened in attempts, by backend: done or the kind of an error, retry, fallback, hedge, lost, probe, \
             circuit_open",
        );
        let histogram = |name: &'static str, text: &'static str| {
            recorder.describe_histogram(name.into(), seconds, text.into());
        };
        histogram(DURATION, "Time from a request's headers to the end of its reply, by route");
        histogram(FIRST_TOKEN, "Time from a request's headers to its first token, by backend");
        histogram(INTER_TOKEN, "Time between two pieces of an answer, by backend");
        recorder.describe_gauge(IN_FLIGHT.into(), count, "Requests being answered by a backend now".into());
        let circuit = "Whether a backend rests after failures, or is being probed";
        recorder.describe_gauge(CIRCUIT.into(), count, circuit.into());
        let endpoint = [
            (
                ENDPOINT_UP,
                "Whether an endpoint of a pool works, by its position in the configuration, from 1",
            ),
            (ENDPOINT_DRAINING, "Whether it gets no new requests"),
            (
                ENDPOINT_TOKENS,
                "Tokens of requests that are under way there, of prompts and of answers to come",
            ),
        ];
        for (name, text) in endpoint {
            recorder.describe_gauge(name.into(), count, text.into());
        }
        recorder.describe_gauge(CONNECTIONS.into(), count, "Open connections".into());
        let in_flight = recorder.register_gauge(&Key::from_static_name(IN_FLIGHT), &METADATA);
        let metrics = Self {
            recorder,
            handle,
            in_flight,
            durations: Known::default(),
            requests: Known::default(),
            backends: Known::default(),
        };
        metrics.in_flight.set(0.0);
        metrics.connections().set(0.0);
        Ok(metrics)
    }

    /// The text that Prometheus reads.
    pub(crate) fn render(&self) -> String {
        self.handle.render()
    }

    /// Moves raw samples into their buckets; without it they pile up between two scrapes.
    pub(crate) fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// A request ended.
    pub(crate) fn request(
        &self,
        route: &'static str,
        outcome: &'static str,
        backend: &str,
        duration: Duration,
    ) {
        let own = self.requests.get(|known| known == backend, || (backend.to_owned(), Arc::default()));
        let requests = own.get(
            |known| *known == (route, outcome),
            || {
                let labels = vec![
                    Label::from_static_parts("route", route),
                    Label::from_static_parts("outcome", outcome),
                    Label::new("backend", backend.to_owned()),
                ];
                ((route, outcome), self.counter(REQUESTS, labels))
            },
        );
        requests.increment(1);
        let durations = self.durations.get(
            |known| *known == route,
            || (route, self.histogram(DURATION, vec![Label::from_static_parts("route", route)])),
        );
        durations.record(duration);
    }

    /// What is counted of a backend's answers.
    pub(crate) fn backend(&self, name: &str) -> Arc<BackendMetrics> {
        let label = || Label::new("backend", name.to_owned());
        let make = || BackendMetrics {
            first_token: self.histogram(FIRST_TOKEN, vec![label()]),
            inter_token: self.histogram(INTER_TOKEN, vec![label()]),
            tokens: TOKEN_KINDS
                .map(|kind| self.counter(TOKENS, vec![label(), Label::from_static_parts("kind", kind)])),
        };
        self.backends.get(|known| known == name, || (name.to_owned(), Arc::new(make())))
    }

    /// Tokens of one answer that were guessed ahead, and those that were right.
    pub(crate) fn guesses(&self, backend: &str, drafted: u64, accepted: u64) {
        for (right, count) in [("yes", accepted), ("no", drafted.saturating_sub(accepted))] {
            let labels =
                vec![Label::new("backend", backend.to_owned()), Label::from_static_parts("right", right)];
            self.counter(GUESSES, labels).increment(count);
        }
    }

    /// Requests that a backend is answering.
    pub(crate) fn in_flight(&self) -> Gauge {
        self.in_flight.clone()
    }

    /// Open connections.
    pub(crate) fn connections(&self) -> Gauge {
        self.recorder.register_gauge(&Key::from_static_name(CONNECTIONS), &METADATA)
    }

    /// A connection was refused.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.counter(REFUSED, vec![Label::from_static_parts("reason", reason)]).increment(1);
    }

    /// So many policy files could not be put in force until now.
    pub(crate) fn rule_failures(&self, count: u64) {
        self.counter(RULE_FAILURES, Vec::new()).absolute(count);
    }

    /// So often something happened in a backend's attempts until now.
    pub(crate) fn attempts(&self, backend: &str, event: &'static str, count: u64) {
        let labels =
            vec![Label::new("backend", backend.to_owned()), Label::from_static_parts("event", event)];
        self.counter(ATTEMPTS, labels).absolute(count);
    }

    /// Whether a backend rests.
    pub(crate) fn circuit(&self, backend: &str, open: bool) {
        let key = Key::from_parts(CIRCUIT, vec![Label::new("backend", backend.to_owned())]);
        self.recorder.register_gauge(&key, &METADATA).set(if open { 1.0 } else { 0.0 });
    }

    /// How an endpoint of a pool stands.
    pub(crate) fn endpoint(&self, backend: &str, position: usize, state: EndpointState) {
        let EndpointState { up, draining, outstanding_tokens } = state;
        let values = [
            (ENDPOINT_UP, f64::from(u8::from(up))),
            (ENDPOINT_DRAINING, f64::from(u8::from(draining))),
            (ENDPOINT_TOKENS, outstanding_tokens as f64),
        ];
        for (name, value) in values {
            let labels =
                vec![Label::new("backend", backend.to_owned()), Label::new("endpoint", position.to_string())];
            self.recorder.register_gauge(&Key::from_parts(name, labels), &METADATA).set(value);
        }
    }

    fn counter(&self, name: &'static str, labels: Vec<Label>) -> Counter {
        self.recorder.register_counter(&Key::from_parts(name, labels), &METADATA)
    }

    fn histogram(&self, name: &'static str, labels: Vec<Label>) -> Histogram {
        self.recorder.register_histogram(&Key::from_parts(name, labels), &METADATA)
    }
}

impl BackendMetrics {
    /// Tokens of one answer.
    pub(crate) fn tokens(&self, usage: &Usage) {
        let counts = [
            usage.input,
            usage.cached_input,
            usage.cache_write.saturating_add(usage.cache_write_1h),
            usage.output,
            usage.reasoning,
            usage.unattributed,
        ];
        for (counter, count) in self.tokens.iter().zip(counts).filter(|&(_, count)| count > 0) {
            counter.increment(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_shown() {
        let metrics = Metrics::new().unwrap();
        metrics.request("/v1/models", "ok", "", Duration::from_millis(3));
        metrics.request("/v1/models", "ok", "", Duration::from_millis(3));
        metrics.backend("local").tokens(&Usage { output: 7, cache_write_1h: 2, ..Usage::NONE });
        metrics.guesses("local", 9, 7);
        metrics.backend("local").first_token.record(Duration::from_millis(40));
        metrics.in_flight().increment(1.0);
        metrics.refused("full");
        metrics.upkeep();
        let text = metrics.render();
        assert!(
            text.contains(r#"nearfield_requests_total{route="/v1/models",outcome="ok",backend=""} 2"#),
            "{text}"
        );
        assert!(text.contains(r#"nearfield_tokens_total{backend="local",kind="output"} 7"#), "{text}");
        assert!(text.contains(r#"nearfield_tokens_total{backend="local",kind="cache_write"} 2"#), "{text}");
        for line in [r#"{backend="local",right="yes"} 7"#, r#"{backend="local",right="no"} 2"#] {
            assert!(text.contains(&format!("nearfield_guessed_tokens_total{line}")), "{text}");
        }
        let bucket = r#"nearfield_time_to_first_token_seconds_bucket{backend="local",le="0.05"} 1"#;
        assert!(text.contains(bucket), "{text}");
        assert!(text.contains("nearfield_requests_in_flight 1"), "{text}");
        assert!(text.contains(r#"nearfield_connections_refused_total{reason="full"} 1"#), "{text}");
    }
}
