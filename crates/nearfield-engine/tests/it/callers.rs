//! Short ways to be a caller of the engine.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use nearfield_engine::{
    Engine, EngineError, EngineOptions, FinishReason, Generate, Sampling, Session, SessionStats, Step,
};
use nearfield_model::Model;

use crate::support::{Reference, folder};

pub(crate) fn start(options: EngineOptions) -> Engine {
    Engine::start(Arc::new(Model::open(&folder("llama")).unwrap()), &options).unwrap()
}

pub(crate) fn options() -> EngineOptions {
    EngineOptions { threads: Some(2), ..EngineOptions::default() }
}

pub(crate) fn prompt() -> Vec<u32> {
    Reference::of("llama").tokens("a.input_ids")
}

/// A request for this many tokens.
pub(crate) fn request(count: usize) -> Generate {
    Generate { tokens: prompt(), max_tokens: Some(count), ..Generate::default() }
}

/// A request that goes on for hundreds of tokens.
pub(crate) fn endless() -> Generate {
    Generate { max_tokens: None, ..request(1) }
}

pub(crate) fn chance(seed: u64) -> Sampling {
    Sampling { temperature: 1.5, seed: Some(seed), ..Sampling::default() }
}

/// Everything that a session had to say.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) tokens: BTreeMap<u32, Vec<u32>>,
    pub(crate) reasons: BTreeMap<u32, FinishReason>,
    pub(crate) logprobs: Vec<(f32, Vec<(u32, f32)>)>,
    pub(crate) stats: SessionStats,
}

pub(crate) fn collect(mut session: Session) -> Result<Answer, EngineError> {
    let mut answer = Answer::default();
    while let Some(step) = session.next_blocking() {
        match step? {
            Step::Token { choice, token, logprob, alternatives } => {
                assert!(!answer.reasons.contains_key(&choice), "nothing comes after the end");
                answer.tokens.entry(choice).or_default().push(token);
                answer.logprobs.extend(logprob.map(|logprob| (logprob, alternatives)));
            }
            Step::Finished { choice, reason } => {
                assert_eq!(answer.reasons.insert(choice, reason), None);
            }
            Step::Done { stats } => answer.stats = stats,
        }
    }
    Ok(answer)
}

pub(crate) fn answer(engine: &Engine, request: Generate) -> Answer {
    collect(engine.submit(request).unwrap()).unwrap()
}

pub(crate) fn tokens(engine: &Engine, request: Generate) -> Vec<u32> {
    answer(engine, request).tokens.remove(&0).unwrap_or_default()
}

/// Waits for what must happen soon.
pub(crate) fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what} has not happened");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A waker that holds the engine's thread when it is called, until it is let go.
struct Gate {
    reached: SyncSender<()>,
    opened: Mutex<Receiver<()>>,
}

impl Wake for Gate {
    fn wake(self: Arc<Self>) {
        self.reached.send(()).unwrap();
        // The other end never sends: it goes away.
        assert!(self.opened.lock().unwrap().recv().is_err());
    }
}

/// An engine's thread that stands still in the middle of a step; it goes on when this is dropped.
pub(crate) struct Held {
    pub(crate) session: Session,
    pub(crate) open: SyncSender<()>,
}

/// Submits a request and holds the engine's thread at one of its tokens.
pub(crate) fn hold(engine: &Engine, request: Generate) -> Held {
    let mut session = engine.submit(request).unwrap();
    let ((reached, at_gate), (open, opened)) = (sync_channel(1), sync_channel(0));
    let waker = Waker::from(Arc::new(Gate { reached, opened: Mutex::new(opened) }));
    while session.poll_next(&mut Context::from_waker(&waker)).is_ready() {}
    at_gate.recv().unwrap();
    Held { session, open }
}
