//! Reads an answer: chunk by chunk, or as a whole.

use std::borrow::Cow;

use serde_json::Value;

use super::text_chunk::TextChunk;
use super::upstream_error::decode_stream_error;
use super::{delta, finish_reason, logprobs, usage};
use crate::answer::{AnswerDecoder, malformed, tree};
use crate::sse::SseEvent;
use crate::{Error, ErrorKind, Event, FinishReason, Request, Usage};

/// Turns the chunks of one stream, or one whole answer, into events.
///
/// Unknown fields, missing usage and a missing `[DONE]` are forgiven. An answer that was cut is not: without a reason for
/// the end of every choice there is no [`Event::Done`], but an error.
#[derive(Debug)]
pub(crate) struct ChunkDecoder {
    /// The model's name when the backend says none.
    model: String,
    choices: Vec<ChoiceState>,
    /// How many alternatives each token shall have.
    alternatives: usize,
    max_tokens: Option<u32>,
    prompt_bytes: usize,
    answer_bytes: usize,
    started: bool,
    has_token: bool,
    done: bool,
    usage: Option<Usage>,
}

#[derive(Clone, Debug, Default)]
struct ChoiceState {
    finished: bool,
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
        if self.done {
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
            self.accept_blank_reasons(events);
            return self.complete(events);
        }
        if let Some(chunk) = TextChunk::read(data) {
            return self.take_text(chunk, events);
        }
        let tree: Value = serde_json::from_str(data).map_err(|_| malformed("a chunk is not JSON"))?;
        self.take(&tree, Form::Chunk, events)
    }

    fn finish(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        if self.done { Ok(()) } else { self.complete(events) }
    }

    fn whole(&mut self, body: &[u8], events: &mut Vec<Event>) -> Result<(), Error> {
        self.take(&tree(body)?, Form::Whole, events)?;
        self.accept_blank_reasons(events);
        self.finish(events)
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn has_token(&self) -> bool {
        self.has_token
    }
}

impl ChunkDecoder {
    /// A decoder for the answer to `request`, which was sent for the backend's model `upstream_model`.
    pub(crate) fn new(request: &Request, upstream_model: &str) -> Self {
        Self {
            model: upstream_model.to_owned(),
            choices: vec![ChoiceState::default(); request.choices as usize],
            alternatives: request.logprobs.unwrap_or(0).into(),
            max_tokens: request.max_tokens,
            prompt_bytes: request.prompt.bytes(),
            answer_bytes: 0,
            started: false,
            has_token: false,
            done: false,
            usage: None,
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
            self.usage = Some(usage);
        }
        if tree.get("choices").is_some() {
            self.start(tree.get("model").and_then(Value::as_str), events);
        }
        choices.iter().try_for_each(|choice| self.choice(choice, form, events))
    }

    /// Takes one chunk that has only text, ends and usage.
    fn take_text(&mut self, chunk: TextChunk<'_>, events: &mut Vec<Event>) -> Result<(), Error> {
        if let Some(usage) = chunk.usage.as_ref().and_then(usage::decode) {
            self.usage = Some(usage);
        }
        self.start(chunk.model.as_ref().map(|model| &*model.0), events);
        for choice in chunk.choices {
            let (index, finished) = self.place(choice.index.unwrap_or(0))?;
            let before = events.len();
            let text = choice.delta.content.map_or(Cow::Borrowed(""), |text| text.0);
            if !text.is_empty() {
                let (choice, text) = (index as u32, text.into_owned());
                events.push(Event::Delta { choice, text, logprobs: Vec::new() });
            }
            self.produced(finished, before, events)?;
            self.reason(index, choice.finish_reason.as_ref().map(|reason| &*reason.0), events)?;
        }
        Ok(())
    }

    fn start(&mut self, named: Option<&str>, events: &mut Vec<Event>) {
        if !self.started {
            self.started = true;
            let model = named.filter(|name| !name.is_empty()).unwrap_or(&self.model).to_owned();
            events.push(Event::Started { model, engine: None });
        }
    }

    /// The place of a choice, and whether it has come to its end.
    fn place(&self, index: u64) -> Result<(usize, bool), Error> {
        usize::try_from(index)
            .ok()
            .and_then(|at| Some((at, self.choices.get(at)?.finished)))
            .ok_or_else(|| malformed("it has more choices than were asked for"))
    }

