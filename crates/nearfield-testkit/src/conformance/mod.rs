//! What every backend promises, asked of each in the same words.
//!
//! A [`Subject`] is a backend with what it says of itself. [`run`] asks it for everything in [`Check::ALL`]. What a
//! backend does not do stands in its subject, and then the error that it documents for that must come; nothing is left
//! out. All subjects give the same answers, those of [`crate::plays`]: the scripted cloud and the scripted fake since
//! they follow these, the local engine by a model that was made for it ([`crate::puppet_model`]).

mod answer;
mod ends;
mod errors;
mod said;
mod subject;
mod tools;

use std::fmt;
use std::time::Duration;

use nearfield_api::{ErrorKind, Request};
use tokio::time::timeout;

pub use subject::{FarSide, Models, Promise, Subject};

/// No check takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What went wrong, in words.
type Held = Result<(), String>;

/// One thing that a backend promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// A chat gets its text, in pieces where the backend streams, with the reason of its end and its counts.
    Text,
    /// A text is continued.
    Completion,
    /// Two calls of a tool at once, each with its id and all of its arguments.
    Calls,
    /// Only one where only one is wanted.
    OneCall,
    /// A call where one is demanded.
    ForcedCall,
    /// The results of tools go back to their calls.
    Results,
    /// An answer in the form of a schema.
    Form,
    /// A thought before the answer.
    Thought,
    /// What of the answer was thought is counted apart.
    ThoughtCounts,
    /// A thought that was signed goes back with its signature.
    ThoughtReturns,
    /// A picture is seen.
    Picture,
    /// The limit of tokens ends an answer.
    Limit,
    /// A text of the caller's ends an answer, and is not part of it.
    StopText,
    /// Several answers to one request.
    Choices,
    /// Each token's log probability.
    Logprobs,
    /// Tokens that a cache spared are counted apart.
    CachedCounts,
    /// A refusal can be told from an answer.
    Refusal,
    /// A model that is not there.
    NoSuchModel,
    /// No room.
    Overload,
    /// An answer that is cut off is an error, with what came before it.
    CutOff,
    /// So is one whose backend fails in the middle, with the backend's reason.
    Failure,
    /// A prompt that does not fit.
    TooLong,
    /// A conversation without messages.
    Empty,
    /// A field that nobody knows.
    UnknownField,
    /// An answer that is dropped ends on the far side too, and the next one comes.
    Cancel,
    /// The models that can be asked for.
    List,
    /// Where it runs, how its endpoints stand, and how busy it is.
    Health,
}

impl Check {
    /// All of them, in the order in which they are made.
    pub const ALL: [Self; 27] = [
        Self::Text,
        Self::Completion,
        Self::Calls,
        Self::OneCall,
        Self::ForcedCall,
        Self::Results,
        Self::Form,
        Self::Thought,
        Self::ThoughtCounts,
        Self::ThoughtReturns,
        Self::Picture,
        Self::Limit,
        Self::StopText,
        Self::Choices,
        Self::Logprobs,
        Self::CachedCounts,
        Self::Refusal,
        Self::NoSuchModel,
        Self::Overload,
        Self::CutOff,
        Self::Failure,
        Self::TooLong,
        Self::Empty,
        Self::UnknownField,
        Self::Cancel,
        Self::List,
        Self::Health,
    ];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Completion => "completion",
            Self::Calls => "calls",
            Self::OneCall => "one call",
            Self::ForcedCall => "forced call",
            Self::Results => "results",
            Self::Form => "form",
            Self::Thought => "thought",
            Self::ThoughtCounts => "thought's counts",
            Self::ThoughtReturns => "thought's return",
            Self::Picture => "picture",
            Self::Limit => "limit",
            Self::StopText => "stop text",
            Self::Choices => "choices",
            Self::Logprobs => "log probabilities",
            Self::CachedCounts => "cached counts",
            Self::Refusal => "refusal",
            Self::NoSuchModel => "no such model",
            Self::Overload => "overload",
            Self::CutOff => "cut-off",
            Self::Failure => "failure",
            Self::TooLong => "too long",
            Self::Empty => "empty",
            Self::UnknownField => "unknown field",
            Self::Cancel => "cancel",
            Self::List => "list",
            Self::Health => "health",
        }
    }

    /// The request that the check begins with.
    fn request(self, subject: &Subject) -> Request {
        match self {
            Self::Completion => said::completion(subject),
            Self::Calls => tools::weather(subject),
            Self::OneCall => tools::one(subject),
            Self::ForcedCall => tools::forced(subject),
            Self::Results => tools::with_results(subject),
            Self::Form => said::form(subject),
            Self::Thought | Self::ThoughtCounts | Self::ThoughtReturns => said::think(subject),
            Self::Picture => said::picture(subject),
            Self::Limit => ends::limited(subject),
            Self::StopText => ends::stopped(subject),
            Self::Choices => ends::several(subject),
            Self::Logprobs => ends::with_logprobs(subject),
            Self::CachedCounts => ends::cached(subject),
            Self::Refusal => said::hello_of(subject, &subject.models.refusing),
            Self::NoSuchModel => said::hello_of(subject, &subject.models.missing),
            Self::Overload => said::hello_of(subject, &subject.models.overloaded),
            Self::CutOff => said::hello_of(subject, &subject.models.cut_off),
            Self::Failure => said::hello_of(subject, &subject.models.breaking),
            Self::Cancel => errors::endless(subject),
            Self::TooLong => errors::too_long(subject),
            Self::Empty => errors::empty(subject),
            Self::UnknownField => errors::unknown_field(subject),
            Self::Text | Self::List | Self::Health => said::hello(subject),
        }
    }

    async fn holds(self, subject: &Subject) -> Held {
        match self {
            Self::Text => said::text(subject).await,
            Self::Completion => said::says(subject, said::completion(subject), &Subject::hello()).await,
            Self::Calls => tools::calls(subject, tools::weather(subject), 2).await,
            Self::OneCall => tools::calls(subject, tools::one(subject), 1).await,
            Self::ForcedCall => tools::calls(subject, tools::forced(subject), 2).await,
            Self::Results => tools::results(subject).await,
            Self::Form => said::formed(subject).await,
            Self::Thought => said::thought(subject).await,
            Self::ThoughtCounts => said::thought_counts(subject).await,
            Self::ThoughtReturns => said::thought_returns(subject).await,
            Self::Picture => said::seen(subject).await,
            Self::Limit => ends::limit(subject).await,
            Self::StopText => ends::stop_text(subject).await,
            Self::Choices => ends::choices(subject).await,
            Self::Logprobs => ends::logprobs(subject).await,
            Self::CachedCounts => ends::cached_counts(subject).await,
            Self::Refusal => said::refusal(subject).await,
            Self::NoSuchModel => errors::of_far_side(subject, self, subject.missing).await,
            Self::Overload => errors::of_far_side(subject, self, ErrorKind::Overloaded).await,
            Self::CutOff => errors::in_the_middle(subject, self, &[ErrorKind::Upstream]).await,
            Self::Failure => {
                let kinds = [ErrorKind::Overloaded, ErrorKind::RateLimited];
                errors::in_the_middle(subject, self, &kinds).await
            }
            Self::TooLong => errors::context_length(subject).await,
            Self::Empty => errors::no_messages(subject).await,
            Self::UnknownField => {
                errors::refused(subject, self, ErrorKind::InvalidRequest, Some("frobnicate")).await
            }
            Self::Cancel => errors::cancel(subject).await,
            Self::List => errors::list(subject).await,
            Self::Health => errors::health(subject).await,
        }
    }
}

