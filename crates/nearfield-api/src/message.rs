//! What a conversation is made of.

use std::borrow::Cow;

use serde_json::Value;

use crate::{Dialect, Extra};

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said, in order.
    pub content: Vec<Part>,
    /// The speaker's name, where the dialect has one.
    pub name: Option<String>,
    /// Fields that only the request's own dialect knows.
    pub extra: Extra,
}

/// Who speaks in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions.
    System,
    /// Instructions, in the newer spelling.
    Developer,
    /// The person or program that asks.
    User,
    /// The model.
    Assistant,
    /// A tool that the model called.
    Tool,
}

impl Role {
    /// The role's name in OpenAI's dialect.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// One piece of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// What it is.
    pub content: Content,
    /// Fields that only the request's own dialect knows, such as a mark for a cache.
    pub extra: Extra,
}

/// What a [`Part`] holds.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Content {
    /// Text.
    Text(String),
    /// What the model said instead of an answer.
    Refusal(String),
    /// A picture.
    Image(Media),
    /// A document: PDF, a text file and so on.
    Document(Media),
    /// A recording of sound.
    Audio(Media),
    /// The model calls a tool.
    ToolCall(ToolCall),
    /// What a tool gave back.
    ToolResult(ToolResult),
    /// What the model thought before its answer.
    Reasoning(Reasoning),
    /// Something of the request's own dialect that has no counterpart elsewhere. Only that dialect can write it.
    Other(Value),
}

/// A file inside a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Media {
    /// Where its bytes are.
    pub source: MediaSource,
    /// Its media type, such as `image/png`, where it is said.
    pub media_type: Option<String>,
    /// Its name, where it has one.
    pub name: Option<String>,
}

/// Where a file's bytes are.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum MediaSource {
    /// Here, in base64.
    Inline(String),
    /// Here, as plain text.
    Text(String),
    /// At an address that the provider fetches. Nearfield never does.
    Url(String),
    /// Uploaded to the provider before, under this id.
    FileId(String),
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// Ties the result to the call. Empty when the dialect has none.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// The arguments, as JSON text. A model may have written something that is no JSON.
    pub arguments: String,
    /// A value that the provider wants back unread.
    pub opaque: Option<Opaque>,
}

/// The result of a tool.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolResult {
    /// The id of the call.
    pub call_id: String,
    /// The tool's name, where the dialect repeats it.
    pub name: Option<String>,
    /// What it gave back.
    pub content: Vec<Part>,
    /// Whether it failed, where that is said.
    pub is_error: Option<bool>,
}

/// A piece of reasoning.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reasoning {
    /// The text that is shown; may be empty.
    pub text: String,
    /// What the provider wants back unread: a signature, or the reasoning itself in encrypted form.
    pub opaque: Option<Opaque>,
}

/// A value that only the provider that issued it understands. It must come back as it was, and means nothing to any
/// other.
#[derive(Clone, Debug, PartialEq)]
pub struct Opaque {
    /// The dialect that it was issued in.
    pub dialect: Dialect,
    /// Which kind of value, in the dialect's own word: `signature`, `redacted_thinking`, `encrypted_content`.
    pub kind: String,
    /// The value.
    pub value: String,
    /// The id of the item that holds it, where the dialect has one.
    pub id: Option<String>,
}

impl From<Content> for Part {
    fn from(content: Content) -> Self {
        Self { content, extra: Extra::new() }
    }
}

impl Part {
    /// A piece of text.
    pub fn text(text: impl Into<String>) -> Self {
        Content::Text(text.into()).into()
    }

    /// The text, when it is nothing else.
    pub fn as_text(&self) -> Option<&str> {
        match &self.content {
            Content::Text(text) => Some(text),
            _ => None,
        }
    }

    /// About how many bytes of content it holds.
    pub fn bytes(&self) -> usize {
        match &self.content {
            Content::Text(text) | Content::Refusal(text) => text.len(),
            Content::Image(media) | Content::Document(media) | Content::Audio(media) => {
                let (MediaSource::Inline(text)
                | MediaSource::Text(text)
                | MediaSource::Url(text)
                | MediaSource::FileId(text)) = &media.source;
                text.len() + media.name.as_ref().map_or(0, String::len)
            }
            Content::ToolCall(call) => call.name.len() + call.arguments.len(),
            Content::ToolResult(result) => result.content.iter().map(Self::bytes).sum(),
            Content::Reasoning(reasoning) => {
                reasoning.text.len() + reasoning.opaque.as_ref().map_or(0, |opaque| opaque.value.len())
            }
            Content::Other(value) => value.to_string().len(),
        }
    }
}

impl Message {
    /// A message of plain text.
    pub fn new(role: Role, text: impl Into<String>) -> Self {
        Self::of(role, vec![Part::text(text)])
    }

    /// A message of some parts.
    pub fn of(role: Role, content: Vec<Part>) -> Self {
        Self { role, content, name: None, extra: Extra::new() }
    }

    /// The message's text: that of its text parts, joined by line feeds. What is not text is left out.
    pub fn text(&self) -> Cow<'_, str> {
        let mut texts = self.content.iter().filter_map(Part::as_text);
        match (texts.next(), texts.next()) {
            (None, _) => Cow::Borrowed(""),
            (Some(one), None) => Cow::Borrowed(one),
            (Some(one), Some(two)) => {
                Cow::Owned([one, two].into_iter().chain(texts).collect::<Vec<_>>().join("\n"))
            }
        }
    }

    /// About how many bytes of content it holds.
    pub fn bytes(&self) -> usize {
        self.content.iter().map(Part::bytes).sum()
    }
}
