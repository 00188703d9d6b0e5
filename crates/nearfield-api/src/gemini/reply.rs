//! Reads an answer, or a frame of one.

use serde_json::{Map, Value, json};

use super::parts::{OWN_ID, SIGNATURE, TEXT_SIGNATURE, opaque};
use super::usage;
use crate::answer::{Progress, malformed};
use crate::openai::decode_stream_error;
use crate::{Dialect, Error, ErrorKind, Event, FinishReason, Request, TokenAlternative, TokenLogprob};

/// An answer while it arrives.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) progress: Progress,
    choices: u32,
}

/// What a candidate says beside its parts.
const BESIDE: [&str; 4] =
    ["groundingMetadata", "citationMetadata", "urlContextMetadata", "groundingAttributions"];

impl Answer {
    pub(super) fn new(request: &Request, upstream_model: &str) -> Self {
        Self { progress: Progress::new(request, upstream_model), choices: request.choices.max(1) }
    }

    /// Takes a frame, which has the form of a whole answer.
    pub(super) fn take(&mut self, tree: &Value, events: &mut Vec<Event>) -> Result<(), Error> {
        let tree = tree.as_array().and_then(|items| items.first()).unwrap_or(tree);
        if tree.get("error").is_some_and(|error| !error.is_null()) {
            return Err(decode_stream_error(tree));
        }
        if !tree.is_object() {
            return Err(malformed("a frame is no object"));
        }
        self.progress.start(tree.get("modelVersion").and_then(Value::as_str), events);
        // Counts may also shrink from frame to frame: the last ones hold.
        if let Some(usage) = tree.get("usageMetadata").and_then(usage::decode) {
            self.progress.usage = Some(usage);
        }
        let id = tree.get("responseId").and_then(Value::as_str).unwrap_or_default();
        let candidates = tree.get("candidates").and_then(Value::as_array);
        for candidate in candidates.into_iter().flatten() {
            self.candidate(candidate, id, events)?;
        }
        if candidates.is_none_or(Vec::is_empty)
            && tree.pointer("/promptFeedback/blockReason").is_some_and(Value::is_string)
        {
            for choice in
                (0..self.choices).filter(|choice| !self.progress.is_finished(*choice)).collect::<Vec<_>>()
            {
                self.progress.end(choice, FinishReason::ContentFilter, events)?;
            }
        }
        Ok(())
    }

    fn candidate(&mut self, candidate: &Value, id: &str, events: &mut Vec<Event>) -> Result<(), Error> {
        let choice = candidate.get("index").and_then(Value::as_u64).unwrap_or(0);
        let choice = u32::try_from(choice).map_err(|_| malformed("a candidate has no sound index"))?;
        let mut logprobs = logprobs(candidate.get("logprobsResult"));
        let parts = candidate.pointer("/content/parts").and_then(Value::as_array);
        for part in parts.into_iter().flatten() {
            self.part(choice, part, id, &mut logprobs, events)?;
        }
        if !logprobs.is_empty() && !self.progress.is_finished(choice) {
            self.progress.event(Event::Delta { choice, text: String::new(), logprobs }, events)?;
        }
        for name in BESIDE {
            let value =
                candidate.get(name).filter(|value| value.as_object().is_some_and(|map| !map.is_empty()));
            if let Some(value) = value
                && !self.progress.is_finished(choice)
            {
                let value = Value::Object(Map::from_iter([(name.to_owned(), value.clone())]));
                self.progress.event(Event::Other { choice, dialect: Dialect::Gemini, value }, events)?;
            }
        }
        match candidate.get("finishReason").and_then(Value::as_str) {
            Some(reason) if !self.progress.is_finished(choice) => {
                let reason = finish_reason(reason, self.progress.has_calls(choice))?;
                reason.map_or(Ok(()), |reason| self.progress.end(choice, reason, events))
            }
            _ => Ok(()),
        }
    }

    fn part(
        &mut self,
        choice: u32,
        part: &Value,
        id: &str,
        logprobs: &mut Vec<TokenLogprob>,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let signature = part.get(SIGNATURE).and_then(Value::as_str).map(str::to_owned);
        if let Some(text) = part.get("text").and_then(Value::as_str) {
            if part.get("thought").and_then(Value::as_bool) == Some(true) {
                let opaque = signature.map(|value| opaque(SIGNATURE, value));
                let event = Event::Reasoning { choice, text: text.to_owned(), opaque };
                return self.progress.event(event, events);
            }
            let logprobs = std::mem::take(logprobs);
            self.progress.event(Event::Delta { choice, text: text.to_owned(), logprobs }, events)?;
            return match signature {
                Some(value) => {
                    let opaque = Some(opaque(TEXT_SIGNATURE, value));
                    self.progress.event(Event::Reasoning { choice, text: String::new(), opaque }, events)
                }
                None => Ok(()),
            };
        }
        if let Some(call) = part.get("functionCall") {
            let text = |name: &str| call.get(name).and_then(Value::as_str).unwrap_or_default();
            if text("name").is_empty() {
                return Err(malformed("a function call has no name"));
            }
            let index = self.progress.next_call(choice);
            let call_id = match text("id") {
                "" => format!("{OWN_ID}{id}_{choice}_{index}"),
                given => given.to_owned(),
            };
            let event = Event::ToolCall {
                choice,
                index,
                id: Some(call_id),
                name: Some(text("name").to_owned()),
                arguments: call.get("args").map_or_else(|| "{}".to_owned(), Value::to_string),
                opaque: signature.map(|value| opaque(SIGNATURE, value)),
            };
            return self.progress.event(event, events);
        }
        if part.as_object().is_none_or(Map::is_empty) {
            return Ok(());
        }
        self.progress.event(Event::Other { choice, dialect: Dialect::Gemini, value: json!(part) }, events)
    }
}

/// Why a candidate ended; `None` when it goes on.
///
/// # Errors
/// A reason that says the answer is broken, or that is not known.
fn finish_reason(reason: &str, has_calls: bool) -> Result<Option<FinishReason>, Error> {
    Ok(Some(match reason {
        "" | "FINISH_REASON_UNSPECIFIED" => return Ok(None),
        "STOP" if has_calls => FinishReason::ToolCalls,
        "STOP" => FinishReason::Stop,
        "MAX_TOKENS" => FinishReason::Length,
        "SAFETY"
        | "RECITATION"
        | "LANGUAGE"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "IMAGE_SAFETY"
        | "IMAGE_PROHIBITED_CONTENT"
        | "IMAGE_RECITATION"
        | "MODEL_ARMOR" => FinishReason::ContentFilter,
        other => {
            return Err(Error::new(
                ErrorKind::Upstream,
                format!(
                    "The backend broke the answer off with the reason {:?}; it is incomplete. Ask again.",
                    crate::json::shorten(other)
                ),
            ));
        }
    }))
}

fn logprobs(result: Option<&Value>) -> Vec<TokenLogprob> {
    let list = |value: Option<&Value>, name: &str| {
        value.and_then(|value| value.get(name)).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let text = |value: &Value| value.get("token").and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |value: &Value| {
        value.get("logProbability").and_then(Value::as_f64).unwrap_or(f64::NEG_INFINITY) as f32
    };
    let top = list(result, "topCandidates");
    list(result, "chosenCandidates")
        .iter()
        .enumerate()
        .map(|(i, chosen)| TokenLogprob {
            token: text(chosen),
            bytes: None,
            logprob: number(chosen),
            alternatives: list(top.get(i), "candidates")
                .iter()
                .map(|other| TokenAlternative { token: text(other), bytes: None, logprob: number(other) })
                .collect(),
        })
        .collect()
}
