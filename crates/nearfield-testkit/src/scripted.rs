//! A backend that does what a test tells it: the scripted fake.
//!
//! It is a [`Backend`] as any other, without a network. What it is asked it keeps in [`Scripted::seen`]. Without a script
//! it answers well, and what it answers follows from the request as it does with the scripted cloud: see
//! [`crate::plays`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream;
use nearfield_api::{
    Backend, BackendLoad, Dialect, EngineFacts, Error, ErrorKind, Event, EventStream, FinishReason, Locality,
    ModelInfo, Opaque, Request, TokenLogprob, Usage, Work,
};

use crate::plays::{self, ARGUMENTS, Course, REFUSAL, Reason, SIGNATURE, Says, THOUGHT};

/// One thing that a script does.
#[derive(Clone, Debug)]
pub enum Play {
    /// Says something.
    Event(Event),
    /// Breaks off with an error.
    Fail(Error),
    /// Waits.
    Wait(Duration),
    /// Nothing more comes, ever.
    Hang,
}

/// What the backend does with one request.
#[derive(Clone, Debug)]
pub enum Script {
    /// `generate` itself fails.
    Refuse(Error),
    /// `generate` never returns.
    Silence,
    /// `generate` panics.
    Panic,
    /// An answer.
    Play(Vec<Play>),
}

/// Plays one script for each request, the last one again and again. With no script at all it answers well.
#[derive(Debug)]
pub struct Scripted {
    name: String,
    locality: Locality,
    engine: bool,
    scripts: Mutex<VecDeque<Script>>,
    /// The requests that it has got, in order.
    pub seen: Mutex<Vec<Request>>,
    begun: AtomicUsize,
    /// Answers whose stream was dropped, at its end or before.
    pub dropped: Arc<AtomicUsize>,
    /// What it says of how busy it is.
    pub load: Mutex<Option<BackendLoad>>,
}

