//! Reads the body of generateContent.

use super::{parts, settings};
use crate::fields::{Fields, invalid_value};
use crate::json::parse_json;
use crate::openai::Limits;
use crate::{Dialect, Error, Message, Prompt, Request, Role};

/// Reads a request for `model`, which stands in the address as `stream` does. What the tree has no name for stays in
/// its `extra` fields.
///
/// # Errors
/// [`crate::ErrorKind::InvalidRequest`], with the field at fault as `param`.
pub fn decode_request(body: &[u8], model: &str, stream: bool, limits: &Limits) -> Result<Request, Error> {
    let mut fields = Fields::of(parse_json(body, limits.json)?, "")?;
    let mut messages = Vec::new();
    if let Some(system) = fields.either_object("systemInstruction", "system_instruction")? {
        messages.push(content(system, Some(Role::System))?);
    }
    let contents = fields.array("contents")?.ok_or_else(|| fields.missing("contents"))?;
    for (i, item) in contents.into_iter().enumerate() {
        messages.push(content(Fields::of(item, &format!("contents[{i}]"))?, None)?);
    }
    let mut request = Request::new(model, Prompt::Chat(messages));
    request.origin = Some(Dialect::Gemini);
    request.stream = stream;
    settings::decode(&mut fields, &mut request)?;
    settings::decode_tools(&mut fields, &mut request)?;
    request.extra = fields.rest();
    Ok(request)
}

fn content(mut fields: Fields, fixed: Option<Role>) -> Result<Message, Error> {
    let path = fields.path_of("role");
    let role = match (fixed, fields.string("role")?.as_deref()) {
        (Some(role), _) => role,
        (None, Some("user") | None) => Role::User,
        (None, Some("model")) => Role::Assistant,
        (None, Some("function")) => Role::Tool,
        (None, Some(_)) => return Err(invalid_value(&path, "must be user or model")),
    };
    let path = fields.path_of("parts");
    let items = fields.array("parts")?.unwrap_or_default();
    let content = items
        .into_iter()
        .enumerate()
        .map(|(i, item)| parts::decode(Fields::of(item, &format!("{path}[{i}]"))?))
        .collect::<Result<_, Error>>()?;
    Ok(Message { role, content, name: None, extra: fields.rest() })
}
