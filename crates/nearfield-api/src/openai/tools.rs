//! Tools, the choice among them and the answer's form: read and written.

use serde_json::{Map, Value, json};

use crate::fields::{Fields, invalid_value, wrong_type};
use crate::wire::{carry_extra, put, untranslatable};
use crate::{Dialect, Error, Function, JsonSchema, OutputFormat, Request, Tool, ToolChoice};

const TARGET: Dialect = Dialect::OpenAiChat;

pub(super) fn decode(fields: &mut Fields) -> Result<Vec<Tool>, Error> {
    let items = fields.array("tools")?.unwrap_or_default();
    items
        .into_iter()
        .enumerate()
        .map(|(i, item)| {
            let mut tool = Fields::of(item, &format!("tools[{i}]"))?;
            if tool.peek("type") != Some("function") {
                return Ok(Tool::Other(tool.into_value()));
            }
            let function = tool.object("function")?.ok_or_else(|| tool.missing("function"))?;
            Ok(Tool::Function(function_definition(function)?))
        })
        .collect()
}

/// A function's definition from an object of this dialect's names.
pub(crate) fn function_definition(mut fields: Fields) -> Result<Function, Error> {
    Ok(Function {
        name: fields.required_string("name")?,
        description: fields.string("description")?,
        parameters: fields.take("parameters"),
        strict: fields.bool("strict")?,
        extra: fields.rest(),
    })
}

pub(super) fn decode_choice(fields: &mut Fields) -> Result<Option<ToolChoice>, Error> {
    let choice = match fields.take("tool_choice") {
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
        Some(value @ Value::Object(_)) => {
            let name = value.pointer("/function/name").and_then(Value::as_str);
            match name {
                Some(name) => ToolChoice::Named(name.to_owned()),
                None => ToolChoice::Other(value),
            }
        }
        Some(other) => return Err(wrong_type("tool_choice", "a string or an object", &other)),
    };
    Ok(Some(choice))
}

pub(super) fn decode_format(fields: &mut Fields) -> Result<Option<OutputFormat>, Error> {
    let Some(mut format) = fields.object("response_format")? else { return Ok(None) };
    let kind = format.required_string("type")?;
    let decoded = match kind.as_str() {
        "text" => OutputFormat::Text,
        "json_object" => OutputFormat::JsonObject,
        "json_schema" => {
            let schema = format.object("json_schema")?.ok_or_else(|| format.missing("json_schema"))?;
            OutputFormat::JsonSchema(json_schema(schema)?)
        }
        _ => {
            let path = "response_format.type";
            return Err(invalid_value(path, "must be \"text\", \"json_object\" or \"json_schema\""));
        }
    };
    format.finish()?;
    Ok(Some(decoded))
}

/// A schema from an object of this dialect's names.
pub(crate) fn json_schema(mut fields: Fields) -> Result<JsonSchema, Error> {
    Ok(JsonSchema {
        name: fields.string("name")?,
        description: fields.string("description")?,
        schema: fields.take("schema").unwrap_or_default(),
        strict: fields.bool("strict")?,
        extra: fields.rest(),
    })
}

/// A function's definition in this dialect's names.
pub(crate) fn encode_function(
    function: &Function,
    request: &Request,
    target: Dialect,
) -> Result<Map<String, Value>, Error> {
    let mut map = Map::new();
    put(&mut map, "name", Some(function.name.as_str()));
    put(&mut map, "description", function.description.as_deref());
    put(&mut map, "parameters", function.parameters.clone());
    put(&mut map, "strict", function.strict);
    carry_extra(&mut map, &function.extra, request, target)?;
    Ok(map)
}

/// A schema in this dialect's names. A name is required there.
pub(crate) fn encode_schema(
    schema: &JsonSchema,
    request: &Request,
    target: Dialect,
) -> Result<Map<String, Value>, Error> {
    let mut map = Map::new();
    put(&mut map, "name", Some(schema.name.as_deref().unwrap_or("answer")));
    put(&mut map, "description", schema.description.as_deref());
    put(&mut map, "schema", Some(schema.schema.clone()).filter(|schema| !schema.is_null()));
    put(&mut map, "strict", schema.strict);
    carry_extra(&mut map, &schema.extra, request, target)?;
    Ok(map)
}

pub(super) fn encode(body: &mut Map<String, Value>, request: &Request) -> Result<(), Error> {
    if !request.tools.is_empty() {
        let tools = request.tools.iter().map(|tool| match tool {
            Tool::Function(function) => {
                Ok(json!({"type": "function", "function": encode_function(function, request, TARGET)?}))
            }
            Tool::Other(value) if request.origin == Some(TARGET) => Ok(value.clone()),
            Tool::Other(_) => Err(untranslatable("tools", TARGET)),
        });
        body.insert("tools".to_owned(), Value::Array(tools.collect::<Result<_, Error>>()?));
    }
    if let Some(choice) = &request.tool_choice {
        body.insert("tool_choice".to_owned(), encode_choice(choice, request)?);
    }
    put(body, "parallel_tool_calls", request.parallel_tools.filter(|_| !request.tools.is_empty()));
    if let Some(format) = &request.format {
        let format = match format {
            OutputFormat::Text => json!({"type": "text"}),
            OutputFormat::JsonObject => json!({"type": "json_object"}),
            OutputFormat::JsonSchema(schema) => {
                json!({"type": "json_schema", "json_schema": encode_schema(schema, request, TARGET)?})
            }
        };
        body.insert("response_format".to_owned(), format);
    }
    put(body, "reasoning_effort", effort(request));
    Ok(())
}

/// The effort, or the one that comes near a budget of tokens.
pub(crate) fn effort(request: &Request) -> Option<&str> {
    let reasoning = &request.reasoning;
    reasoning.effort.as_deref().or_else(|| {
        reasoning.budget_tokens.map(|budget| match budget {
            0 => "none",
            1..=2048 => "low",
            2049..=12_288 => "medium",
            _ => "high",
        })
    })
}

fn encode_choice(choice: &ToolChoice, request: &Request) -> Result<Value, Error> {
    Ok(match choice {
        ToolChoice::Auto => json!("auto"),
        ToolChoice::None => json!("none"),
        ToolChoice::Required => json!("required"),
        ToolChoice::Named(name) => json!({"type": "function", "function": {"name": name}}),
        ToolChoice::Allowed { names, required } => {
            let tools: Vec<_> =
                names.iter().map(|name| json!({"type": "function", "function": {"name": name}})).collect();
            let mode = if *required { "required" } else { "auto" };
            json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}})
        }
        ToolChoice::Other(value) if request.origin == Some(TARGET) => value.clone(),
        ToolChoice::Other(_) => return Err(untranslatable("tool_choice", TARGET)),
    })
}
