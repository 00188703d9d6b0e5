//! The circuit breaker of one backend: after failures in a row it rests, then one request probes it.

use std::time::Duration;

/// What a breaker says of an attempt that is about to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// It may be made.
    Free,
    /// It may be made, and decides for those that come after.
    Probe,
    /// It may not; the backend may be asked again after this time.
    Rest(Duration),
}

/// The state of one backend's circuit. Times are since an origin of the caller's choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    failures: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    /// Until this time nothing is asked.
    Open(Duration),
    /// One request is asking, since this time.
    HalfOpen(Duration),
}

impl Breaker {
    /// Asks to make an attempt. A probe must be followed by one of the other calls; one that never was is forgotten
    /// after another `rest`.
    pub fn ask(&mut self, now: Duration, rest: Duration) -> Pass {
        match self.state {
            State::Closed => Pass::Free,
            State::Open(until) if now < until => Pass::Rest(until.saturating_sub(now)),
            State::HalfOpen(since) if now < since + rest => Pass::Rest((since + rest).saturating_sub(now)),
            State::Open(_) | State::HalfOpen(_) => {
                self.state = State::HalfOpen(now);
                Pass::Probe
            }
        }
    }

    /// A first token came: a probe has found the backend well. Failures in a row are forgotten only by
    /// [`Breaker::done`], so that answers that always break off half way open the circuit too.
    pub fn began(&mut self) {
        self.state = State::Closed;
    }

    /// An answer came to its end.
    pub fn done(&mut self) {
        *self = Self::default();
    }

    /// An attempt failed in a way that speaks against the backend. Returns whether that opened the circuit.
    pub fn failed(&mut self, now: Duration, most: u32, rest: Duration) -> bool {
        self.failures = self.failures.saturating_add(1);
        let probing = matches!(self.state, State::HalfOpen(_));
        let opens = most > 0 && (probing || self.failures >= most);
        if opens {
            self.state = State::Open(now + rest);
        }
        opens
    }

    /// A probe ended without saying anything of the backend; the next request probes.
    pub fn abandoned(&mut self, now: Duration) {
        if matches!(self.state, State::HalfOpen(_)) {
            self.state = State::Open(now);
        }
    }

    /// Whether requests are turned away, or one is probing.
    pub const fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed)
    }
}
