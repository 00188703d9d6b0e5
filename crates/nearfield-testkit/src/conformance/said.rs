//! What is said to plain questions, to pictures and in a form, and what is thought.

use nearfield_api::{
    Content, FinishReason, JsonSchema, Media, MediaSource, Message, OutputFormat, Part, Prompt, Request, Role,
};
use serde_json::{Value, json};

use super::answer::{Answer, answer};
use super::{Held, Subject, ensure, same};
use crate::plays::{AFTER_THOUGHT, CAT, THOUGHT};

/// A chat with a model.
pub(super) fn chat(subject: &Subject, model: &str, messages: Vec<Message>) -> Request {
    Request { max_tokens: Some(64), stream: subject.streams, ..Request::new(model, Prompt::Chat(messages)) }
}

/// A plain question to a model.
pub(super) fn hello_of(subject: &Subject, model: &str) -> Request {
    let messages = vec![Message::new(Role::System, "Be brief."), Message::new(Role::User, "hello")];
    chat(subject, model, messages)
}

pub(super) fn hello(subject: &Subject) -> Request {
    hello_of(subject, &subject.models.plain)
}

pub(super) fn completion(subject: &Subject) -> Request {
    Request { prompt: Prompt::Text { text: "abc".to_owned(), suffix: None }, ..hello(subject) }
}

pub(super) fn form(subject: &Subject) -> Request {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let schema = JsonSchema { name: Some("place".to_owned()), schema, ..JsonSchema::default() };
    Request { format: Some(OutputFormat::JsonSchema(schema)), ..hello(subject) }
}

pub(super) fn picture(subject: &Subject) -> Request {
    let image = Media {
        source: MediaSource::Inline("iVBORw0KGgo=".to_owned()),
        media_type: Some("image/png".to_owned()),
        name: None,
    };
    let parts = vec![Part::text("what?"), Content::Image(image).into()];
    chat(subject, &subject.models.plain, vec![Message::of(Role::User, parts)])
}

pub(super) fn think(subject: &Subject) -> Request {
    let mut request = hello_of(subject, &subject.models.thinking);
    request.reasoning.effort = Some("low".to_owned());
    request
}

/// An answer that is this text and ends by itself.
pub(super) async fn says(subject: &Subject, request: Request, text: &str) -> Held {
    is_text(&answer(subject, request).await?, text)
}

fn is_text(answer: &Answer, text: &str) -> Held {
    let only = answer.only()?;
    same("the text", only.text.as_str(), text)?;
    same("the reason", only.reason, Some(FinishReason::Stop))?;
    let quiet = only.calls.is_empty() && only.refusal.is_empty();
    ensure(quiet, || format!("it has more than text: {only:?}"))
}

pub(super) async fn text(subject: &Subject) -> Held {
    let answer = answer(subject, hello(subject)).await?;
    is_text(&answer, &Subject::hello())?;
    let only = answer.only()?;
    ensure(only.thought.is_empty(), || format!("it thinks unasked: {:?}", only.thought))?;
    if subject.streams {
        ensure(only.pieces > 1, || "the text came in one piece".to_owned())?;
    }
    let usage = answer.usage();
    let counts = (usage.prompt_tokens(), usage.completion_tokens());
    ensure(counts.0 > 0 && counts.1 > 0, || format!("nothing was counted: {usage:?}"))?;
    same("the counts", counts, subject.tokens.unwrap_or(counts))
}

pub(super) async fn formed(subject: &Subject) -> Held {
    let answer = answer(subject, form(subject)).await?;
    let value: Value =
        serde_json::from_str(&answer.only()?.text).map_err(|error| format!("no JSON: {error}"))?;
    same("the answer", value, json!({"city": "Paris"}))
}

pub(super) async fn seen(subject: &Subject) -> Held {
    says(subject, picture(subject), &CAT.concat()).await
}

pub(super) async fn thought(subject: &Subject) -> Held {
    let answer = answer(subject, think(subject)).await?;
    same("the thought", answer.only()?.thought.as_str(), THOUGHT)?;
    is_text(&answer, AFTER_THOUGHT)
}

pub(super) async fn thought_counts(subject: &Subject) -> Held {
    let usage = answer(subject, think(subject)).await?.usage();
    let sound = usage.reasoning > 0 && usage.output > 0;
    ensure(sound, || format!("thought and answer are not told apart: {usage:?}"))
}

/// The fakes refuse a signature that is not theirs, as providers do. That it is there at all is seen on the wire.
pub(super) async fn thought_returns(subject: &Subject) -> Held {
    let mut request = think(subject);
    let answer = answer(subject, request.clone()).await?;
    let message = answer.only()?.message();
    let is_signed =
        |part: &Part| matches!(&part.content, Content::Reasoning(reasoning) if reasoning.opaque.is_some());
    ensure(message.content.iter().any(is_signed), || "the thought is not signed".to_owned())?;
    if let Prompt::Chat(messages) = &mut request.prompt {
        messages.extend([message, Message::new(Role::User, "and?")]);
    }
    says(subject, request, AFTER_THOUGHT).await
}

pub(super) async fn refusal(subject: &Subject) -> Held {
    let answer = answer(subject, hello_of(subject, &subject.models.refusing)).await?;
    let only = answer.only()?;
    let told = matches!(only.reason, Some(FinishReason::Refusal | FinishReason::ContentFilter));
    ensure(told || !only.refusal.is_empty(), || format!("it looks like an answer: {only:?}"))
}
