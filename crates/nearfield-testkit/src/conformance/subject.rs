//! Who is asked, and what it says of itself.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use nearfield_api::{Backend, Dialect, ErrorKind, Locality};

use super::Check;
use crate::cloud_server::{CloudServer, MODELS};
use crate::plays;
use crate::scripted::Scripted;

/// A backend, and what may be expected of it.
pub struct Subject {
    /// Its name in reports.
    pub name: String,
    /// The backend.
    pub backend: Arc<dyn Backend>,
    /// What can be seen of the side that really answers.
    pub far: Box<dyn FarSide>,
    /// Which models to ask for.
    pub models: Models,
    /// Whether text comes piece by piece.
    pub streams: bool,
    /// Where it says that it runs.
    pub locality: Locality,
    /// How many endpoints it tells of.
    pub endpoints: usize,
    /// Whether it knows how busy it is.
    pub knows_its_load: bool,
    /// Prompt and completion tokens of a plain answer, where they are known beforehand.
    pub tokens: Option<(u64, u64)>,
    /// The models that it lists.
    pub listed: Vec<String>,
    /// The kind of the error for a model that is not there.
    pub missing: ErrorKind,
    /// Whether errors of the far side name the backend.
    pub is_named_in_errors: bool,
    promises: BTreeMap<Check, Promise>,
}

