//! Writes an answer as a stream of chunks, in server-sent events.

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::answer_extras;
use super::logprobs::{ChatLogprobs, Offset, TextLogprobs};
use super::reply::{TextChoice, disorder};
use super::usage::WireUsage;
use super::{Endpoint, ReplyHead, StreamOptions, error_body};
use crate::json::to_text;
use crate::sse::write_event;
use crate::{Error, Event, FinishReason, TokenLogprob, Usage};

/// Turns the events of one answer into frames, ready to send.
///
/// Feed each event to [`StreamEncoder::push`], then end with [`StreamEncoder::finish`] after [`Event::Done`], or with
/// [`StreamEncoder::error`]. The chunk that ends the last choice is held back until then, because the last chunk of all
/// carries the `nearfield` field.
#[derive(Debug)]
pub struct StreamEncoder {
    head: ReplyHead,
    options: StreamOptions,
    choices: Vec<ChoiceState>,
    /// The end of the last choice, held back.
    held: Option<(u32, FinishReason)>,
    usage: Option<Usage>,
}

#[derive(Clone, Debug, Default)]
struct ChoiceState {
    finished: bool,
    /// Reasoning of which no value has come yet that must come back.
    reasoning: String,
    offset: Offset,
}

#[derive(Serialize)]
struct Chunk<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [C],
    #[serde(skip_serializing_if = "UsageField::is_absent")]
    usage: UsageField,
    #[serde(skip_serializing_if = "Option::is_none")]
    nearfield: Option<&'a RawValue>,
}

/// Null in all chunks but the last when usage was asked for, absent when it was not.
#[derive(Serialize)]
#[serde(untagged)]
enum UsageField {
    Absent,
    Null,
    Counts(WireUsage),
}

impl UsageField {
    const fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

#[derive(Serialize)]
struct ChatChoice<'a> {
    index: u32,
    delta: Delta<'a>,
    logprobs: Option<ChatLogprobs<'a>>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(flatten, skip_serializing_if = "Map::is_empty")]
    extras: Map<String, Value>,
}

impl StreamEncoder {
    /// Starts an answer.
    pub fn new(head: ReplyHead, options: StreamOptions) -> Self {
        let choices = vec![ChoiceState::default(); head.choices as usize];
        Self { head, options, choices, held: None, usage: None }
    }

    /// Appends the frames of an event to `out`; some events have none.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Internal`] when the events are not a well-formed answer; `out` is then as before.
    pub fn push(&mut self, event: &Event, out: &mut Vec<u8>) -> Result<(), Error> {
        if self.usage.is_some() {
            return Err(disorder("an event after the end"));
        }
        match event {
            Event::Started { model, .. } => self.started(model, out),
            Event::Delta { choice, text, logprobs } => self.delta(*choice, text, logprobs, out),
            Event::Finished { choice, reason } => self.finished(*choice, *reason, out),
            Event::Refusal { choice, .. }
            | Event::Reasoning { choice, .. }
            | Event::ToolCall { choice, .. }
            | Event::Other { choice, .. } => self.extras(*choice, event, out),
            Event::Done { usage, .. } => {
                if self.choices.iter().any(|choice| !choice.finished) {
                    return Err(disorder("the end before each choice had ended"));
                }
                self.usage = Some(*usage);
                Ok(())
            }
        }
    }

