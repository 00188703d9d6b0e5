//! Writes a whole answer as one body.

use serde::Serialize;
use serde_json::value::RawValue;

use super::Endpoint;
use super::answer_extras::AnswerExtras;
use super::logprobs::{ChatLogprobs, Offset, TextLogprobs};
use super::usage::WireUsage;
use crate::json::to_text;
use crate::{Error, ErrorKind, Event, FinishReason, Request, TokenLogprob, Usage};

/// What stands at the head of every reply and chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyHead {
    /// The reply's id, such as `chatcmpl-...`.
    pub id: String,
    /// When the request was accepted, in seconds since 1970.
    pub created: u64,
    /// The model asked for. The model that really answers, which [`Event::Started`] names, takes its place.
    pub model: String,
    /// The route, which decides the form.
    pub endpoint: Endpoint,
    /// How many choices the answer will have.
    pub choices: u32,
    /// Whether log probabilities were asked for.
    pub logprobs: bool,
}

impl ReplyHead {
    /// The head of the reply to a request.
    pub fn new(request: &Request, id: impl Into<String>, created: u64) -> Self {
        Self {
            id: id.into(),
            created,
            model: request.model.clone(),
            endpoint: Endpoint::of(&request.prompt),
            choices: request.choices,
            logprobs: request.logprobs.is_some(),
        }
    }
}

/// One choice while it grows.
#[derive(Clone, Debug, Default)]
struct Choice {
    text: String,
    extras: AnswerExtras,
    logprobs: Vec<TokenLogprob>,
    reason: Option<FinishReason>,
}

/// Gathers the events of an answer into one body.
#[derive(Debug)]
pub struct ReplyCollector {
    head: ReplyHead,
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

impl ReplyCollector {
    /// Starts an answer.
    pub fn new(head: ReplyHead) -> Self {
        let choices = vec![Choice::default(); head.choices as usize];
        Self { head, choices, usage: None }
    }

    /// Takes the next event.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when the events are not a well-formed answer.
    pub fn push(&mut self, event: Event) -> Result<(), Error> {
        if self.usage.is_some() {
            return Err(disorder("an event after the end"));
        }
        match event {
            Event::Started { model, .. } => self.head.model = model,
            Event::Delta { choice, text, logprobs } => {
                let choice = self.running(choice)?;
                choice.text.push_str(&text);
                choice.logprobs.extend(logprobs);
            }
            Event::Finished { choice, reason } => self.running(choice)?.reason = Some(reason),
            Event::Refusal { choice, .. }
            | Event::Reasoning { choice, .. }
            | Event::ToolCall { choice, .. }
            | Event::Other { choice, .. } => self.running(choice)?.extras.take(event)?,
            Event::Done { usage, .. } => {
                if self.choices.iter().any(|choice| choice.reason.is_none()) {
                    return Err(disorder("the end before each choice had ended"));
                }
                self.usage = Some(usage);
            }
        }
        Ok(())
    }

    fn running(&mut self, index: u32) -> Result<&mut Choice, Error> {
        self.choices
            .get_mut(index as usize)
            .filter(|choice| choice.reason.is_none())
            .ok_or_else(|| disorder("an event for a choice that has ended or was not asked for"))
    }

    /// The usage, once the answer is complete.
    pub const fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// The body. `nearfield` becomes a top-level field of that name.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when the answer is not complete: a part must not pass for the whole.
    pub fn finish(self, nearfield: Option<&RawValue>) -> Result<String, Error> {
        #[derive(Serialize)]
        struct Body<'a, C> {
            id: &'a str,
            object: &'static str,
            created: u64,
            model: &'a str,
            choices: Vec<C>,
            usage: WireUsage,
            #[serde(skip_serializing_if = "Option::is_none")]
            nearfield: Option<&'a RawValue>,
        }
        let usage = self.usage.ok_or_else(|| disorder("no end"))?.into();
        let head = &self.head;
        let (id, created, model) = (head.id.as_str(), head.created, head.model.as_str());
        match head.endpoint {
            Endpoint::Chat => to_text(&Body {
                id,
                object: "chat.completion",
                created,
                model,
                choices: self.chat_choices(),
                usage,
                nearfield,
            }),
            Endpoint::Completions => {
                let offsets: Vec<Vec<usize>> =
                    self.choices.iter().map(|choice| offsets(&choice.logprobs)).collect();
                to_text(&Body {
                    id,
                    object: "text_completion",
                    created,
                    model,
                    choices: self.text_choices(&offsets),
                    usage,
                    nearfield,
                })
            }
        }
    }

    fn chat_choices(&self) -> Vec<ChatChoice<'_>> {
        (0..)
            .zip(&self.choices)
            .map(|(index, choice)| ChatChoice {
                index,
                message: Message {
                    role: "assistant",
                    content: Some(choice.text.as_str())
                        .filter(|text| !text.is_empty() || choice.extras.is_empty()),
                    extras: &choice.extras,
                },
                logprobs: self.head.logprobs.then_some(ChatLogprobs(&choice.logprobs)),
                finish_reason: choice.reason.map(FinishReason::as_str),
            })
            .collect()
    }

    fn text_choices<'a>(&'a self, offsets: &'a [Vec<usize>]) -> Vec<TextChoice<'a>> {
        (0..)
            .zip(self.choices.iter().zip(offsets))
            .map(|(index, (choice, offsets))| TextChoice {
                text: &choice.text,
                index,
                logprobs: self.head.logprobs.then_some(TextLogprobs { tokens: &choice.logprobs, offsets }),
                finish_reason: choice.reason.map(FinishReason::as_str),
            })
            .collect()
    }
}

#[derive(Serialize)]
struct ChatChoice<'a> {
    index: u32,
    message: Message<'a>,
    logprobs: Option<ChatLogprobs<'a>>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Option<&'a str>,
    #[serde(flatten)]
    extras: &'a AnswerExtras,
}

#[derive(Serialize)]
pub(crate) struct TextChoice<'a> {
    pub(crate) text: &'a str,
    pub(crate) index: u32,
    pub(crate) logprobs: Option<TextLogprobs<'a>>,
    pub(crate) finish_reason: Option<&'static str>,
}

fn offsets(tokens: &[TokenLogprob]) -> Vec<usize> {
    let mut offset = Offset::default();
    tokens.iter().map(|token| offset.advance(token)).collect()
}

/// The error for events in an order that no backend may send.
pub(crate) fn disorder(what: &str) -> Error {
    Error::new(
        ErrorKind::Internal,
        format!("The backend's answer is malformed ({what}); it was not passed on."),
    )
}
