//! Reads an answer: chunk by chunk, or as a whole.

use std::borrow::Cow;

use serde_json::Value;

use super::text_chunk::TextChunk;
use super::upstream_error::decode_stream_error;
use super::{delta, finish_reason, logprobs, usage};
use crate::answer::{AnswerDecoder, Progress, malformed, tree};
use crate::sse::SseEvent;
use crate::{Error, Event, FinishReason, Request};

/// Turns the chunks of one stream, or one whole answer, into events.
///
/// Unknown fields, missing usage and a missing `[DONE]` are forgiven. An answer that was cut is not: without a reason for
/// the end of every choice there is no [`Event::Done`], but an error.
#[derive(Debug)]
pub(crate) struct ChunkDecoder {
    progress: Progress,
    choices: Vec<ChoiceState>,
    /// How many alternatives each token shall have.
    alternatives: usize,
    max_tokens: Option<u32>,
}

#[derive(Clone, Debug, Default)]
struct ChoiceState {
    /// The last chunk had an empty string as its reason: some servers know no other.
    blank_reason: bool,
    calls: delta::Calls,
}

/// Which form the choices have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One piece of many.
    Chunk,
    /// The whole answer in one body.
    Whole,
}

impl AnswerDecoder for ChunkDecoder {
    fn push(&mut self, frame: &SseEvent, events: &mut Vec<Event>) -> Result<(), Error> {
        let data = frame.data.trim();
        if self.is_done() {
            return Ok(());
        }
        if frame.event.as_deref() == Some("error") {
            let said = serde_json::from_str(data).unwrap_or_else(|_| Value::from(data));
            return Err(decode_stream_error(&said));
        }
        if data.is_empty() {
            return Ok(());
        }
        if data == "[DONE]" {
            self.accept_blank_reasons(events)?;
            return self.finish(events);
        }
        if let Some(chunk) = TextChunk::read(data) {
            return self.take_text(chunk, events);
        }
        let tree: Value = serde_json::from_str(data).map_err(|_| malformed("a chunk is not JSON"))?;
        self.take(&tree, Form::Chunk, events)
    }

    fn finish(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        self.progress.complete(events)
    }

    fn whole(&mut self, body: &[u8], events: &mut Vec<Event>) -> Result<(), Error> {
        self.take(&tree(body)?, Form::Whole, events)?;
        self.accept_blank_reasons(events)?;
        self.finish(events)
    }

    fn is_done(&self) -> bool {
        self.progress.is_done()
    }

    fn has_token(&self) -> bool {
        self.progress.has_token()
    }
}

impl ChunkDecoder {
    /// A decoder for the answer to `request`, which was sent for the backend's model `upstream_model`.
    pub(crate) fn new(request: &Request, upstream_model: &str) -> Self {
        Self {
            progress: Progress::new(request, upstream_model),
            choices: vec![ChoiceState::default(); request.choices as usize],
            alternatives: request.logprobs.unwrap_or(0).into(),
            max_tokens: request.max_tokens,
        }
    }

    /// Takes one chunk or body, as a tree.
    pub(super) fn take(&mut self, tree: &Value, form: Form, events: &mut Vec<Event>) -> Result<(), Error> {
        if tree.get("error").is_some_and(|error| !error.is_null()) {
            return Err(decode_stream_error(tree));
        }
        let choices = match tree.get("choices") {
            Some(Value::Array(choices)) => choices.as_slice(),
            None | Some(Value::Null) if tree.is_object() && form == Form::Chunk => &[],
            _ => return Err(malformed("it has no choices")),
        };
        if let Some(usage) = tree.get("usage").and_then(usage::decode) {
            self.progress.usage = Some(usage);
        }
        if tree.get("choices").is_some() {
            self.progress.start(tree.get("model").and_then(Value::as_str), events);
        }
        choices.iter().try_for_each(|choice| self.choice(choice, form, events))
    }

