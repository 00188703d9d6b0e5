//! How answers end, how many there are, and what is counted.

use nearfield_api::{FinishReason, Message, Request, Role};

use super::answer::answer;
use super::said::{chat, hello};
use super::{Held, Subject, ensure, same};
use crate::plays::HELLO;

/// A piece of the second token of the answer.
const STOP: &str = "wor";
const CHOICES: u32 = 3;

pub(super) fn limited(subject: &Subject) -> Request {
    Request { max_tokens: Some(1), ..hello(subject) }
}

pub(super) fn stopped(subject: &Subject) -> Request {
    Request { stop: vec!["never said".to_owned(), STOP.to_owned()], ..hello(subject) }
}

pub(super) fn several(subject: &Subject) -> Request {
    Request { choices: CHOICES, ..hello(subject) }
}

pub(super) fn with_logprobs(subject: &Subject) -> Request {
    Request { logprobs: Some(0), ..hello(subject) }
}

/// Long enough for a cache.
pub(super) fn cached(subject: &Subject) -> Request {
    let messages = vec![Message::new(Role::User, "the same words again and again ".repeat(10))];
    chat(subject, &subject.models.caching, messages)
}

pub(super) async fn limit(subject: &Subject) -> Held {
    let answer = answer(subject, limited(subject)).await?;
    let only = answer.only()?;
    same("the reason", only.reason, Some(FinishReason::Length))?;
    same("the text", only.text.as_str(), HELLO[0])?;
    same("the tokens", answer.usage().completion_tokens(), 1)
}

pub(super) async fn stop_text(subject: &Subject) -> Held {
    let answer = answer(subject, stopped(subject)).await?;
    let only = answer.only()?;
    same("the reason", only.reason, Some(FinishReason::Stop))?;
    let whole = Subject::hello();
    let before = whole.split(STOP).next().unwrap_or_default();
    same("the text", only.text.as_str(), before)
}

pub(super) async fn choices(subject: &Subject) -> Held {
    let one = answer(subject, hello(subject)).await?.usage();
    let answer = answer(subject, several(subject)).await?;
    for choice in &answer.choices {
        same("the text", choice.text.as_str(), &Subject::hello())?;
        same("the reason", choice.reason, Some(FinishReason::Stop))?;
    }
    let usage = answer.usage();
    let expected = (one.prompt_tokens(), one.completion_tokens() * u64::from(CHOICES));
    same("the counts", (usage.prompt_tokens(), usage.completion_tokens()), expected)
}

pub(super) async fn logprobs(subject: &Subject) -> Held {
    let answer = answer(subject, with_logprobs(subject)).await?;
    let only = answer.only()?;
    let tokens: String = only.logprobs.iter().map(|entry| entry.token.as_str()).collect();
    same("what the tokens make", tokens.as_str(), only.text.as_str())?;
    let sound = only.logprobs.iter().all(|entry| entry.logprob <= 0.0);
    ensure(sound, || format!("no probabilities: {:?}", only.logprobs))
}

/// The same prompt twice: the counts of it are the same in all, whatever part a cache spared.
pub(super) async fn cached_counts(subject: &Subject) -> Held {
    let first = answer(subject, cached(subject)).await?.usage();
    let second = answer(subject, cached(subject)).await?.usage();
    same("the prompt's tokens", second.prompt_tokens(), first.prompt_tokens())?;
    let sound = second.cached_input > 0 && second.cached_input < second.prompt_tokens();
    ensure(sound, || format!("nothing is told of the cache: {second:?}"))
}
