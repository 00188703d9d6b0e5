//! A backend that does what a test tells it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream;
use nearfield_api::{
    Backend, BackendLoad, EngineFacts, Error, ErrorKind, Event, EventStream, FinishReason, Locality,
    ModelInfo, Request, Usage, Work,
};

/// One thing that a script does.
#[derive(Clone)]
pub(crate) enum Play {
    Event(Event),
    Fail(Error),
    Wait(Duration),
    /// Nothing more comes, ever.
    Hang,
}

/// What the backend does with one request.
#[derive(Clone)]
pub(crate) enum Script {
    /// `generate` itself fails.
    Refuse(Error),
    /// `generate` never returns.
    Silence,
    /// `generate` panics.
    Panic,
    Play(Vec<Play>),
}

/// Plays one script for each request, the last one again and again.
pub(crate) struct Scripted {
    name: String,
    locality: Locality,
    engine: bool,
    scripts: Mutex<VecDeque<Script>>,
    pub(crate) seen: Mutex<Vec<Request>>,
    /// Answers whose stream was dropped, at its end or before.
    pub(crate) dropped: Arc<AtomicUsize>,
    /// What it says of how busy it is.
    pub(crate) load: Mutex<Option<BackendLoad>>,
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
            dropped: Arc::default(),
            load: Mutex::default(),
        })
    }

    /// One that stands for the engine in this process.
    pub(crate) fn local(scripts: impl IntoIterator<Item = Script>) -> Arc<Self> {
        Self::new("local", Locality::Local, true, scripts)
    }

    /// One that stands for another server of this machine.
    pub(crate) fn beside(name: &str, scripts: impl IntoIterator<Item = Script>) -> Arc<Self> {
        Self::new(name, Locality::Local, false, scripts)
    }

    pub(crate) fn cloud(name: &str, scripts: impl IntoIterator<Item = Script>) -> Arc<Self> {
        Self::new(name, Locality::Cloud, false, scripts)
    }

    pub(crate) fn calls(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

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
        *self.load.lock().unwrap()
    }

    async fn generate(&self, request: Box<Request>) -> Result<EventStream, Error> {
        if self.locality == Locality::Local {
            request.require_text_only()?;
        }
        self.seen.lock().unwrap().push(*request);
        let script = {
            let mut scripts = self.scripts.lock().unwrap();
            if scripts.len() > 1 { scripts.pop_front() } else { scripts.front().cloned() }
        };
        let plays = match script.expect("a script") {
            Script::Refuse(error) => return Err(error),
            Script::Silence => std::future::pending().await,
            Script::Panic => panic!("as the script says"),
            Script::Play(plays) => VecDeque::from(plays),
        };
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

pub(crate) const USAGE: Usage =
    Usage { input: 9, cached_input: 3, output: 4, reasoning: 0, measured: true, ..Usage::NONE };

pub(crate) fn started() -> Play {
    let engine = EngineFacts { numerics: "1".to_owned(), kernels: "scalar".to_owned(), seed: 11 };
    Play::Event(Event::Started { model: "m".to_owned(), engine: Some(engine) })
}

pub(crate) fn started_as(model: &str) -> Play {
    Play::Event(Event::Started { model: model.to_owned(), engine: None })
}

pub(crate) fn delta(text: &str) -> Play {
    Play::Event(Event::Delta { choice: 0, text: text.to_owned(), logprobs: Vec::new() })
}

pub(crate) fn finished() -> Play {
    Play::Event(Event::Finished { choice: 0, reason: FinishReason::Stop })
}

pub(crate) fn done() -> Play {
    let work = Work {
        busy: Duration::from_secs(36),
        energy_joules: Some(7.5),
        drafted: 5,
        accepted: 2,
        accepted_of_head: 1,
    };
    Play::Event(Event::Done { usage: USAGE, work: Some(work) })
}

pub(crate) fn wait(milliseconds: u64) -> Play {
    Play::Wait(Duration::from_millis(milliseconds))
}

pub(crate) fn fail(kind: ErrorKind) -> Play {
    Play::Fail(Error::new(kind, "as the script says"))
}

pub(crate) fn refuse(kind: ErrorKind) -> Script {
    Script::Refuse(Error::new(kind, "as the script says"))
}

/// "Hello, world" in three pieces.
pub(crate) fn hello() -> Script {
    Script::Play(vec![started(), delta("Hel"), delta("lo, "), delta("world"), finished(), done()])
}

/// The same from somewhere else.
pub(crate) fn cloud_hello() -> Script {
    let done = Play::Event(Event::Done { usage: USAGE, work: None });
    Script::Play(vec![started_as("gpt-5.4-nano"), delta("Hello from afar"), finished(), done])
}
