//! What the decoders of answers share.

use std::fmt;

use serde_json::Value;

use crate::sse::SseEvent;
use crate::{Error, ErrorKind, Event, FinishReason, Request, Usage};

/// Turns one answer into events: its frames, or its one body. Of a stream, feed it each frame, then
/// [`AnswerDecoder::finish`] when the stream has ended. After an error it must not be used again.
pub trait AnswerDecoder: Send + fmt::Debug {
    /// Takes the next frame: a server-sent event, or a message of an event stream by its event type.
    ///
    /// # Errors
    /// The error that the frame tells, or [`ErrorKind::Upstream`] for a malformed one.
    fn push(&mut self, frame: &SseEvent, events: &mut Vec<Event>) -> Result<(), Error>;

    /// Ends the stream.
    ///
    /// # Errors
    /// [`ErrorKind::Upstream`] when the answer was cut: a part must not pass for the whole.
    fn finish(&mut self, events: &mut Vec<Event>) -> Result<(), Error>;

    /// Takes the body of a reply that is the whole answer, in place of frames. The events are those of a stream: started,
    /// text, ends, done.
    ///
    /// # Errors
    /// The error that the body tells, or [`ErrorKind::Upstream`] for one that is no complete answer.
    fn whole(&mut self, body: &[u8], events: &mut Vec<Event>) -> Result<(), Error>;

    /// Whether the answer is complete.
    fn is_done(&self) -> bool;

    /// Whether the backend has produced anything: text, reasoning, a call, or an end.
    fn has_token(&self) -> bool;
}

/// The state of an answer that every decoder keeps: who answers, what has ended, what it took.
#[derive(Debug)]
pub(crate) struct Progress {
    /// The model's name when the backend says none.
    model: String,
    finished: Vec<bool>,
    /// Calls that each choice has begun.
    calls: Vec<u32>,
    started: bool,
    has_token: bool,
    done: bool,
    pub(crate) usage: Option<Usage>,
    prompt_bytes: usize,
    answer_bytes: usize,
}

impl Progress {
    pub(crate) fn new(request: &Request, upstream_model: &str) -> Self {
        let choices = request.choices.max(1) as usize;
        Self {
            model: upstream_model.to_owned(),
            finished: vec![false; choices],
            calls: vec![0; choices],
            started: false,
            has_token: false,
            done: false,
            usage: None,
            prompt_bytes: request.prompt.bytes(),
            answer_bytes: 0,
        }
    }

    pub(crate) const fn is_done(&self) -> bool {
        self.done
    }

    pub(crate) const fn has_token(&self) -> bool {
        self.has_token
    }

    /// The backend has begun to answer; only the first call says so.
    pub(crate) fn start(&mut self, model: Option<&str>, events: &mut Vec<Event>) {
        if !self.started {
            self.started = true;
            let model = model.filter(|name| !name.is_empty()).unwrap_or(&self.model).to_owned();
            events.push(Event::Started { model, engine: None });
        }
    }

    /// Hands an event of a running choice out.
    pub(crate) fn event(&mut self, event: Event, events: &mut Vec<Event>) -> Result<(), Error> {
        let (choice, bytes) = match &event {
            Event::Delta { choice, text, logprobs } if text.is_empty() && logprobs.is_empty() => {
                self.running(*choice)?;
                return Ok(());
            }
            Event::Delta { choice, text, .. } | Event::Refusal { choice, text } => (*choice, text.len()),
            Event::Reasoning { choice, text, opaque: None } if text.is_empty() => {
                self.running(*choice)?;
                return Ok(());
            }
            Event::Reasoning { choice, text, .. } => (*choice, text.len()),
            Event::ToolCall { choice, arguments, .. } => (*choice, arguments.len()),
            Event::Other { choice, .. } => (*choice, 0),
            _ => return Err(malformed("a piece of an answer is none")),
        };
        self.produced(choice, bytes)?;
        self.start(None, events);
        events.push(event);
        Ok(())
    }

    /// A running choice has brought a piece of so many bytes of text.
    pub(crate) fn produced(&mut self, choice: u32, bytes: usize) -> Result<(), Error> {
        self.running(choice)?;
        self.has_token = true;
        self.answer_bytes = self.answer_bytes.saturating_add(bytes);
        Ok(())
    }

    pub(crate) fn text(&mut self, choice: u32, text: &str, events: &mut Vec<Event>) -> Result<(), Error> {
        self.event(Event::Delta { choice, text: text.to_owned(), logprobs: Vec::new() }, events)
    }

    /// The only choice has begun a call. The call's index is returned.
    ///
    /// # Errors
    /// [`ErrorKind::Upstream`] for a call without id or name, to which no result could be given.
    pub(crate) fn call(
        &mut self,
        id: &str,
        name: &str,
        arguments: String,
        events: &mut Vec<Event>,
    ) -> Result<u32, Error> {
        if id.is_empty() || name.is_empty() {
            return Err(malformed("a tool call has no id or name"));
        }
        let index = self.next_call(0);
        let (id, name) = (Some(id.to_owned()), Some(name.to_owned()));
        self.event(Event::ToolCall { choice: 0, index, id, name, arguments, opaque: None }, events)?;
        Ok(index)
    }

    /// The index of the next call of a choice.
    pub(crate) fn next_call(&mut self, choice: u32) -> u32 {
        match self.calls.get_mut(choice as usize) {
            Some(count) => {
                let index = *count;
                *count = index.saturating_add(1);
                index
            }
            None => 0,
        }
    }

    /// Whether a choice has called a tool.
    pub(crate) fn has_calls(&self, choice: u32) -> bool {
        self.calls.get(choice as usize).is_some_and(|count| *count > 0)
    }

    /// Whether a choice has come to its end.
    pub(crate) fn is_finished(&self, choice: u32) -> bool {
        self.finished.get(choice as usize).copied().unwrap_or(true)
    }

    /// A choice has ended.
    pub(crate) fn end(
        &mut self,
        choice: u32,
        reason: FinishReason,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        self.running(choice)?;
        self.start(None, events);
        if let Some(finished) = self.finished.get_mut(choice as usize) {
            *finished = true;
        }
        self.has_token = true;
        events.push(Event::Finished { choice, reason });
        Ok(())
    }

    /// The answer has ended: it must be whole.
    pub(crate) fn complete(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        if self.done {
            return Ok(());
        }
        let finished = self.finished.iter().filter(|finished| **finished).count();
        if finished < self.finished.len() {
            return Err(Error::new(
                ErrorKind::Upstream,
                format!(
                    "The backend's answer was cut: {finished} of {} choices came to an end. Ask again.",
                    self.finished.len()
                ),
            ));
        }
        self.done = true;
        events.push(Event::Done { usage: self.usage.unwrap_or_else(|| self.estimate()), work: None });
        Ok(())
    }

    fn running(&self, choice: u32) -> Result<(), Error> {
        match self.finished.get(choice as usize) {
            Some(false) => Ok(()),
            Some(true) => Err(malformed("text came after the end of its choice")),
            None => Err(malformed("it has more choices than were asked for")),
        }
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

/// The tree of a body that is a whole answer.
pub(crate) fn tree(body: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(body).map_err(|_| malformed("it is not JSON"))
}

pub(crate) fn malformed(what: &str) -> Error {
    Error::new(ErrorKind::Upstream, format!("The backend's answer cannot be read: {what}."))
}
