//! Follows an answer's events for health, metrics and log.

use std::sync::Arc;
use std::time::Duration;

use metrics::Gauge;
use nearfield_api::{Event, Usage};
use tokio::time::Instant;

use super::Service;
use super::activity::Beating;
use super::record::Record;
use crate::metrics::BackendMetrics;

/// A request that a backend is about to answer.
pub(super) struct Asked {
    beating: Beating,
    in_flight: Gauge,
}

impl Asked {
    pub(super) fn new(service: &Service) -> Self {
        let in_flight = service.metrics.in_flight();
        in_flight.increment(1.0);
        Self { beating: service.pulse.enter(), in_flight }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.in_flight.decrement(1.0);
    }
}

/// A request that a backend answers.
pub(super) struct Progress {
    asked: Asked,
    service: Service,
    record: Arc<Record>,
    backend: String,
    metrics: Arc<BackendMetrics>,
    last_token: Option<Instant>,
    /// Whether events come as the backend makes them, and not all at the end.
    live: bool,
}

impl Progress {
    pub(super) fn new(
        asked: Asked,
        service: &Service,
        record: &Arc<Record>,
        backend: &str,
        live: bool,
    ) -> Self {
        Self {
            asked,
            service: Arc::clone(service),
            record: Arc::clone(record),
            backend: backend.to_owned(),
            metrics: service.metrics.backend(backend),
            last_token: None,
            live,
        }
    }

    /// Takes note of an event. `ttft` tells the milliseconds from admission to the first token.
    pub(super) fn note(&mut self, event: &Event, ttft: impl FnOnce() -> Option<f64>) {
        self.asked.beating.beat();
        match event {
            Event::Delta { .. }
            | Event::Refusal { .. }
            | Event::Reasoning { .. }
            | Event::ToolCall { .. } => self.token(ttft),
            Event::Done { usage, work } => {
                self.done(*usage);
                if let Some(work) = work.filter(|work| work.drafted > 0) {
                    self.service.metrics.guesses(&self.backend, work.drafted, work.accepted);
                }
            }
            _ => {}
        }
    }

    /// The record of the request.
    pub(super) fn record(&self) -> &Record {
        &self.record
    }

    fn token(&mut self, ttft: impl FnOnce() -> Option<f64>) {
        let now = Instant::now();
        if let Some(last) = self.last_token.replace(now) {
            if self.live {
                self.metrics.inter_token.record(now.duration_since(last));
            }
        } else {
            let waited = now.duration_since(self.record.started());
            let held_back =
                ttft().filter(|_| !self.live).map(|ms| Duration::from_secs_f64(ms.max(0.0) / 1e3));
            let after = held_back.map_or(waited, |first| first.min(waited));
            self.record.first_token(after);
            self.metrics.first_token.record(after);
        }
    }

    fn done(&self, usage: Usage) {
        self.record.done(usage);
        self.metrics.tokens(&usage);
    }
}
