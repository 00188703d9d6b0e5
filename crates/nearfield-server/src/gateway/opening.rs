//! One attempt until it is settled: until its first token, or, where the caller wants the answer in one piece, until
//! its end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use nearfield_api::{Backend, Error, ErrorKind, Event, EventStream, Locality, Request};
use nearfield_privacy::Vault;
use nearfield_router::rules::Escalate;
use tokio::time::{Instant, timeout_at};

use super::ConfiguredBackend;
use super::account::cut;
use super::judge::{Asked, Judge};
use super::restoring::Restoring;
use super::seals::Seal;

/// What an answer has to show before the caller sees any of it.
#[derive(Clone)]
pub(crate) enum Gate {
    /// Its first token. At the deadline an answer of this process's engine is settled on without one.
    FirstToken(Option<Instant>),
    /// All of it: what failed before can still be had elsewhere.
    Whole(Whole),
}

/// How an answer is gathered.
#[derive(Clone)]
pub(crate) struct Whole {
    /// The most bytes that are held back. An answer that takes more is not gathered to its end.
    pub(crate) bytes: usize,
    /// Called with every event, as a sign of life.
    pub(crate) beat: Arc<dyn Fn() + Send + Sync>,
}

/// What is to be known of an event that came.
struct Came {
    bytes: usize,
    started: bool,
    done: bool,
}

/// What a policy file has done to an answer.
#[derive(Default)]
pub(super) struct Care {
    /// Turns placeholders back.
    pub(super) vault: Option<Arc<Vault>>,
    /// Tags what cannot be looked into.
    pub(super) seal: Option<Seal>,
    /// Judges it before it is shown.
    pub(super) escalate: Option<Escalate>,
}

/// A backend's answer before it is settled.
pub(super) struct Opening {
    events: EventStream,
    /// What came so far, with its times.
    early: VecDeque<(Event, Instant)>,
    /// Pieces of the answer so far, also for those who no longer have the opening.
    pieces: Arc<AtomicU64>,
    locality: Locality,
    engine: bool,
    judge: Option<Judge>,
    /// The log probabilities that the caller asked for, where a judge asks for more.
    asked: Option<Asked>,
}

impl Opening {
    pub(super) fn new(
        configured: &ConfiguredBackend,
        mut request: Box<Request>,
        pieces: Arc<AtomicU64>,
        care: Care,
    ) -> Self {
        let Care { vault, seal, escalate } = care;
        let asked = escalate.is_some().then_some(Asked(request.logprobs));
        let judge = escalate.map(|escalate| Judge::new(escalate, &mut request));
        let backend: Arc<dyn Backend> = Arc::clone(&configured.backend);
        let (locality, engine) = (configured.facts.locality, configured.facts.engine);
        let starting = async move { backend.generate(request).await };
        // Accepting the request and answering it are one stream, so that the deadline can fall into either.
        let events = stream::once(starting).try_flatten();
        let mut events: EventStream = Box::pin(events);
        if let Some(vault) = vault {
            events = Box::pin(Restoring::new(events, vault));
        }
        if let Some(seal) = seal {
            events = changed(events, move |event| seal.put(event));
        }
        Self { events, early: VecDeque::new(), pieces, locality, engine, judge, asked }
    }

    /// Waits for what the gate asks for. An error, if there is one, came before it. `patience` is how long a backend
    /// outside this process may take to its first token.
    pub(super) async fn settle(&mut self, gate: Gate, patience: Option<Duration>) -> Option<Error> {
        if let Gate::FirstToken(Some(deadline)) = &gate
            && self.engine
        {
            return timeout_at(*deadline, self.judged()).await.unwrap_or(None);
        }
        let failed = match patience.filter(|_| !self.engine) {
            None => self.judged().await,
            Some(patience) => {
                let first = timeout_at(Instant::now() + patience, self.first_token()).await;
                first.unwrap_or_else(|_| Some(overdue(patience)))
            }
        };
        match gate {
            Gate::Whole(whole) if failed.is_none() => self.whole(&whole).await,
            _ => failed,
        }
    }

