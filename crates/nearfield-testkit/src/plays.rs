//! What the fakes answer, whichever dialect they speak, and also without any. It follows from the request alone: the
//! model's name, the settings and the last message.

use nearfield_api::{Content, Error, ErrorKind, Message, OutputFormat, Prompt, Request, Tool, Usage};

/// The text of a plain answer, in its two pieces. Each piece of a text is a token.
pub const HELLO: [&str; 2] = ["Hello", ", world"];
/// The text after the results of tools.
pub const SUNNY: [&str; 2] = ["It is", " sunny"];
/// The text to a picture.
pub const CAT: [&str; 2] = ["A", " cat"];
/// The text where a form is asked for.
pub const CITY: [&str; 2] = ["{\"city\":", "\"Paris\"}"];
/// What is thought.
pub const THOUGHT: &str = "Let me think.";
/// The text after a thought.
pub const AFTER_THOUGHT: &str = "Hello";
/// What must come back with a thought.
pub const SIGNATURE: &str = "c2lnbmF0dXJl";
/// The arguments of the two calls.
pub const ARGUMENTS: [&str; 2] = ["{\"city\":\"Paris\"}", "{\"city\":\"Rome\"}"];
/// The text of a refusal.
pub const REFUSAL: &str = "No.";
/// Prompt and completion tokens of a plain answer.
pub const TOKENS: (u64, u64) = (7, 2);
/// Those of the prompt that a cache spares a model of [`CACHES`].
pub const CACHED: u64 = 3;
/// Tokens of the thought.
pub const THINKING: u64 = 5;
/// Prompts of more bytes are too long for a model of [`SMALL`].
pub const SMALL_CONTEXT: usize = 10_000;

/// A model whose name holds this is not there.
pub const NO_SUCH_MODEL: &str = "no-such-model";
/// One that has no room.
pub const OVERLOADED: &str = "overloaded";
/// One that refuses.
pub const REFUSES: &str = "refuses";
/// One that never ends.
pub const ENDLESS: &str = "endless";
/// One whose answers are cut off in the middle.
pub const CUT_OFF: &str = "cut-off";
/// One that fails in the middle of its streams, and has no room where it does not stream.
pub const BREAKS: &str = "breaks";
/// One that takes only short prompts.
pub const SMALL: &str = "small-context";
/// One with a cache for prompts.
pub const CACHES: &str = "caches";

/// All names of models that mean something.
pub const WORDS: [&str; 8] = [NO_SUCH_MODEL, OVERLOADED, REFUSES, ENDLESS, CUT_OFF, BREAKS, SMALL, CACHES];

/// One answer, or several that are the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Play {
    /// What is said.
    pub says: Says,
    /// Why it ends.
    pub reason: Reason,
    /// How far it comes.
    pub course: Course,
    /// How many answers.
    pub choices: u32,
    /// Whether tokens come with their log probabilities.
    pub logprobs: bool,
    /// Tokens of all answers.
    pub counts: Counts,
}

/// What a fake says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Says {
    /// Text in two pieces.
    Text(&'static str, &'static str),
    /// [`THOUGHT`], which must come back, then [`AFTER_THOUGHT`].
    Reasoning,
    /// So many calls of the tool of this name, at most two.
    Calls(String, usize),
    /// A refusal.
    Refusal,
}

/// Why an answer of a fake ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// All is said.
    End,
    /// This text of the request's was met.
    StopText(String),
    /// The limit of tokens was met.
    Limit,
    /// Tools are called.
    Calls,
    /// It refuses.
    Refusal,
}

/// How far an answer of a fake comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// To its end.
    Whole,
    /// Its first piece comes, then the connection closes.
    CutOff,
    /// Its first piece comes, then an error.
    Fails,
    /// Its first piece comes, then nothing more.
    Endless,
}

/// Tokens in disjoint buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Prompt tokens that were read.
    pub input: u64,
    /// Prompt tokens that a cache spared.
    pub cached: u64,
    /// Tokens of the answers.
    pub output: u64,
    /// Tokens of thoughts.
    pub reasoning: u64,
}

impl Counts {
    /// All tokens of the prompt.
    pub const fn prompt(self) -> u64 {
        self.input + self.cached
    }