    /// Ends a complete answer: the last chunks, then `[DONE]`. `nearfield` becomes a field of the last chunk.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Internal`] when the answer is not complete; `out` is then as before.
    pub fn finish(mut self, nearfield: Option<&RawValue>, out: &mut Vec<u8>) -> Result<(), Error> {
        let usage = self.usage.ok_or_else(|| disorder("no end"))?;
        let mut frames = Vec::new();
        if let Some((choice, reason)) = self.held.take() {
            let extra = nearfield.filter(|_| !self.options.include_usage);
            self.end_chunk(choice, reason, extra, &mut frames)?;
        }
        if self.options.include_usage {
            let none: [ChatChoice<'_>; 0] = [];
            self.chunk(&none, Some(usage), nearfield, &mut frames)?;
        }
        write_event(&mut frames, None, "[DONE]");
        out.append(&mut frames);
        Ok(())
    }

    /// Ends an answer that failed after it began: an error event and no `[DONE]`, so that no client takes the part for
    /// the whole.
    pub fn error(self, error: &Error, out: &mut Vec<u8>) {
        write_event(out, None, &error_body(error));
    }

    fn started(&mut self, model: &str, out: &mut Vec<u8>) -> Result<(), Error> {
        model.clone_into(&mut self.head.model);
        if self.head.endpoint == Endpoint::Completions {
            return Ok(());
        }
        for index in 0..self.head.choices {
            let delta = Delta { role: Some("assistant"), content: Some(""), extras: Map::new() };
            let choice = ChatChoice { index, delta, logprobs: None, finish_reason: None };
            self.chunk(&[choice], None, None, out)?;
        }
        Ok(())
    }

    fn delta(
        &mut self,
        index: u32,
        text: &str,
        tokens: &[TokenLogprob],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let offset = &mut self.running(index)?.offset;
        let offsets: Vec<usize> = tokens.iter().map(|token| offset.advance(token)).collect();
        if text.is_empty() && tokens.is_empty() {
            return Ok(());
        }
        let with_logprobs = self.head.logprobs && !tokens.is_empty();
        match self.head.endpoint {
            Endpoint::Chat => {
                let choice = ChatChoice {
                    index,
                    delta: Delta { content: Some(text), ..Delta::default() },
                    logprobs: with_logprobs.then_some(ChatLogprobs(tokens)),
                    finish_reason: None,
                };
                self.chunk(&[choice], None, None, out)
            }
            Endpoint::Completions => {
                let logprobs = with_logprobs.then_some(TextLogprobs { tokens, offsets: &offsets });
                let choice = TextChoice { text, index, logprobs, finish_reason: None };
                self.chunk(&[choice], None, None, out)
            }
        }
    }

    /// Pieces that the completions route has no place for are left out there: only text can be asked for.
    fn extras(&mut self, index: u32, event: &Event, out: &mut Vec<u8>) -> Result<(), Error> {
        let extras = answer_extras::delta(event, &mut self.running(index)?.reasoning);
        if self.head.endpoint == Endpoint::Completions || extras.is_empty() {
            return Ok(());
        }
        let delta = Delta { extras, ..Delta::default() };
        let choice = ChatChoice { index, delta, logprobs: None, finish_reason: None };
        self.chunk(&[choice], None, None, out)
    }

    fn finished(&mut self, index: u32, reason: FinishReason, out: &mut Vec<u8>) -> Result<(), Error> {
        self.running(index)?.finished = true;
        if self.choices.iter().all(|choice| choice.finished) {
            self.held = Some((index, reason));
            return Ok(());
        }
        self.end_chunk(index, reason, None, out)
    }

    fn end_chunk(
        &self,
        index: u32,
        reason: FinishReason,
        nearfield: Option<&RawValue>,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let finish_reason = Some(reason.as_str());
        match self.head.endpoint {
            Endpoint::Chat => {
                let choice = ChatChoice { index, delta: Delta::default(), logprobs: None, finish_reason };
                self.chunk(&[choice], None, nearfield, out)
            }
            Endpoint::Completions => {
                let choice = TextChoice { text: "", index, logprobs: None, finish_reason };
                self.chunk(&[choice], None, nearfield, out)
            }
        }
    }

    fn running(&mut self, index: u32) -> Result<&mut ChoiceState, Error> {
        self.choices
            .get_mut(index as usize)
            .filter(|choice| !choice.finished)
            .ok_or_else(|| disorder("an event for a choice that has ended or was not asked for"))
    }

    fn chunk<C: Serialize>(
        &self,
        choices: &[C],
        usage: Option<Usage>,
        nearfield: Option<&RawValue>,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let usage = match usage {
            Some(usage) => UsageField::Counts(usage.into()),
            None if self.options.include_usage => UsageField::Null,
            None => UsageField::Absent,
        };
        let chunk = to_text(&Chunk {
            id: &self.head.id,
            object: match self.head.endpoint {
                Endpoint::Chat => "chat.completion.chunk",
                Endpoint::Completions => "text_completion",
            },
            created: self.head.created,
            model: &self.head.model,
            choices,
            usage,
            nearfield,
        })?;
        write_event(out, None, &chunk);
        Ok(())
    }
}