    /// Waits for the first token and, where there is a judge, for as many as it wants to hear.
    async fn judged(&mut self) -> Option<Error> {
        let failed = self.first_token().await;
        let Some(mut judge) = self.judge.take().filter(|_| failed.is_none()) else { return failed };
        let mut heard = 0;
        loop {
            while let Some((event, _)) = self.early.get(heard) {
                heard += 1;
                if judge.hear(event) {
                    return judge.doubt();
                }
            }
            if let Err(error) = self.next().await {
                return Some(error);
            }
        }
    }

    /// The rest of the answer and what came so far, as the caller asked for them.
    pub(super) fn into_parts(mut self) -> (EventStream, VecDeque<(Event, Instant)>) {
        let Some(asked) = self.asked else { return (self.events, self.early) };
        for (event, _) in &mut self.early {
            asked.restore(event);
        }
        (changed(self.events, move |event| asked.restore(event)), self.early)
    }

    async fn first_token(&mut self) -> Option<Error> {
        loop {
            match self.next().await {
                Ok(came) if came.started => {}
                Ok(_) => return None,
                Err(error) => return Some(error),
            }
        }
    }

    async fn whole(&mut self, whole: &Whole) -> Option<Error> {
        let mut held: usize = self.early.iter().map(|(event, _)| size(event)).sum();
        let mut done = self.early.back().is_some_and(|(event, _)| matches!(event, Event::Done { .. }));
        // What is larger than may be gathered is not gathered: whoever gathers it says so.
        while !done && held <= whole.bytes {
            (whole.beat)();
            match self.next().await {
                Ok(came) => (held, done) = (held.saturating_add(came.bytes), came.done),
                Err(error) => return Some(error),
            }
        }
        None
    }

    async fn next(&mut self) -> Result<Came, Error> {
        let event = self.events.next().await.unwrap_or_else(|| Err(cut()))?;
        if is_piece(&event) {
            self.pieces.fetch_add(1, Ordering::Relaxed);
        }
        let came = Came {
            bytes: size(&event),
            started: matches!(event, Event::Started { .. }),
            done: matches!(event, Event::Done { .. }),
        };
        self.early.push_back((event, Instant::now()));
        Ok(came)
    }

    /// Whether a failure so early certainly cost nothing. A provider may charge for work whose answer did not arrive.
    pub(super) fn is_free(&self, kind: ErrorKind) -> bool {
        let refused = self.early.is_empty();
        match self.locality {
            Locality::Local => refused,
            Locality::Cloud => refused && kind != ErrorKind::Timeout,
        }
    }

    /// The model, as the backend names it.
    pub(super) fn model(&self) -> Option<&str> {
        self.early.iter().find_map(|(event, _)| match event {
            Event::Started { model, .. } => Some(model.as_str()),
            _ => None,
        })
    }
}

/// An answer each of whose events is changed on its way.
fn changed(events: EventStream, change: impl Fn(&mut Event) + Send + 'static) -> EventStream {
    Box::pin(events.map_ok(move |mut event| {
        change(&mut event);
        event
    }))
}

/// Whether an event is a piece of the answer.
pub(super) const fn is_piece(event: &Event) -> bool {
    matches!(
        event,
        Event::Delta { .. } | Event::Refusal { .. } | Event::Reasoning { .. } | Event::ToolCall { .. }
    )
}

fn overdue(patience: Duration) -> Error {
    let message = format!("The backend had no token after {} s; ask again later.", patience.as_secs_f32());
    Error::new(ErrorKind::Timeout, message)
}

/// About how many bytes an event takes in memory.
pub(crate) fn size(event: &Event) -> usize {
    let logprobs = match event {
        Event::Delta { text, logprobs, .. } => (text.len(), logprobs),
        Event::Refusal { text, .. } | Event::Reasoning { text, .. } => return text.len() + 64,
        Event::ToolCall { arguments, .. } => return arguments.len() + 64,
        _ => return 64,
    };
    let token = |token: &str, bytes: &Option<Vec<u8>>| 64 + token.len() + bytes.as_ref().map_or(0, Vec::len);
    let (text, logprobs) = logprobs;
    let tokens: usize = logprobs
        .iter()
        .map(|entry| {
            let others: usize =
                entry.alternatives.iter().map(|other| token(&other.token, &other.bytes)).sum();
            token(&entry.token, &entry.bytes) + others
        })
        .sum();
    text + tokens
}
