//! An answer while it comes: whether its events are in order, and what they make.

use futures_util::StreamExt as _;
use nearfield_api::{
    Content, Error, Event, FinishReason, Message, Part, Reasoning, Request, Role, TokenLogprob, ToolCall,
    Usage,
};

use super::{Held, Subject, ensure};

/// All that a stream has said.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// Who answers.
    model: Option<String>,
    /// Each choice's own.
    pub(super) choices: Vec<Choice>,
    pub(super) usage: Option<Usage>,
}

/// One of the answers to a request.
#[derive(Debug, Default)]
pub(super) struct Choice {
    pub(super) text: String,
    /// Pieces of text that were not empty.
    pub(super) pieces: usize,
    pub(super) logprobs: Vec<TokenLogprob>,
    pub(super) thought: String,
    pub(super) refusal: String,
    pub(super) calls: Vec<ToolCall>,
    pub(super) reason: Option<FinishReason>,
    /// What comes before the calls, in its order.
    parts: Vec<Part>,
    /// A thought of which more may come.
    thinking: String,
}

/// How a request ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// With a whole answer.
    Well(Answer),
    /// With an error, and what came before it.
    Badly(Answer, Error),
}

impl Ended {
    pub(super) fn well(self) -> Result<Answer, String> {
        match self {
            Self::Well(answer) => Ok(answer),
            Self::Badly(_, error) => Err(format!("there is an error instead of an answer: {error:?}")),
        }
    }
}

/// Asks, and takes in all that is said. Fails when events are not in the order that [`Event`] describes.
pub(super) async fn ask(subject: &Subject, request: Request) -> Result<Ended, String> {
    let mut answer = Answer::default();
    answer.choices.resize_with(request.choices as usize, Choice::default);
    let mut events = match subject.backend.generate(Box::new(request)).await {
        Ok(events) => events,
        Err(error) => return Ok(Ended::Badly(answer, error)),
    };
    while let Some(item) = events.next().await {
        match item {
            Ok(event) => answer.take(event)?,
            Err(error) => {
                ensure(answer.usage.is_none(), || format!("an error came after the end: {error:?}"))?;
                let more = events.next().await;
                ensure(more.is_none(), || format!("something came after an error: {more:?}"))?;
                return Ok(Ended::Badly(answer, error));
            }
        }
    }
    ensure(answer.usage.is_some(), || "the stream stopped without an end and without an error".to_owned())?;
    Ok(Ended::Well(answer))
}

/// The same where there must be an answer.
pub(super) async fn answer(subject: &Subject, request: Request) -> Result<Answer, String> {
    ask(subject, request).await?.well()
}

impl Answer {
    /// The only choice.
    pub(super) fn only(&self) -> Result<&Choice, String> {
        match self.choices.as_slice() {
            [only] => Ok(only),
            other => Err(format!("there are {} choices", other.len())),
        }
    }

    pub(super) fn usage(&self) -> Usage {
        self.usage.unwrap_or(Usage::NONE)
    }

    fn take(&mut self, event: Event) -> Held {
        ensure(self.usage.is_none(), || format!("after the end came {event:?}"))?;
        let is_start = matches!(event, Event::Started { .. });
        ensure(self.model.is_some() != is_start, || {
            format!("not the one start, at the beginning: {event:?}")
        })?;
        match event {
            Event::Started { model, .. } => {
                ensure(!model.is_empty(), || "nobody answers".to_owned())?;
                self.model = Some(model);
                Ok(())
            }
            Event::Done { usage, .. } => {
                let open = self.choices.iter().filter(|choice| choice.reason.is_none()).count();
                ensure(open == 0, || format!("the end came while {open} choices were open"))?;
                self.usage = Some(usage);
                adds_up(&usage)
            }
            event => self.of_choice(event),
        }
    }

    fn of_choice(&mut self, event: Event) -> Held {
        let index = match &event {
            Event::Delta { choice, .. }
            | Event::Refusal { choice, .. }
            | Event::Reasoning { choice, .. }
            | Event::ToolCall { choice, .. }
            | Event::Other { choice, .. }
            | Event::Finished { choice, .. } => *choice as usize,
            _ => return Err(format!("no event of an answer: {event:?}")),
        };
        let Some(choice) = self.choices.get_mut(index) else {
            return Err(format!("no such choice was asked for: {event:?}"));
        };
        ensure(choice.reason.is_none(), || format!("after the end of its choice came {event:?}"))?;
        choice.take(event)
    }
}

impl Choice {
    fn take(&mut self, event: Event) -> Held {
        match event {
            Event::Delta { text, logprobs, .. } => {
                self.pieces += usize::from(!text.is_empty());
                self.text.push_str(&text);
                self.logprobs.extend(logprobs);
                match self.parts.last_mut().map(|part| &mut part.content) {
                    Some(Content::Text(before)) => before.push_str(&text),
                    _ if text.is_empty() => {}
                    _ => self.parts.push(Part::text(text)),
                }
            }
            Event::Refusal { text, .. } => self.refusal.push_str(&text),
            Event::Reasoning { text, opaque, .. } => {
                self.thought.push_str(&text);
                self.thinking.push_str(&text);
                if opaque.is_some() {
                    let text = std::mem::take(&mut self.thinking);
                    self.parts.push(Content::Reasoning(Reasoning { text, opaque }).into());
                }
            }
            Event::ToolCall { index, id, name, arguments, opaque, .. } => {
                let index = index as usize;
                if let Some(call) = self.calls.get_mut(index) {
                    ensure(id.is_none() && name.is_none(), || format!("call {index} begins twice"))?;
                    call.arguments.push_str(&arguments);
                    return Ok(());
                }
                ensure(index == self.calls.len(), || format!("call {index} comes before others"))?;
                let (id, name) = (id.unwrap_or_default(), name.unwrap_or_default());
                ensure(!id.is_empty() && !name.is_empty(), || format!("call {index} has no id or no name"))?;
                self.calls.push(ToolCall { id, name, arguments, opaque });
            }
            Event::Finished { reason, .. } => self.reason = Some(reason),
            _ => {}
        }
        Ok(())
    }

    /// What the answer is as a message of the conversation, as clients send it back.
    pub(super) fn message(&self) -> Message {
        let mut parts = self.parts.clone();
        if !self.thinking.is_empty() {
            let thought = Reasoning { text: self.thinking.clone(), opaque: None };
            parts.insert(0, Content::Reasoning(thought).into());
        }
        parts.extend(self.calls.iter().cloned().map(|call| Content::ToolCall(call).into()));
        Message::of(Role::Assistant, parts)
    }
}

/// That the backend has counted, and that its total is the sum of the buckets.
fn adds_up(usage: &Usage) -> Held {
    ensure(usage.measured, || "the counts are an estimate".to_owned())?;
    let sum = usage.prompt_tokens() + usage.completion_tokens();
    let sound = usage.unattributed == 0 && usage.stated_total.is_none() && usage.total_tokens() == sum;
    ensure(sound && usage.warning().is_none(), || format!("the buckets do not add up: {usage:?}"))
}