/// What came of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The promise holds.
    Kept,
    /// The backend does not do it and says so, with the error that its subject documents.
    Refused(ErrorKind, Option<&'static str>),
    /// It cannot come to pass with this backend, for this reason.
    Never(&'static str),
    /// It does not hold.
    Failed(String),
}

/// What came of all checks of one subject.
#[derive(Clone, Debug)]
pub struct Report {
    name: String,
    outcomes: Vec<(Check, Outcome)>,
}

impl Report {
    /// Whether nothing failed.
    pub fn passed(&self) -> bool {
        !self.outcomes.iter().any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)))
    }

    /// Whether the subject does what a check asks for.
    pub fn kept(&self, check: Check) -> bool {
        self.outcomes.contains(&(check, Outcome::Kept))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |told: fn(&Check, &Outcome) -> Option<String>| {
            let told: Vec<String> =
                self.outcomes.iter().filter_map(|(check, outcome)| told(check, outcome)).collect();
            if told.is_empty() { "none".to_owned() } else { told.join(", ") }
        };
        let kept = of(|check, outcome| (*outcome == Outcome::Kept).then(|| check.name().to_owned()));
        let refused = of(|check, outcome| match outcome {
            Outcome::Refused(kind, param) => {
                Some(format!("{} ({} {})", check.name(), kind.as_str(), param.unwrap_or_default()))
            }
            _ => None,
        });
        let never = of(|check, outcome| match outcome {
            Outcome::Never(why) => Some(format!("{} ({why})", check.name())),
            _ => None,
        });
        writeln!(
            formatter,
            "{}\n  kept: {kept}\n  refused as documented: {refused}\n  never: {never}",
            self.name
        )?;
        for (check, outcome) in &self.outcomes {
            if let Outcome::Failed(why) = outcome {
                writeln!(formatter, "  FAILED {}: {why}", check.name())?;
            }
        }
        Ok(())
    }
}

/// Makes all checks of a subject.
pub async fn run(subject: &Subject) -> Report {
    let mut outcomes = Vec::with_capacity(Check::ALL.len());
    for check in Check::ALL {
        let outcome = match subject.promise(check) {
            Promise::Never(why) => Outcome::Never(why),
            Promise::Refuses(kind, param) => {
                let held = Box::pin(errors::refused(subject, check, kind, param));
                outcome(timeout(PATIENCE, held).await, Outcome::Refused(kind, param))
            }
            Promise::Keeps => outcome(timeout(PATIENCE, Box::pin(check.holds(subject))).await, Outcome::Kept),
        };
        outcomes.push((check, outcome));
    }
    Report { name: subject.name.clone(), outcomes }
}

fn outcome(held: Result<Held, tokio::time::error::Elapsed>, good: Outcome) -> Outcome {
    match held {
        Ok(Ok(())) => good,
        Ok(Err(why)) => Outcome::Failed(why),
        Err(_) => Outcome::Failed(format!("it took longer than {PATIENCE:?}")),
    }
}

/// That two things are the same.
fn same<T: PartialEq + fmt::Debug>(what: &str, found: T, expected: T) -> Held {
    ensure(found == expected, || format!("{what} is {found:?} and not {expected:?}"))
}

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Held {
    if holds { Ok(()) } else { Err(why()) }
}
