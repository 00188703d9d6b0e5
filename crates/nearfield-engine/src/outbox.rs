//! The way of a session's steps from the engine's thread to its caller.
//!
//! What waits in an outbox is bounded by the tokens that the session was admitted for, so it needs no other bound.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::EngineError;
use crate::session::Step;

type Item = Result<Step, EngineError>;

/// Shared by a session and the engine's thread.
#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    arrived: Condvar,
    cancelled: AtomicBool,
    /// Choices that the caller has ended.
    ended: Box<[AtomicBool]>,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    waker: Option<Waker>,
}

impl Outbox {
    pub(crate) fn new(choices: u32) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            arrived: Condvar::new(),
            cancelled: AtomicBool::new(false),
            ended: (0..choices).map(|_| AtomicBool::new(false)).collect(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, item: Item) {
        if self.is_cancelled() {
            return;
        }
        let waker = {
            let mut state = self.lock();
            state.items.push_back(item);
            state.waker.take()
        };
        self.arrived.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<Item> {
        let mut state = self.lock();
        if let Some(item) = state.items.pop_front() {
            return Poll::Ready(item);
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }

    pub(crate) fn wait(&self) -> Item {
        let mut state = self.lock();
        loop {
            match state.items.pop_front() {
                Some(item) => return item,
                None => state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.lock().items.clear();
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    pub(crate) fn end_choice(&self, choice: u32) {
        if let Some(ended) = self.ended.get(choice as usize) {
            ended.store(true, Ordering::Release);
        }
    }

    pub(crate) fn is_ended(&self, choice: u32) -> bool {
        self.ended.get(choice as usize).is_none_or(|ended| ended.load(Ordering::Acquire))
    }
}

/// The engine's end of an outbox. However it goes out of use, the session learns how it ended: without an end of its
/// own it has stopped with the engine.
#[derive(Debug)]
pub(crate) struct Publisher {
    outbox: Arc<Outbox>,
    over: bool,
}

impl Publisher {
    pub(crate) fn new(outbox: Arc<Outbox>) -> Self {
        Self { outbox, over: false }
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    pub(crate) fn push(&self, step: Step) {
        self.outbox.push(Ok(step));
    }

    pub(crate) fn finish(mut self, end: Item) {
        self.over = true;
        self.outbox.push(end);
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if !self.over {
            self.outbox.push(Err(EngineError::Stopped));
        }
    }
}
