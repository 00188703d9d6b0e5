//! What a model writes, taken apart as it comes: its thoughts, its answer, and its calls of tools.
//!
//! Models mark these parts with texts of their family. What is marked wrongly stays text: nothing that a model writes is
//! an error, and nothing of it is lost.

mod functions;
mod gemma4;
mod json_calls;
mod parser;
mod schema;

use serde_json::{Map, Value};

pub use parser::{OutputEvent, OutputParser};
pub use schema::ToolTypes;

/// How a family marks thoughts and calls of tools.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutputFormat {
    /// How thoughts are marked.
    pub thoughts: Option<ThoughtMarks>,
    /// How calls are written.
    pub calls: Option<CallSyntax>,
}

/// The texts around a thought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThoughtMarks {
    /// `<think>` and `</think>`: Qwen and many others.
    Think,
    /// `<|channel>thought` and `<channel|>`: Gemma 4.
    Channel,
}

/// How a family writes calls of tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallSyntax {
    /// A JSON object with `name` and `arguments` between `<tool_call>` and `</tool_call>`: Qwen 2.5, Qwen 3, Hermes.
    Json,
    /// `<function=NAME>` and `<parameter=KEY>` between the same: Qwen 3.5 and 3.6.
    Functions,
    /// `call:NAME{key:value}` between `<|tool_call>` and `<tool_call|>`: Gemma 4.
    Gemma4,
}

impl ThoughtMarks {
    /// The text that begins a thought and the one that ends it.
    pub const fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::Think => ("<think>", "</think>"),
            Self::Channel => ("<|channel>thought", "<channel|>"),
        }
    }
}

impl CallSyntax {
    /// The text that begins a call and the one that ends it.
    pub const fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::Json | Self::Functions => ("<tool_call>", "</tool_call>"),
            Self::Gemma4 => ("<|tool_call>", "<tool_call|>"),
        }
    }

    fn parse(self, body: &str, tools: &ToolTypes) -> Result<Call, Broken> {
        match self {
            Self::Json => json_calls::parse(body, tools),
            Self::Functions => functions::parse(body, tools),
            Self::Gemma4 => gemma4::parse(body, tools),
        }
    }
}

/// The tokens that mark parts of an output; in some vocabularies they are control tokens.
const MARKS: [&str; 8] = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<|channel>",
    "<channel|>",
    "<|tool_call>",
    "<tool_call|>",
];
/// Gemma 4's quotation mark.
const QUOTE: &str = "<|\"|>";

impl OutputFormat {
    /// Nothing is marked: all output is text.
    pub const PLAIN: Self = Self { thoughts: None, calls: None };

    /// The format of the models that a chat template is for, recognised by what it writes in conversations.
    pub fn of_template(source: &str) -> Self {
        let calls = if source.contains("<|tool_call>") {
            Some(CallSyntax::Gemma4)
        } else if source.contains("<function=") {
            Some(CallSyntax::Functions)
        } else if source.contains("<tool_call>") {
            Some(CallSyntax::Json)
        } else {
            None
        };
        let thoughts = if source.contains("<|channel>") {
            Some(ThoughtMarks::Channel)
        } else if source.contains("</think>") {
            Some(ThoughtMarks::Think)
        } else {
            None
        };
        Self { thoughts, calls }
    }

    /// The texts of tokens that must be seen in an output although a vocabulary may call them control tokens.
    pub fn marks(self) -> impl Iterator<Item = &'static str> {
        let used = self != Self::PLAIN;
        MARKS.into_iter().chain([QUOTE]).filter(move |_| used)
    }

    /// Whether an output begins inside a thought, because the prompt has opened one.
    pub fn begins_in_thought(self, prompt: &str) -> bool {
        self.thoughts.is_some_and(|marks| prompt.trim_end().ends_with(marks.texts().0))
    }
}

/// A call that has been read.
#[derive(Debug, Clone, PartialEq)]
struct Call {
    name: String,
    arguments: Map<String, Value>,
}

/// Why a text is no call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    /// It may become one with more text: the end was part of a value.
    Unfinished,
    /// It cannot.
    Malformed,
}