    /// Takes one chunk that has only text, ends and usage.
    fn take_text(&mut self, chunk: TextChunk<'_>, events: &mut Vec<Event>) -> Result<(), Error> {
        if let Some(usage) = chunk.usage.as_ref().and_then(usage::decode) {
            self.progress.usage = Some(usage);
        }
        self.progress.start(chunk.model.as_ref().map(|model| &*model.0), events);
        for choice in chunk.choices {
            let place = self.place(choice.index.unwrap_or(0))?;
            let before = events.len();
            let text = choice.delta.content.map_or(Cow::Borrowed(""), |text| text.0);
            if !text.is_empty() {
                events.push(Event::Delta { choice: place, text: text.into_owned(), logprobs: Vec::new() });
            }
            self.produced(place, before, events)?;
            self.reason(place, choice.finish_reason.as_ref().map(|reason| &*reason.0), events)?;
        }
        Ok(())
    }

    /// A choice by the index that it has on the wire.
    fn place(&self, index: u64) -> Result<u32, Error> {
        let place = u32::try_from(index).ok().filter(|place| (*place as usize) < self.choices.len());
        place.ok_or_else(|| malformed("it has more choices than were asked for"))
    }

    /// Notes what a choice brought from the event `before` on.
    fn produced(&mut self, choice: u32, before: usize, events: &[Event]) -> Result<(), Error> {
        let new = events.get(before..).unwrap_or_default();
        if new.is_empty() {
            return Ok(());
        }
        self.progress.produced(choice, new.iter().map(delta::bytes).sum())
    }

    /// Ends the choice where its reason says so.
    fn reason(&mut self, choice: u32, reason: Option<&str>, events: &mut Vec<Event>) -> Result<(), Error> {
        // Some servers repeat the reason in the chunk that brings the usage.
        if let Some(reason) = reason.map(finish_reason::decode).transpose()?.flatten() {
            self.end_choice(choice, reason, events)?;
        }
        if let Some(state) = self.choices.get_mut(choice as usize) {
            state.blank_reason = reason == Some("");
        }
        Ok(())
    }

    fn choice(&mut self, value: &Value, form: Form, events: &mut Vec<Event>) -> Result<(), Error> {
        let index = match value.get("index") {
            None | Some(Value::Null) => 0,
            Some(index) => index.as_u64().ok_or_else(|| malformed("a choice has no sound index"))?,
        };
        let choice = self.place(index)?;
        let message = value.get("delta").or_else(|| value.get("message")).unwrap_or(value);
        if form == Form::Whole && value.get("message").is_none() && value.get("text").is_none() {
            return Err(malformed("a choice has no message"));
        }
        let before = events.len();
        let pieces = delta::Pieces { choice, whole: form == Form::Whole, message };
        pieces.reasoning(events);
        let text = delta::text(message)?;
        let logprobs = logprobs::decode(value.get("logprobs"), self.alternatives);
        if !text.is_empty() || !logprobs.is_empty() {
            events.push(Event::Delta { choice, text, logprobs });
        }
        pieces.refusal(events);
        if let Some(state) = self.choices.get_mut(choice as usize) {
            pieces.tool_calls(&mut state.calls, events)?;
        }
        self.produced(choice, before, events)?;
        if value.get("delta").is_some() || value.get("message").is_some() {
            pieces.others(events);
        }
        let reason = value.get("finish_reason").and_then(Value::as_str);
        self.reason(choice, reason, events)?;
        if form == Form::Whole && reason.is_none() {
            // The body is whole, so the answer is; this server does not say why it ended.
            self.end_choice(choice, self.likely_reason(), events)?;
        }
        Ok(())
    }

    /// Ends a choice that has not ended yet.
    fn end_choice(
        &mut self,
        choice: u32,
        reason: FinishReason,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        if self.progress.is_finished(choice) { Ok(()) } else { self.progress.end(choice, reason, events) }
    }

    /// An explicit end of the stream completes every choice whose server writes empty reasons.
    fn accept_blank_reasons(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        for choice in 0..self.choices.len() {
            if self.choices.get(choice).is_some_and(|state| state.blank_reason) {
                self.end_choice(choice as u32, self.likely_reason(), events)?;
            }
        }
        Ok(())
    }

    /// Why an answer ended whose backend does not say: by the limit when the limit was reached.
    fn likely_reason(&self) -> FinishReason {
        let limit = self.max_tokens.map(|limit| u64::from(limit).saturating_mul(self.choices.len() as u64));
        match (self.progress.usage, limit) {
            (Some(usage), Some(limit)) if usage.completion_tokens() >= limit => FinishReason::Length,
            _ => FinishReason::Stop,
        }
    }
}
