//! The answer of a backend that got a masked request, with the originals put back as it comes.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use nearfield_api::{Error, Event, EventStream, visit_value};
use nearfield_privacy::{Restorer, Vault};

/// Which text of an answer a piece belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Channel {
    Text,
    Refusal,
    Reasoning,
    Arguments(u32),
}

/// Restores every text of an answer. Log probabilities stay those of the tokens that were really produced.
pub(super) struct Restoring {
    events: EventStream,
    vault: Arc<Vault>,
    channels: BTreeMap<(u32, Channel), Restorer>,
    ready: VecDeque<Result<Event, Error>>,
}

impl Restoring {
    pub(super) fn new(events: EventStream, vault: Arc<Vault>) -> Self {
        Self { events, vault, channels: BTreeMap::new(), ready: VecDeque::new() }
    }

    fn push(&mut self, choice: u32, channel: Channel, text: &mut String) {
        let escape = matches!(channel, Channel::Arguments(_));
        let restorer = self
            .channels
            .entry((choice, channel))
            .or_insert_with(|| Restorer::new(Arc::clone(&self.vault), escape));
        *text = restorer.push(text);
    }

    /// Gives out what was held back of one choice, or of all.
    fn flush(&mut self, only: Option<u32>) {
        for (&(choice, channel), restorer) in &mut self.channels {
            if only.is_some_and(|only| only != choice) || restorer.held() == 0 {
                continue;
            }
            let text = restorer.finish();
            self.ready.push_back(Ok(match channel {
                Channel::Text => Event::Delta { choice, text, logprobs: Vec::new() },
                Channel::Refusal => Event::Refusal { choice, text },
                Channel::Reasoning => Event::Reasoning { choice, text, opaque: None },
                Channel::Arguments(index) => {
                    Event::ToolCall { choice, index, id: None, name: None, arguments: text, opaque: None }
                }
            }));
        }
    }

    fn take(&mut self, mut event: Event) {
        match &mut event {
            Event::Delta { choice, text, .. } => self.push(*choice, Channel::Text, text),
            Event::Refusal { choice, text } => self.push(*choice, Channel::Refusal, text),
            Event::Reasoning { choice, text, .. } => self.push(*choice, Channel::Reasoning, text),
            Event::ToolCall { choice, index, arguments, .. } => {
                self.push(*choice, Channel::Arguments(*index), arguments);
            }
            Event::Other { value, .. } => {
                let vault = Arc::clone(&self.vault);
                visit_value(value, nearfield_api::Place::Extra, &mut |_, text| {
                    *text = vault.restore(text, false);
                });
            }
            Event::Finished { choice, .. } => self.flush(Some(*choice)),
            Event::Done { .. } => self.flush(None),
            _ => {}
        }
        self.ready.push_back(Ok(event));
    }
}

impl Stream for Restoring {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(event));
            }
            match ready!(self.events.as_mut().poll_next(context)) {
                None => return Poll::Ready(None),
                Some(Ok(event)) => self.take(event),
                Some(Err(error)) => {
                    self.flush(None);
                    self.ready.push_back(Err(error));
                }
            }
        }
    }
}
