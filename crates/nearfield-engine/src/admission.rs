//! The account of slots and cache pages, and the line in front of it.
//!
//! Whether a request may start is decided where it is submitted, so that a refusal is immediate and nobody waits while a
//! slot is free. The engine's thread only gives back what sequences no longer need.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nearfield_kernels::PAGE_POSITIONS;

use crate::counters::Counters;
use crate::error::EngineError;
use crate::outbox::{Outbox, Publisher};
use crate::outlook::{Need, Outlook};
use crate::plan::Plan;
use crate::request::Generate;
use crate::session::Session;

/// A request with everything that was worked out at its admission.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) request: Generate,
    /// Most tokens for each choice.
    pub(crate) max_tokens: usize,
    /// Cache pages that each choice may fill.
    pub(crate) pages: usize,
    pub(crate) seed: u64,
    pub(crate) publisher: Publisher,
    pub(crate) submitted: Instant,
}

impl Job {
    fn slots(&self) -> usize {
        self.request.choices as usize
    }
}

/// How busy an engine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Slots in use; each choice of a request takes one.
    pub running: usize,
    /// Requests that wait for a slot.
    pub queued: usize,
    /// Slots in all.
    pub slots: usize,
    /// Positions of the cache that nobody has.
    pub free_positions: usize,
    /// Positions of the cache in all.
    pub positions: usize,
}

/// Shared by callers and the engine's thread.
#[derive(Debug)]
pub(crate) struct Admission {
    slots: usize,
    queue: usize,
    context: usize,
    pages: usize,
    vocabulary: usize,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Debug)]
struct State {
    free_slots: usize,
    free_pages: usize,
    /// Admitted, and not yet taken by the engine's thread. At most one for each slot.
    admitted: VecDeque<Job>,
    /// Waiting, first come first served. At most `queue`.
    waiting: VecDeque<Job>,
    outlook: Outlook,
    counters: Counters,
    closed: bool,
}

impl State {
    fn fits(&self, job: &Job) -> bool {
        job.slots() <= self.free_slots && job.slots() * job.pages <= self.free_pages
    }

    fn admit(&mut self, job: Job) {
        self.free_slots -= job.slots();
        self.free_pages -= job.slots() * job.pages;
        self.admitted.push_back(job);
    }
}

