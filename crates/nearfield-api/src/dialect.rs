//! The wire dialects.

use serde_json::{Map, Value};

/// Fields of one object that its dialect has and the tree has no name for. They are kept as they came, so that they
/// survive on the way to a backend of the same dialect.
pub type Extra = Map<String, Value>;

/// A way to write requests and answers as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenAI's chat completions (and completions), and all that call themselves compatible.
    OpenAiChat,
    /// OpenAI's Responses.
    OpenAiResponses,
    /// Anthropic's Messages.
    Anthropic,
    /// Google's generateContent, of the Gemini API and of Vertex AI.
    Gemini,
    /// Converse of AWS Bedrock.
    Bedrock,
}

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::OpenAiChat, Self::OpenAiResponses, Self::Anthropic, Self::Gemini, Self::Bedrock];

    /// The name in messages, tags and configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAiChat => "openai-chat",
            Self::OpenAiResponses => "openai-responses",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::Bedrock => "bedrock",
        }
    }

    /// The dialect of a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dialect| dialect.as_str() == name)
    }
}