    /// Notes what a choice brought from the event `before` on.
    fn produced(&mut self, finished: bool, before: usize, events: &[Event]) -> Result<(), Error> {
        if events.len() > before {
            if finished {
                return Err(malformed("text came after the end of its choice"));
            }
            self.has_token = true;
            let bytes = events.iter().skip(before).map(delta::bytes).sum();
            self.answer_bytes = self.answer_bytes.saturating_add(bytes);
        }
        Ok(())
    }

    /// Ends the choice where its reason says so.
    fn reason(&mut self, index: usize, reason: Option<&str>, events: &mut Vec<Event>) -> Result<(), Error> {
        // Some servers repeat the reason in the chunk that brings the usage.
        if let Some(reason) = reason.map(finish_reason::decode).transpose()?.flatten() {
            self.end_choice(index, reason, events);
        }
        if let Some(state) = self.choices.get_mut(index) {
            state.blank_reason = reason == Some("");
        }
        Ok(())
    }

    fn choice(&mut self, value: &Value, form: Form, events: &mut Vec<Event>) -> Result<(), Error> {
        let index = match value.get("index") {
            None | Some(Value::Null) => 0,
            Some(index) => index.as_u64().ok_or_else(|| malformed("a choice has no sound index"))?,
        };
        let (index, finished) = self.place(index)?;
        let message = value.get("delta").or_else(|| value.get("message")).unwrap_or(value);
        if form == Form::Whole && value.get("message").is_none() && value.get("text").is_none() {
            return Err(malformed("a choice has no message"));
        }
        let before = events.len();
        let pieces = delta::Pieces { choice: index as u32, whole: form == Form::Whole, message };
        pieces.reasoning(events);
        let text = delta::text(message)?;
        let logprobs = logprobs::decode(value.get("logprobs"), self.alternatives);
        if !text.is_empty() || !logprobs.is_empty() {
            events.push(Event::Delta { choice: index as u32, text, logprobs });
        }
        pieces.refusal(events);
        if let Some(state) = self.choices.get_mut(index) {
            pieces.tool_calls(&mut state.calls, events)?;
        }
        self.produced(finished, before, events)?;
        if value.get("delta").is_some() || value.get("message").is_some() {
            pieces.others(events);
        }
        let reason = value.get("finish_reason").and_then(Value::as_str);
        self.reason(index, reason, events)?;
        if form == Form::Whole && reason.is_none() {
            // The body is whole, so the answer is; this server does not say why it ended.
            self.end_choice(index, self.likely_reason(), events);
        }
        Ok(())
    }

    fn end_choice(&mut self, index: usize, reason: FinishReason, events: &mut Vec<Event>) {
        if let Some(state) = self.choices.get_mut(index).filter(|state| !state.finished) {
            state.finished = true;
            self.has_token = true;
            events.push(Event::Finished { choice: index as u32, reason });
        }
    }

    /// An explicit end of the stream completes every choice whose server writes empty reasons.
    fn accept_blank_reasons(&mut self, events: &mut Vec<Event>) {
        for index in 0..self.choices.len() {
            if self.choices.get(index).is_some_and(|state| state.blank_reason) {
                self.end_choice(index, self.likely_reason(), events);
            }
        }
    }

    /// Why an answer ended whose backend does not say: by the limit when the limit was reached.
    fn likely_reason(&self) -> FinishReason {
        let limit = self.max_tokens.map(|limit| u64::from(limit).saturating_mul(self.choices.len() as u64));
        match (self.usage, limit) {
            (Some(usage), Some(limit)) if usage.completion_tokens() >= limit => FinishReason::Length,
            _ => FinishReason::Stop,
        }
    }

    fn complete(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        let finished = self.choices.iter().filter(|state| state.finished).count();
        if finished < self.choices.len() {
            return Err(Error::new(
                ErrorKind::Upstream,
                format!(
                    "The backend's answer was cut: {finished} of {} choices came to an end. Ask again.",
                    self.choices.len()
                ),
            ));
        }
        self.done = true;
        events.push(Event::Done { usage: self.usage.unwrap_or_else(|| self.estimate()), work: None });
        Ok(())
    }

    /// About four bytes of text make a token.
    fn estimate(&self) -> Usage {
        Usage {
            input: self.prompt_bytes.div_ceil(4) as u64,
            output: self.answer_bytes.div_ceil(4) as u64,
            ..Usage::default()
        }
    }
}