impl Scripted {
    fn new(
        name: &str,
        locality: Locality,
        engine: bool,
        scripts: impl IntoIterator<Item = Script>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            locality,
            engine,
            scripts: Mutex::new(scripts.into_iter().collect()),
            seen: Mutex::default(),
            begun: AtomicUsize::default(),
            dropped: Arc::default(),
            load: Mutex::default(),
        })
    }

    /// One that stands for the engine in this process, and takes only text.
    pub fn local(scripts: impl IntoIterator<Item = Script>) -> Arc<Self> {
        Self::new("local", Locality::Local, true, scripts)
    }

    /// One that stands for another server of this machine.
    pub fn beside(name: &str, scripts: impl IntoIterator<Item = Script>) -> Arc<Self> {
        Self::new(name, Locality::Local, false, scripts)
    }

    /// One elsewhere.
    pub fn cloud(name: &str, scripts: impl IntoIterator<Item = Script>) -> Arc<Self> {
        Self::new(name, Locality::Cloud, false, scripts)
    }

    /// How many requests it has got.
    pub fn calls(&self) -> usize {
        lock(&self.seen).len()
    }

    /// How many of its answers somebody still holds.
    pub fn under_way(&self) -> usize {
        self.begun.load(Ordering::SeqCst).saturating_sub(self.dropped.load(Ordering::SeqCst))
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts that an answer is no longer wanted.
struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[async_trait::async_trait]
impl Backend for Scripted {
    fn name(&self) -> &str {
        &self.name
    }

    fn locality(&self) -> Locality {
        self.locality
    }

    fn is_engine(&self) -> bool {
        self.engine
    }

    async fn models(&self) -> Result<Vec<ModelInfo>, Error> {
        let info = |id: String| ModelInfo { id, context_length: Some(2048) };
        Ok(vec![info("m".to_owned()), info(format!("{}-only", self.name))])
    }

    fn load(&self, _model: &str, _prompt_tokens: u64) -> Option<BackendLoad> {
        *lock(&self.load)
    }

    async fn generate(&self, request: Box<Request>) -> Result<EventStream, Error> {
        if self.locality == Locality::Local {
            request.require_text_only()?;
        }
        let script = {
            let mut scripts = lock(&self.scripts);
            if scripts.len() > 1 { scripts.pop_front() } else { scripts.front().cloned() }
        };
        let script = script.unwrap_or_else(|| good_answer(&request, self.locality));
        lock(&self.seen).push(*request);
        let plays = match script {
            Script::Refuse(error) => return Err(error),
            Script::Silence => std::future::pending().await,
            #[expect(clippy::panic, reason = "the test asks for it")]
            Script::Panic => panic!("as the script says"),
            Script::Play(plays) => VecDeque::from(plays),
        };
        self.begun.fetch_add(1, Ordering::SeqCst);
        let dropped = Dropped(Arc::clone(&self.dropped));
        Ok(Box::pin(stream::unfold((plays, dropped), |(mut plays, dropped)| async move {
            loop {
                match plays.pop_front()? {
                    Play::Event(event) => return Some((Ok(event), (plays, dropped))),
                    Play::Fail(error) => return Some((Err(error), (plays, dropped))),
                    Play::Wait(time) => tokio::time::sleep(time).await,
                    Play::Hang => std::future::pending().await,
                }
            }
        })))
    }
}

/// What is said to a request by the rules of [`crate::plays`].
fn good_answer(request: &Request, locality: Locality) -> Script {
    if request.origin.is_none()
        && let Some((name, _)) = request.extra.iter().find(|(_, value)| !value.is_null())
    {
        return Script::Refuse(
            Error::invalid(name, "This field means nothing here.").with_code("unknown_parameter"),
        );
    }
    match plays::Play::of(request) {
        Ok(play) => Script::Play(said(&play, &request.model, locality)),
        Err(no) => Script::Refuse(no.error()),
    }
}

fn said(play: &plays::Play, model: &str, locality: Locality) -> Vec<Play> {
    let mut all = vec![if locality == Locality::Local { started() } else { started_as(model) }];
    for choice in 0..play.choices {
        all.extend(pieces(play, choice).into_iter().map(Play::Event));
    }
    let end = match play.course {
        Course::Whole => None,
        Course::CutOff => Some(Play::Fail(Error::new(ErrorKind::Upstream, "The answer was cut off."))),
        Course::Fails => Some(Play::Fail(Error::new(ErrorKind::Overloaded, "The backend is overloaded."))),
        Course::Endless => Some(Play::Hang),
    };
    if let Some(end) = end {
        // The start and the first piece.
        all.truncate(2);
        all.push(end);
        return all;
    }
    let reason = match play.reason {
        Reason::End | Reason::StopText(_) => FinishReason::Stop,
        Reason::Limit => FinishReason::Length,
        Reason::Calls => FinishReason::ToolCalls,
        Reason::Refusal => FinishReason::Refusal,
    };
    all.extend((0..play.choices).map(|choice| Play::Event(Event::Finished { choice, reason })));
    all.push(Play::Event(Event::Done { usage: play.counts.usage(), work: None }));
    all
}

/// What one of the answers says.
fn pieces(play: &plays::Play, choice: u32) -> Vec<Event> {
    let logprobs = |token: &str| {
        let (token, bytes) = (token.to_owned(), Some(token.as_bytes().to_vec()));
        play.logprobs.then(|| TokenLogprob { token, bytes, logprob: -0.25, alternatives: Vec::new() })
    };
    let text = play.pieces().map(|piece| Event::Delta {
        choice,
        text: piece.to_owned(),
        logprobs: logprobs(piece).into_iter().collect(),
    });
    let mut events = Vec::new();
    match &play.says {
        Says::Text(..) => {}
        Says::Reasoning => {
            let opaque = Opaque {
                dialect: Dialect::OpenAiChat,
                kind: "signature".to_owned(),
                value: SIGNATURE.to_owned(),
                id: None,
            };
            let (one, two) = THOUGHT.split_at(4);
            events.push(Event::Reasoning { choice, text: one.to_owned(), opaque: None });
            events.push(Event::Reasoning { choice, text: two.to_owned(), opaque: Some(opaque) });
        }
        Says::Calls(name, count) => {
            for (index, arguments) in ARGUMENTS.iter().take(*count).enumerate() {
                let index = index as u32;
                let (one, two) = arguments.split_at(5);
                for (at, piece) in [one, two].into_iter().enumerate() {
                    events.push(Event::ToolCall {
                        choice,
                        index,
                        id: (at == 0).then(|| format!("call_{index}")),
                        name: (at == 0).then(|| name.clone()),
                        arguments: piece.to_owned(),
                        opaque: None,
                    });
                }
            }
        }
        Says::Refusal => events.push(Event::Refusal { choice, text: REFUSAL.to_owned() }),
    }
    events.extend(text);
    events
}

/// What its answers take.
pub const USAGE: Usage =
    Usage { input: 9, cached_input: 3, output: 4, reasoning: 0, measured: true, ..Usage::NONE };

/// The begin of an answer of the local engine.
pub fn started() -> Play {
    let engine = EngineFacts { numerics: "1".to_owned(), kernels: "scalar".to_owned(), seed: 11 };
    Play::Event(Event::Started { model: "m".to_owned(), engine: Some(engine) })
}

/// The begin of an answer of a cloud's model.
pub fn started_as(model: &str) -> Play {
    Play::Event(Event::Started { model: model.to_owned(), engine: None })
}

/// A piece of text.
pub fn delta(text: &str) -> Play {
    Play::Event(Event::Delta { choice: 0, text: text.to_owned(), logprobs: Vec::new() })
}

/// The end of the only choice.
pub fn finished() -> Play {
    Play::Event(Event::Finished { choice: 0, reason: FinishReason::Stop })
}

/// The end of an answer of the local engine.
pub fn done() -> Play {
    let work = Work {
        busy: Duration::from_secs(36),
        energy_joules: Some(7.5),
        drafted: 5,
        accepted: 2,
        accepted_of_head: 1,
    };
    Play::Event(Event::Done { usage: USAGE, work: Some(work) })
}

/// Waits so many milliseconds.
pub fn wait(milliseconds: u64) -> Play {
    Play::Wait(Duration::from_millis(milliseconds))
}

/// Breaks off with an error of this kind.
pub fn fail(kind: ErrorKind) -> Play {
    Play::Fail(Error::new(kind, "as the script says"))
}

/// An error of this kind in place of an answer.
pub fn refuse(kind: ErrorKind) -> Script {
    Script::Refuse(Error::new(kind, "as the script says"))
}

/// "Hello, world" in three pieces.
pub fn hello() -> Script {
    Script::Play(vec![started(), delta("Hel"), delta("lo, "), delta("world"), finished(), done()])
}

/// The same from somewhere else.
pub fn cloud_hello() -> Script {
    let done = Play::Event(Event::Done { usage: USAGE, work: None });
    Script::Play(vec![started_as("gpt-5.4-nano"), delta("Hello from afar"), finished(), done])
}
