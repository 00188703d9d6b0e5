//! Writes the body for generateContent.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{parts, settings};
use crate::json::to_text;
use crate::openai::UpstreamOptions;
use crate::wire::{Setting, carry_extra, put_extra, refuse_settings, untranslatable};
use crate::{Dialect, Error, Message, Prompt, Request, Role};

const TARGET: Dialect = Dialect::Gemini;

/// Writes a request. The model and whether to stream belong into the address: [`super::route`].
///
/// # Errors
/// [`crate::ErrorKind::InvalidRequest`] for what this dialect cannot say.
pub fn encode_request(request: &Request, options: &UpstreamOptions) -> Result<String, Error> {
    let Prompt::Chat(messages) = &request.prompt else { return Err(untranslatable("prompt", TARGET)) };
    refuse_settings(request, TARGET, &[Setting::MinP, Setting::RepetitionPenalty, Setting::LogitBias])?;
    let mut body = Map::new();
    body.insert("contents".to_owned(), Value::Array(contents(messages, request)?));
    system(&mut body, messages, request)?;
    settings::encode_tools(&mut body, request)?;
    settings::encode(&mut body, request, &options.model)?;
    // Labels that name a person have no place here.
    carry_extra(&mut body, &request.extra, request, TARGET)?;
    to_text(&body)
}

fn instructs(message: &Message) -> bool {
    matches!(message.role, Role::System | Role::Developer)
}

fn system(body: &mut Map<String, Value>, messages: &[Message], request: &Request) -> Result<(), Error> {
    let mut instruction = Map::new();
    let mut written = Vec::new();
    for message in messages.iter().filter(|message| instructs(message)) {
        written.extend(parts::encode(&message.content, &mut BTreeMap::new(), request)?);
        carry_extra(&mut instruction, &message.extra, request, TARGET)?;
    }
    if !written.is_empty() {
        instruction.insert("parts".to_owned(), Value::Array(written));
        body.insert("systemInstruction".to_owned(), Value::Object(instruction));
    }
    Ok(())
}

/// Turns of the same side are joined, as the results of several calls must be, unless the request came in this
/// dialect.
fn contents(messages: &[Message], request: &Request) -> Result<Vec<Value>, Error> {
    let same = request.origin == Some(TARGET);
    let mut names = BTreeMap::new();
    let mut written: Vec<(&'static str, Vec<Value>, Map<String, Value>)> = Vec::new();
    for message in messages.iter().filter(|message| !instructs(message)) {
        let role = if message.role == Role::Assistant { "model" } else { "user" };
        let parts = parts::encode(&message.content, &mut names, request)?;
        if parts.is_empty() && !same {
            continue;
        }
        let mut extra = Map::new();
        carry_extra(&mut extra, &message.extra, request, TARGET)?;
        match written.last_mut() {
            Some((last, there, _)) if *last == role && !same => there.extend(parts),
            _ => written.push((role, parts, extra)),
        }
    }
    let turns = written.into_iter().map(|(role, parts, extra)| {
        let mut map = Map::from_iter([("role".to_owned(), json!(role)), ("parts".to_owned(), json!(parts))]);
        put_extra(&mut map, &extra);
        Value::Object(map)
    });
    Ok(turns.collect())
}
