//! What a connection is busy with, and whether the answers move.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

/// The requests in progress on one connection.
#[derive(Clone, Debug)]
pub(super) struct Activity(Arc<Mutex<(usize, Instant)>>);

impl Activity {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new((0, Instant::now()))))
    }

    /// Counts a request until the result is dropped.
    pub(super) fn enter(&self) -> Busy {
        self.change(1);
        Busy(self.clone())
    }

    /// Since when nothing is in progress; `None` when something is.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (state.0 == 0).then_some(state.1)
    }

    fn change(&self, by: isize) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = (state.0.saturating_add_signed(by), Instant::now());
    }
}

/// A request in progress.
#[derive(Debug)]
pub(super) struct Busy(Activity);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.change(-1);
    }
}

/// A reply's body that holds something until it is sent or dropped.
pub(super) struct HoldingBody<B, T> {
    body: B,
    held: T,
    /// Called once when the body was taken whole.
    finished: Option<fn(&T)>,
}

impl<B: Body, T> HoldingBody<B, T> {
    /// `finished` is called when the body was handed over whole, before `held` is dropped.
    pub(super) fn new(body: B, held: T, finished: fn(&T)) -> Self {
        let mut holding = Self { body, held, finished: Some(finished) };
        if holding.body.is_end_stream() {
            holding.finish();
        }
        holding
    }

    fn finish(&mut self) {
        if let Some(finished) = self.finished.take() {
            finished(&self.held);
        }
    }
}

impl<B: Body + Unpin, T: Unpin> Body for HoldingBody<B, T> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(context);
        let ended = match &frame {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(_))) => this.body.is_end_stream(),
            _ => false,
        };
        if ended {
            this.finish();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether the backends' answers move: what `/health` tells.
#[derive(Debug)]
pub(super) struct Pulse {
    start: Instant,
    stall: Duration,
    running: AtomicU64,
    /// Milliseconds from `start` to the last sign of life.
    last: AtomicU64,
}

impl Pulse {
    pub(super) fn new(stall: Duration) -> Self {
        Self { start: Instant::now(), stall, running: AtomicU64::new(0), last: AtomicU64::new(0) }
    }

    /// Counts an answer in progress until the result is dropped.
    pub(super) fn enter(self: &Arc<Self>) -> Beating {
        self.enter_at(Instant::now())
    }

    fn enter_at(self: &Arc<Self>, now: Instant) -> Beating {
        // A request that joins others that hang is no sign of life; the first one is where waiting starts.
        if self.running.fetch_add(1, Ordering::AcqRel) == 0 {
            self.beat_at(now);
        }
        Beating(Arc::clone(self))
    }

    /// A backend produced something.
    pub(super) fn beat(&self) {
        self.beat_at(Instant::now());
    }

    fn beat_at(&self, now: Instant) {
        self.last.store(self.milliseconds(now), Ordering::Release);
    }

    /// Whether nothing is asked, or something was produced recently.
    pub(super) fn healthy(&self) -> bool {
        self.healthy_at(Instant::now())
    }

    fn healthy_at(&self, now: Instant) -> bool {
        let last = self.last.load(Ordering::Acquire);
        let silent = Duration::from_millis(self.milliseconds(now).saturating_sub(last));
        self.running.load(Ordering::Acquire) == 0 || silent < self.stall
    }

    fn milliseconds(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_millis() as u64
    }
}

/// An answer in progress.
#[derive(Debug)]
pub(super) struct Beating(Arc<Pulse>);

impl Beating {
    /// The backend produced something for this answer.
    pub(super) fn beat(&self) {
        self.0.beat();
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_follows_the_events() {
        let pulse = Arc::new(Pulse::new(Duration::from_secs(10)));
        let at = |seconds| pulse.start + Duration::from_secs(seconds);
        assert!(pulse.healthy_at(at(60)), "nothing is asked");
        let first = pulse.enter_at(at(60));
        assert!(pulse.healthy_at(at(60)), "just asked");
        assert!(!pulse.healthy_at(at(71)), "asked, and nothing came");
        let second = pulse.enter_at(at(71));
        assert!(!pulse.healthy_at(at(71)), "asking again is no answer");
        first.0.beat_at(at(71));
        assert!(pulse.healthy_at(at(71)));
        assert!(!pulse.healthy_at(at(82)));
        drop((first, second));
        assert!(pulse.healthy_at(at(82)), "nothing is asked any more");
    }

    #[test]
    fn a_connection_is_busy_while_a_request_lasts() {
        let activity = Activity::new();
        assert!(activity.idle_since().is_some());
        let (one, two) = (activity.enter(), activity.enter());
        drop(one);
        assert!(activity.idle_since().is_none());
        drop(two);
        assert!(activity.idle_since().is_some());
    }
}