impl fmt::Debug for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Subject").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a backend says to what a check asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// It does it.
    Keeps,
    /// It does not, and gives an error of this kind for this field, before anything is sent or produced.
    Refuses(ErrorKind, Option<&'static str>),
    /// It cannot come to pass, for this reason.
    Never(&'static str),
}

/// Names of models, by what they do.
#[derive(Clone, Debug)]
pub struct Models {
    /// Answers.
    pub plain: String,
    /// Thinks when asked to.
    pub thinking: String,
    /// Has a cache for prompts.
    pub caching: String,
    /// Takes prompts of a few thousand bytes at most.
    pub small: String,
    /// Does not end, as far as a test can tell.
    pub endless: String,
    /// Is not there.
    pub missing: String,
    /// Has no room.
    pub overloaded: String,
    /// Refuses.
    pub refusing: String,
    /// Is cut off in the middle.
    pub cut_off: String,
    /// Fails in the middle, and says so.
    pub breaking: String,
}

impl Models {
    /// Those of the scripted cloud and the scripted fake.
    pub fn of_fakes() -> Self {
        let named = |word: &str| format!("vendor.{word}-1:0");
        Self {
            plain: named("model"),
            thinking: named("model"),
            caching: named(plays::CACHES),
            small: named(plays::SMALL),
            endless: named(plays::ENDLESS),
            missing: named(plays::NO_SUCH_MODEL),
            overloaded: named(plays::OVERLOADED),
            refusing: named(plays::REFUSES),
            cut_off: named(plays::CUT_OFF),
            breaking: named(plays::BREAKS),
        }
    }

    /// Two models with weights: one that does all that models do, and one that does not end. The others are left to
    /// what [`Subject::never`] says.
    pub fn with_weights(plain: &str, endless: &str, missing: &str) -> Self {
        let all = || plain.to_owned();
        Self {
            plain: all(),
            thinking: all(),
            caching: all(),
            small: all(),
            endless: endless.to_owned(),
            missing: missing.to_owned(),
            overloaded: all(),
            refusing: all(),
            cut_off: all(),
            breaking: all(),
        }
    }
}

/// What can be seen of the side that really answers.
pub trait FarSide: Send + Sync {
    /// Whether it is answering something.
    fn is_busy(&self) -> bool;

    /// How many requests have come to it; `None` where that cannot be seen.
    fn requests(&self) -> Option<usize> {
        None
    }
}

impl FarSide for Arc<CloudServer> {
    fn is_busy(&self) -> bool {
        self.under_way() > 0
    }

    fn requests(&self) -> Option<usize> {
        Some(self.seen().iter().filter(|request| request.method == "POST").count())
    }
}

impl FarSide for Arc<Scripted> {
    fn is_busy(&self) -> bool {
        self.under_way() > 0
    }
}

/// The servers of a pool.
impl FarSide for Vec<Arc<CloudServer>> {
    fn is_busy(&self) -> bool {
        self.iter().any(FarSide::is_busy)
    }

    fn requests(&self) -> Option<usize> {
        self.iter().map(FarSide::requests).sum()
    }
}

impl Subject {
    /// A cloud that streams, does everything, and is answered for by the scripted cloud or fake. What is otherwise is
    /// set in its fields, and by [`Subject::refuses_all`] and [`Subject::never`].
    pub fn new(name: &str, backend: Arc<dyn Backend>, far: impl FarSide + 'static) -> Self {
        Self {
            name: name.to_owned(),
            backend,
            far: Box::new(far),
            models: Models::of_fakes(),
            streams: true,
            locality: Locality::Cloud,
            endpoints: 0,
            knows_its_load: false,
            tokens: Some(plays::TOKENS),
            listed: MODELS.map(str::to_owned).into(),
            missing: ErrorKind::NotFound,
            is_named_in_errors: true,
            promises: BTreeMap::new(),
        }
    }

    /// The same for a backend that speaks a dialect, which cannot say everything.
    pub fn of_dialect(
        name: &str,
        dialect: Dialect,
        backend: Arc<dyn Backend>,
        far: impl FarSide + 'static,
    ) -> Self {
        const PROMPT: (Check, &str) = (Check::Completion, "prompt");
        const CHOICES: (Check, &str) = (Check::Choices, "n");
        const LOGPROBS: (Check, &str) = (Check::Logprobs, "logprobs");
        const ONE_CALL: (Check, &str) = (Check::OneCall, "parallel_tool_calls");
        let mut subject = Self::new(name, backend, far);
        match dialect {
            Dialect::OpenAiChat => subject.never(Check::ThoughtReturns, "the dialect signs no thoughts"),
            Dialect::OpenAiResponses => {
                subject.refuses_all(&[PROMPT, CHOICES, LOGPROBS, (Check::StopText, "stop")])
            }
            Dialect::Anthropic => subject.refuses_all(&[PROMPT, CHOICES, LOGPROBS]),
            Dialect::Gemini => subject.refuses_all(&[PROMPT, ONE_CALL]),
            Dialect::Bedrock => {
                // Which models think, and what a model that is not there is called, is Bedrock's own.
                "us.anthropic.claude".clone_into(&mut subject.models.thinking);
                subject.missing = ErrorKind::InvalidRequest;
                subject
                    .refuses_all(&[PROMPT, CHOICES, LOGPROBS, ONE_CALL])
                    .lists_nothing(ErrorKind::Upstream)
                    .never(Check::ThoughtCounts, "thoughts are counted as the rest of the answer")
            }
        }
    }

    /// It does not do these, and says so with errors about these fields.
    #[must_use]
    pub fn refuses_all(mut self, checks: &[(Check, &'static str)]) -> Self {
        for (check, param) in checks {
            self.promises.insert(*check, Promise::Refuses(ErrorKind::InvalidRequest, Some(param)));
        }
        self
    }

    /// This cannot come to pass, for this reason.
    #[must_use]
    pub fn never(mut self, check: Check, why: &'static str) -> Self {
        self.promises.insert(check, Promise::Never(why));
        self
    }

    /// It cannot list its models: the error is of this kind.
    #[must_use]
    pub fn lists_nothing(mut self, kind: ErrorKind) -> Self {
        self.promises.insert(Check::List, Promise::Refuses(kind, None));
        self
    }

    pub(super) fn promise(&self, check: Check) -> Promise {
        self.promises.get(&check).copied().unwrap_or(Promise::Keeps)
    }

    /// The text of a plain answer.
    pub(super) fn hello() -> String {
        plays::HELLO.concat()
    }
}
