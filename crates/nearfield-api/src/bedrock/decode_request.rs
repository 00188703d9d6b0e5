//! Reads the body of Converse.

use serde_json::Value;

use super::blocks;
use crate::fields::{Fields, Range, invalid_value};
use crate::json::parse_json;
use crate::openai::Limits;
use crate::{
    Dialect, Error, Function, JsonSchema, Labels, Message, OutputFormat, Prompt, Request, Role, Sampling,
    Tool, ToolChoice,
};

const SHARE: Range = Range { low: 0.0, high: 1.0 };

/// Reads a request for `model`, which stands in the address as `stream` does. What the tree has no name for stays in
/// its `extra` fields.
///
/// # Errors
/// [`crate::ErrorKind::InvalidRequest`], with the field at fault as `param`.
pub fn decode_request(body: &[u8], model: &str, stream: bool, limits: &Limits) -> Result<Request, Error> {
    let mut fields = Fields::of(parse_json(body, limits.json)?, "")?;
    let mut messages = Vec::new();
    if let Some(system) = fields.array("system")? {
        messages.push(Message::of(Role::System, blocks::decode_all(system, "system")?));
    }
    for (i, item) in fields.array("messages")?.unwrap_or_default().into_iter().enumerate() {
        let mut message = Fields::of(item, &format!("messages[{i}]"))?;
        let path = message.path_of("role");
        let role = match message.required_string("role")?.as_str() {
            "user" => Role::User,
            "assistant" => Role::Assistant,
            _ => return Err(invalid_value(&path, "must be user or assistant")),
        };
        let path = message.path_of("content");
        let content = blocks::decode_all(message.array("content")?.unwrap_or_default(), &path)?;
        messages.push(Message { role, content, name: None, extra: message.rest() });
    }
    let mut request = Request::new(model, Prompt::Chat(messages));
    request.origin = Some(Dialect::Bedrock);
    request.stream = stream;
    settings(&mut fields, &mut request)?;
    tools(&mut fields, &mut request)?;
    format(&mut fields, &mut request)?;
    if let Some(metadata) = fields.object("requestMetadata")? {
        request.labels = Labels { metadata: Some(metadata.rest()), ..Labels::default() };
    }
    request.extra = fields.rest();
    Ok(request)
}

fn settings(fields: &mut Fields, request: &mut Request) -> Result<(), Error> {
    let Some(mut config) = fields.object("inferenceConfig")? else { return Ok(()) };
    request.max_tokens = config.count("maxTokens", 1)?;
    request.sampling = Sampling {
        temperature: config.number("temperature", SHARE)?,
        top_p: config.number("topP", SHARE)?,
        ..Sampling::default()
    };
    for stop in config.array("stopSequences")?.unwrap_or_default() {
        match stop {
            Value::String(stop) => request.stop.push(stop),
            _ => return Err(invalid_value("inferenceConfig.stopSequences", "must hold strings")),
        }
    }
    let rest = config.rest();
    if !rest.is_empty() {
        fields.put_back("inferenceConfig", Value::Object(rest));
    }
    Ok(())
}

fn tools(fields: &mut Fields, request: &mut Request) -> Result<(), Error> {
    let Some(mut config) = fields.object("toolConfig")? else { return Ok(()) };
    for (i, item) in config.array("tools")?.unwrap_or_default().into_iter().enumerate() {
        let mut tool = Fields::of(item, &format!("toolConfig.tools[{i}]"))?;
        let Some(mut function) = tool.object("toolSpec")? else {
            request.tools.push(Tool::Other(tool.into_value()));
            continue;
        };
        let mut schema = function.object("inputSchema")?;
        request.tools.push(Tool::Function(Function {
            name: function.required_string("name")?,
            description: function.string("description")?,
            parameters: schema.as_mut().and_then(|schema| schema.take("json")),
            strict: function.bool("strict")?,
            extra: function.rest(),
        }));
    }
    if let Some(mut choice) = config.object("toolChoice")? {
        request.tool_choice = Some(if choice.has("auto") {
            ToolChoice::Auto
        } else if choice.has("any") {
            ToolChoice::Required
        } else if let Some(mut tool) = choice.object("tool")? {
            ToolChoice::Named(tool.required_string("name")?)
        } else {
            return Err(invalid_value("toolConfig.toolChoice", "must be auto, any or tool"));
        });
    }
    config.finish()
}

fn format(fields: &mut Fields, request: &mut Request) -> Result<(), Error> {
    let Some(mut config) = fields.object("outputConfig")? else { return Ok(()) };
    if let Some(mut format) = config.object("textFormat")? {
        let mut schema = match format.object("structure")? {
            Some(mut structure) => structure.object("jsonSchema")?,
            None => None,
        };
        let schema = schema.as_mut().ok_or_else(|| format.missing("structure.jsonSchema"))?;
        let text = schema.required_string("schema")?;
        let tree = serde_json::from_str(&text)
            .map_err(|_| invalid_value("outputConfig.textFormat", "must hold a schema as JSON text"))?;
        request.format = Some(OutputFormat::JsonSchema(JsonSchema {
            name: schema.string("name")?,
            description: schema.string("description")?,
            schema: tree,
            ..JsonSchema::default()
        }));
    }
    let rest = config.rest();
    if !rest.is_empty() {
        fields.put_back("outputConfig", Value::Object(rest));
    }
    Ok(())
}
