//! Reads a streamed answer.

use serde_json::Value;

use super::reply::Answer;
use crate::answer::{malformed, tree};
use crate::sse::SseEvent;
use crate::{AnswerDecoder, Error, Event, Request};

/// Turns the frames of one stream into events. There is no mark of the end: the last frame has the reason.
#[derive(Debug)]
pub struct StreamDecoder {
    answer: Answer,
}

impl StreamDecoder {
    /// A decoder for the answer to `request`, which was sent for the backend's model `upstream_model`.
    pub fn new(request: &Request, upstream_model: &str) -> Self {
        Self { answer: Answer::new(request, upstream_model) }
    }
}

impl AnswerDecoder for StreamDecoder {
    fn push(&mut self, frame: &SseEvent, events: &mut Vec<Event>) -> Result<(), Error> {
        if self.answer.progress.is_done() || frame.data.trim().is_empty() {
            return Ok(());
        }
        let tree: Value = serde_json::from_str(&frame.data).map_err(|_| malformed("a frame is not JSON"))?;
        self.answer.take(&tree, events)
    }

    fn finish(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        self.answer.progress.complete(events)
    }

    fn whole(&mut self, body: &[u8], events: &mut Vec<Event>) -> Result<(), Error> {
        self.answer.take(&tree(body)?, events)?;
        self.answer.progress.complete(events)
    }

    fn is_done(&self) -> bool {
        self.answer.progress.is_done()
    }

    fn has_token(&self) -> bool {
        self.answer.progress.has_token()
    }
}
