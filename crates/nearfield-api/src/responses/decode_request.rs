//! Reads the body of `/v1/responses`.

use serde_json::{Value, json};

use super::{INSTRUCTIONS, items};
use crate::fields::{Fields, Range, invalid_value, wrong_type};
use crate::json::parse_json;
use crate::openai::Limits;
use crate::openai::tools::{function_definition, json_schema};
use crate::{
    Dialect, Error, Labels, Message, OutputFormat, Prompt, ReasoningOptions, Request, Role, Sampling, Tool,
    ToolChoice,
};

/// Reads a request. What the tree has no name for stays in its `extra` fields.
///
/// # Errors
/// [`crate::ErrorKind::InvalidRequest`], with the field at fault as `param`.
pub fn decode_request(body: &[u8], limits: &Limits) -> Result<Request, Error> {
    let mut fields = Fields::of(parse_json(body, limits.json)?, "")?;
    let model = fields.required_string("model")?;
    let mut messages = Vec::new();
    if let Some(text) = fields.string(INSTRUCTIONS)? {
        let mut message = Message::new(Role::System, text);
        message.extra.insert(INSTRUCTIONS.to_owned(), json!(true));
        messages.push(message);
    }
    if let Some(input) = fields.take("input") {
        messages.extend(items::decode(input)?);
    }
    let mut request = Request::new(model, Prompt::Chat(messages));
    request.origin = Some(Dialect::OpenAiResponses);
    request.tools = tools(&mut fields)?;
    request.tool_choice = tool_choice(&mut fields)?;
    request.parallel_tools = fields.bool("parallel_tool_calls")?;
    request.format = format(&mut fields)?;
    if let Some(mut reasoning) = fields.object("reasoning")? {
        request.reasoning = ReasoningOptions {
            effort: reasoning.string("effort")?,
            budget_tokens: None,
            summary: reasoning.string("summary")?,
            extra: reasoning.rest(),
        };
    }
    request.sampling = Sampling {
        temperature: fields.number("temperature", Range { low: 0.0, high: 2.0 })?,
        top_p: fields.number("top_p", Range { low: 0.0, high: 1.0 })?,
        ..Sampling::default()
    };
    request.max_tokens = fields.count("max_output_tokens", 1)?;
    request.stream = fields.bool("stream")?.unwrap_or(false);
    request.labels = Labels {
        user: fields.string("user")?,
        safety_identifier: fields.string("safety_identifier")?,
        prompt_cache_key: fields.string("prompt_cache_key")?,
        metadata: fields.object("metadata")?.map(Fields::rest),
        store: fields.bool("store")?,
    };
    request.extra = fields.rest();
    Ok(request)
}

fn tools(fields: &mut Fields) -> Result<Vec<Tool>, Error> {
    let items = fields.array("tools")?.unwrap_or_default();
    items
        .into_iter()
        .enumerate()
        .map(|(i, item)| {
            let mut tool = Fields::of(item, &format!("tools[{i}]"))?;
            if tool.peek("type") != Some("function") {
                return Ok(Tool::Other(tool.into_value()));
            }
            tool.take("type");
            Ok(Tool::Function(function_definition(tool)?))
        })
        .collect()
}

fn tool_choice(fields: &mut Fields) -> Result<Option<ToolChoice>, Error> {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    Ok(Some(match fields.take("tool_choice") {
        None => return Ok(None),
        Some(Value::String(word)) => match word.as_str() {
            "auto" => ToolChoice::Auto,
            "none" => ToolChoice::None,
            "required" => ToolChoice::Required,
            _ => {
                return Err(invalid_value(
                    "tool_choice",
                    "must be \"auto\", \"none\", \"required\" or an object",
                ));
            }
        },
        Some(value @ Value::Object(_)) => match (text(&value, "type").as_deref(), text(&value, "name")) {
            (Some("function"), Some(name)) => ToolChoice::Named(name),
            _ => ToolChoice::Other(value),
        },
        Some(other) => return Err(wrong_type("tool_choice", "a string or an object", &other)),
    }))
}

fn format(fields: &mut Fields) -> Result<Option<OutputFormat>, Error> {
    let Some(mut text) = fields.object("text")? else { return Ok(None) };
    let format = match text.object("format")? {
        None => None,
        Some(mut format) => match format.required_string("type")?.as_str() {
            "text" => Some(OutputFormat::Text),
            "json_object" => Some(OutputFormat::JsonObject),
            "json_schema" => Some(OutputFormat::JsonSchema(json_schema(format)?)),
            _ => {
                let path = "text.format.type";
                return Err(invalid_value(path, "must be \"text\", \"json_object\" or \"json_schema\""));
            }
        },
    };
    let rest = text.rest();
    if !rest.is_empty() {
        fields.put_back("text", Value::Object(rest));
    }
    Ok(format)
}
