//! Reads the body of `/v1/messages`.

use serde_json::Value;

use super::blocks;
use crate::fields::{Fields, Range, invalid_value};
use crate::json::parse_json;
use crate::openai::Limits;
use crate::{
    Dialect, Error, Extra, Function, JsonSchema, Labels, Message, OutputFormat, Prompt, ReasoningOptions,
    Request, Role, Sampling, Tool, ToolChoice,
};

const SHARE: Range = Range { low: 0.0, high: 1.0 };

/// Reads a request. What the tree has no name for stays in its `extra` fields.
///
/// # Errors
/// [`crate::ErrorKind::InvalidRequest`], with the field at fault as `param`.
pub fn decode_request(body: &[u8], limits: &Limits) -> Result<Request, Error> {
    let mut fields = Fields::of(parse_json(body, limits.json)?, "")?;
    let model = fields.required_string("model")?;
    let messages = messages(&mut fields)?;
    let mut request = Request::new(model, Prompt::Chat(messages));
    request.origin = Some(Dialect::Anthropic);
    request.tools = tools(&mut fields)?;
    tool_choice(&mut fields, &mut request)?;
    reasoning(&mut fields, &mut request)?;
    request.max_tokens = fields.count("max_tokens", 0)?;
    request.sampling = Sampling {
        temperature: fields.number("temperature", SHARE)?,
        top_p: fields.number("top_p", SHARE)?,
        top_k: fields.count("top_k", 0)?,
        ..Sampling::default()
    };
    for stop in fields.array("stop_sequences")?.unwrap_or_default() {
        match stop {
            Value::String(stop) => request.stop.push(stop),
            _ => return Err(invalid_value("stop_sequences", "must hold strings")),
        }
    }
    request.stream = fields.bool("stream")?.unwrap_or(false);
    request.labels = labels(&mut fields)?;
    request.extra = fields.rest();
    Ok(request)
}

fn messages(fields: &mut Fields) -> Result<Vec<Message>, Error> {
    let mut messages = Vec::new();
    if let Some(system) = fields.take("system") {
        let parts = blocks::decode(system, "system")?;
        messages.push(Message::of(Role::System, parts));
    }
    let items = fields.array("messages")?.ok_or_else(|| fields.missing("messages"))?;
    for (i, item) in items.into_iter().enumerate() {
        let mut message = Fields::of(item, &format!("messages[{i}]"))?;
        let role = match message.required_string("role")?.as_str() {
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "system" => Role::System,
            _ => return Err(invalid_value(&message.path_of("role"), "must be user, assistant or system")),
        };
        let path = message.path_of("content");
        let content = blocks::decode(message.required("content")?, &path)?;
        messages.push(Message { role, content, name: None, extra: message.rest() });
    }
    Ok(messages)
}

fn tools(fields: &mut Fields) -> Result<Vec<Tool>, Error> {
    let items = fields.array("tools")?.unwrap_or_default();
    items
        .into_iter()
        .enumerate()
        .map(|(i, item)| {
            let mut tool = Fields::of(item, &format!("tools[{i}]"))?;
            if tool.peek("type").is_some_and(|kind| kind != "custom") {
                return Ok(Tool::Other(tool.into_value()));
            }
            Ok(Tool::Function(Function {
                name: tool.required_string("name")?,
                description: tool.string("description")?,
                parameters: tool.take("input_schema"),
                strict: tool.bool("strict")?,
                extra: tool.rest(),
            }))
        })
        .collect()
}

fn tool_choice(fields: &mut Fields, request: &mut Request) -> Result<(), Error> {
    let Some(mut choice) = fields.object("tool_choice")? else { return Ok(()) };
    request.parallel_tools = choice.bool("disable_parallel_tool_use")?.map(|disabled| !disabled);
    let kind = choice.required_string("type")?;
    request.tool_choice = Some(match kind.as_str() {
        "auto" => ToolChoice::Auto,
        "any" => ToolChoice::Required,
        "none" => ToolChoice::None,
        "tool" => ToolChoice::Named(choice.required_string("name")?),
        _ => return Err(invalid_value("tool_choice.type", "must be auto, any, tool or none")),
    });
    choice.finish()
}

fn reasoning(fields: &mut Fields, request: &mut Request) -> Result<(), Error> {
    let mut options = ReasoningOptions::default();
    if let Some(thinking) = fields.take("thinking") {
        let budget =
            thinking.get("budget_tokens").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        let size = thinking.as_object().map_or(0, Extra::len);
        match (thinking.get("type").and_then(Value::as_str), budget) {
            (Some("enabled"), Some(budget)) if size == 2 && budget > 0 => {
                options.budget_tokens = Some(budget);
            }
            (Some("disabled"), None) if size == 1 => options.budget_tokens = Some(0),
            _ => {
                options.extra.insert("thinking".to_owned(), thinking);
            }
        }
    }
    if let Some(mut config) = fields.object("output_config")? {
        options.effort = config.string("effort")?;
        if let Some(mut format) = config.object("format")? {
            format.take("type");
            let schema = format.take("schema").unwrap_or_default();
            request.format = Some(OutputFormat::JsonSchema(JsonSchema {
                schema,
                extra: format.rest(),
                ..JsonSchema::default()
            }));
        }
        let rest = config.rest();
        if !rest.is_empty() {
            fields.put_back("output_config", Value::Object(rest));
        }
    }
    request.reasoning = options;
    Ok(())
}

fn labels(fields: &mut Fields) -> Result<Labels, Error> {
    let Some(mut metadata) = fields.object("metadata")? else { return Ok(Labels::default()) };
    let user = metadata.string("user_id")?;
    let rest = metadata.rest();
    Ok(Labels { user, metadata: (!rest.is_empty()).then_some(rest), ..Labels::default() })
}