impl Admission {
    pub(crate) fn new(plan: &Plan, vocabulary: usize, queue: usize) -> Self {
        let pages = plan.cache_positions / PAGE_POSITIONS;
        Self {
            slots: plan.slots,
            queue,
            context: plan.context,
            pages,
            vocabulary,
            state: Mutex::new(State {
                free_slots: plan.slots,
                free_pages: pages,
                admitted: VecDeque::new(),
                waiting: VecDeque::new(),
                outlook: Outlook::default(),
                counters: Counters::default(),
                closed: false,
            }),
            work: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a request, puts it in the queue, or refuses it; at once.
    pub(crate) fn submit(&self, mut request: Generate) -> Result<Session, EngineError> {
        request.choices = request.choices.max(1);
        request.check(self.vocabulary)?;
        // No more of it can ever come true.
        request.prediction.truncate(self.context);
        let choices = request.choices as usize;
        if choices > self.slots {
            return Err(EngineError::TooManyChoices { choices, slots: self.slots });
        }
        let max_tokens = self.max_tokens(&request)?;
        let outbox = Outbox::new(request.choices);
        let job = Job {
            pages: (request.tokens.len() + max_tokens).div_ceil(PAGE_POSITIONS),
            max_tokens,
            seed: request.sampling.seed.unwrap_or_else(random_seed),
            publisher: Publisher::new(Arc::clone(&outbox)),
            submitted: Instant::now(),
            request,
        };
        let session = Session::new(outbox);
        // A job that is refused is dropped after the lock is.
        let refused = self.enter(job);
        refused.map_or(Ok(session), |(error, _job)| Err(error))
    }

    fn enter(&self, job: Job) -> Option<(EngineError, Job)> {
        let mut state = self.lock();
        if state.closed {
            return Some((EngineError::Stopped, job));
        }
        if state.waiting.is_empty() && state.fits(&job) {
            state.admit(job);
            self.work.notify_one();
            return None;
        }
        if state.waiting.len() < self.queue {
            state.waiting.push_back(job);
            return None;
        }
        let running = self.slots - state.free_slots;
        let State { outlook, admitted, waiting, free_slots, free_pages, .. } = &*state;
        let needs = |jobs: &VecDeque<Job>| jobs.iter().map(|job| outlook.need(job)).collect::<Vec<_>>();
        let ahead = needs(waiting).into_iter().chain([outlook.need(&job)]);
        let wait = outlook.wait((*free_slots, *free_pages), needs(admitted).into_iter(), ahead);
        let retry_after = Outlook::retry_after(wait);
        Some((EngineError::Overloaded { running, retry_after }, job))
    }

    /// The tokens that each choice may generate.
    fn max_tokens(&self, request: &Generate) -> Result<usize, EngineError> {
        let prompt = request.tokens.len();
        // Several choices share the cache, which may hold less than that many contexts.
        let share = self.pages / request.choices as usize * PAGE_POSITIONS;
        let limit = self.context.min(share);
        let wanted = request.max_tokens.unwrap_or_else(|| limit.saturating_sub(prompt)).max(1);
        match prompt.checked_add(wanted) {
            Some(all) if all <= limit => Ok(wanted),
            _ => Err(EngineError::ContextOverflow { prompt, wanted, limit }),
        }
    }

    pub(crate) fn load(&self) -> Load {
        let state = self.lock();
        Load {
            running: self.slots - state.free_slots,
            queued: state.waiting.len(),
            slots: self.slots,
            free_positions: state.free_pages * PAGE_POSITIONS,
            positions: self.pages * PAGE_POSITIONS,
        }
    }

    /// How long the first token of a prompt of so many tokens would take to come; `None` before a prompt was measured.
    pub(crate) fn first_token(&self, prompt: usize) -> Option<Duration> {
        let state = self.lock();
        let State { outlook, admitted, waiting, free_slots, free_pages, .. } = &*state;
        if outlook.prompt_row <= 0.0 {
            return None;
        }
        let read = prompt as f64 * outlook.prompt_row + outlook.step;
        let need = Need { slots: 1, pages: prompt.div_ceil(PAGE_POSITIONS), seconds: read };
        let begun: Vec<Need> = admitted.iter().map(|job| outlook.need(job)).collect();
        let ahead = waiting.iter().map(|job| outlook.need(job)).chain([need]);
        let wait = outlook.wait((*free_slots, *free_pages), begun.into_iter(), ahead);
        Duration::try_from_secs_f64(wait + read).ok()
    }

    pub(crate) fn counters(&self) -> Counters {
        self.lock().counters
    }

    pub(crate) fn set_counters(&self, counters: Counters) {
        self.lock().counters = counters;
    }

    /// Takes what has been admitted; waits for something if `idle`. `None` once the engine is to stop.
    pub(crate) fn take(&self, idle: bool) -> Option<VecDeque<Job>> {
        let mut state = self.lock();
        while idle && !state.closed && state.admitted.is_empty() {
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed { None } else { Some(std::mem::take(&mut state.admitted)) }
    }

    /// Gives back slots, each with `pages`, and lets in who waits for them.
    pub(crate) fn release(&self, slots: usize, pages: usize) {
        let mut cancelled = Vec::new();
        let mut state = self.lock();
        state.free_slots += slots;
        state.free_pages += slots * pages;
        while let Some(job) = state.waiting.pop_front() {
            if job.publisher.outbox().is_cancelled() {
                cancelled.push(job);
            } else if state.fits(&job) {
                state.admit(job);
            } else {
                state.waiting.push_front(job);
                break;
            }
        }
        drop(state);
    }

    /// Forgets waiting requests that nobody waits for any more.
    pub(crate) fn sweep(&self) {
        let mut state = self.lock();
        if state.waiting.iter().any(|job| job.publisher.outbox().is_cancelled()) {
            let waiting = std::mem::take(&mut state.waiting);
            let (cancelled, waiting): (VecDeque<_>, _) =
                waiting.into_iter().partition(|job| job.publisher.outbox().is_cancelled());
            state.waiting = waiting;
            drop(state);
            drop(cancelled);
        }
    }

    /// Notes what is known of the work in progress.
    pub(crate) fn set_outlook(&self, outlook: Outlook) {
        self.lock().outlook = outlook;
    }

    /// Refuses everything from now on and ends what has not started.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let jobs = (std::mem::take(&mut state.admitted), std::mem::take(&mut state.waiting));
        drop(state);
        self.work.notify_all();
        drop(jobs);
    }
}

/// A seed that nobody can guess: the standard library's hasher is keyed by the system's random numbers.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