    /// All generated tokens.
    pub const fn completion(self) -> u64 {
        self.output + self.reasoning
    }

    /// All tokens.
    pub const fn total(self) -> u64 {
        self.prompt() + self.completion()
    }

    /// The same as backends tell it.
    pub const fn usage(self) -> Usage {
        Usage {
            input: self.input,
            cached_input: self.cached,
            output: self.output,
            reasoning: self.reasoning,
            measured: true,
            ..Usage::NONE
        }
    }
}

/// Why a fake does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum No {
    /// There is no such model.
    NoSuchModel,
    /// It has no room.
    Overloaded,
    /// The prompt does not fit.
    TooLong,
    /// The request makes no sense, for this reason.
    Invalid(String),
}

impl No {
    /// The error that says so.
    pub fn error(&self) -> Error {
        match self {
            Self::NoSuchModel => Error::new(ErrorKind::NotFound, "There is no such model.")
                .with_param("model")
                .with_code("model_not_found"),
            Self::Overloaded => {
                Error::new(ErrorKind::Overloaded, "The backend is overloaded; ask again later.")
            }
            Self::TooLong => Error::new(ErrorKind::ContextLength, "The prompt is too long for the model.")
                .with_code("context_length_exceeded"),
            Self::Invalid(why) => Error::new(ErrorKind::InvalidRequest, why.clone()),
        }
    }
}

impl Play {
    /// What is answered to a request.
    ///
    /// # Errors
    /// Why nothing is.
    pub fn of(request: &Request) -> Result<Self, No> {
        let named = |word: &str| request.model.contains(word);
        if named(NO_SUCH_MODEL) {
            return Err(No::NoSuchModel);
        }
        if named(OVERLOADED) || named(BREAKS) && !request.stream {
            return Err(No::Overloaded);
        }
        if named(SMALL) && request.prompt.bytes() > SMALL_CONTEXT {
            return Err(No::TooLong);
        }
        let says = says(request)?;
        let (says, reason) = end(request, says);
        let course = if named(CUT_OFF) {
            Course::CutOff
        } else if named(BREAKS) {
            Course::Fails
        } else if named(ENDLESS) {
            Course::Endless
        } else {
            Course::Whole
        };
        let choices = request.choices.max(1);
        let counts = counts(&says, choices, named(CACHES));
        Ok(Self { says, reason, course, choices, logprobs: request.logprobs.is_some(), counts })
    }

    /// The plain answer.
    pub const fn hello() -> Self {
        let counts = Counts { input: TOKENS.0, cached: 0, output: TOKENS.1, reasoning: 0 };
        let [one, two] = HELLO;
        let (says, reason, course) = (Says::Text(one, two), Reason::End, Course::Whole);
        Self { says, reason, course, choices: 1, logprobs: false, counts }
    }

    /// The pieces of its text; none where it says something else.
    pub fn pieces(&self) -> impl Iterator<Item = &'static str> {
        let pieces = match self.says {
            Says::Text(one, two) => [one, two],
            Says::Reasoning => [AFTER_THOUGHT, ""],
            Says::Calls(..) | Says::Refusal => ["", ""],
        };
        pieces.into_iter().filter(|piece| !piece.is_empty())
    }

    /// Its whole text.
    pub fn text(&self) -> String {
        self.pieces().collect()
    }
}

fn says(request: &Request) -> Result<Says, No> {
    let text = |[one, two]: [&'static str; 2]| Ok(Says::Text(one, two));
    let messages = match &request.prompt {
        Prompt::Chat(messages) => messages,
        Prompt::Text { text, .. } if text.is_empty() => {
            return Err(No::Invalid("The prompt is empty.".to_owned()));
        }
        _ => return text(HELLO),
    };
    let Some(last) = messages.last() else {
        return Err(No::Invalid("There must be at least one message.".to_owned()));
    };
    if messages.iter().flat_map(|message| &message.content).any(|part| is_forged(&part.content)) {
        return Err(No::Invalid("A signature is not one of ours.".to_owned()));
    }
    if request.model.contains(REFUSES) {
        return Ok(Says::Refusal);
    }
    if holds(last, |content| matches!(content, Content::ToolResult(_))) {
        return text(SUNNY);
    }
    let mut names = request.tools.iter().filter_map(|tool| match tool {
        Tool::Function(function) => Some(function.name.clone()),
        _ => None,
    });
    if let Some(name) = names.next() {
        let count = if request.parallel_tools == Some(false) { 1 } else { ARGUMENTS.len() };
        return Ok(Says::Calls(name, count));
    }
    if holds(last, |content| matches!(content, Content::Image(_))) {
        return text(CAT);
    }
    if matches!(request.format, Some(OutputFormat::JsonSchema(_))) {
        return text(CITY);
    }
    if !request.reasoning.is_unset() || request.extra.contains_key("additionalModelRequestFields") {
        return Ok(Says::Reasoning);
    }
    text(HELLO)
}

fn holds(message: &Message, wanted: fn(&Content) -> bool) -> bool {
    message.content.iter().any(|part| wanted(&part.content))
}

fn is_forged(content: &Content) -> bool {
    let opaque = match content {
        Content::Reasoning(reasoning) => reasoning.opaque.as_ref(),
        Content::ToolCall(call) => call.opaque.as_ref(),
        _ => None,
    };
    opaque.is_some_and(|opaque| opaque.value != SIGNATURE)
}

/// Ends a text where the request says so.
fn end(request: &Request, says: Says) -> (Says, Reason) {
    let (one, two) = match says {
        Says::Text(one, two) => (one, two),
        Says::Calls(..) => return (says, Reason::Calls),
        Says::Refusal => return (says, Reason::Refusal),
        Says::Reasoning => return (says, Reason::End),
    };
    for stop in request.stop.iter().filter(|stop| !stop.is_empty()) {
        let cut = |text: &'static str| text.split_once(stop.as_str()).map(|(before, _)| before);
        match (cut(one), cut(two)) {
            (Some(one), _) => return (Says::Text(one, ""), Reason::StopText(stop.clone())),
            (None, Some(two)) => return (Says::Text(one, two), Reason::StopText(stop.clone())),
            (None, None) => {}
        }
    }
    if request.max_tokens == Some(1) {
        return (Says::Text(one, ""), Reason::Limit);
    }
    (Says::Text(one, two), Reason::End)
}

fn counts(says: &Says, choices: u32, caches: bool) -> Counts {
    let cached = if caches { CACHED } else { 0 };
    let (output, reasoning) = match says {
        Says::Text(_, "") => (1, 0),
        Says::Reasoning => (TOKENS.1, THINKING),
        _ => (TOKENS.1, 0),
    };
    let all = |count: u64| count * u64::from(choices);
    Counts { input: TOKENS.0 - cached, cached, output: all(output), reasoning: all(reasoning) }
}

#[cfg(test)]
mod tests {
    use nearfield_api::Role;

    use super::*;

    fn request() -> Request {
        Request::new("m", Prompt::Chat(vec![Message::new(Role::User, "hello")]))
    }

    #[test]
    fn texts_end_at_stop_texts_and_limits() {
        let play = |change: fn(&mut Request)| {
            let mut request = request();
            change(&mut request);
            let play = Play::of(&request).unwrap();
            (play.text(), play.reason, play.counts.completion())
        };
        assert_eq!(play(|_| {}), ("Hello, world".to_owned(), Reason::End, 2));
        assert_eq!(play(|request| request.max_tokens = Some(1)), ("Hello".to_owned(), Reason::Limit, 1));
        let stopped = play(|request| request.stop = vec!["x".to_owned(), "wor".to_owned()]);
        assert_eq!(stopped, ("Hello, ".to_owned(), Reason::StopText("wor".to_owned()), 2));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let no = |change: fn(&mut Request)| {
            let mut request = request();
            change(&mut request);
            Play::of(&request).unwrap_err()
        };
        assert!(matches!(no(|request| request.prompt = Prompt::Chat(Vec::new())), No::Invalid(_)));
        assert_eq!(no(|request| request.model = format!("x.{NO_SUCH_MODEL}")), No::NoSuchModel);
        let long = no(|request| {
            SMALL.clone_into(&mut request.model);
            request.prompt = Prompt::Chat(vec![Message::new(Role::User, "a".repeat(SMALL_CONTEXT + 1))]);
        });
        assert_eq!(long, No::TooLong);
    }
}
