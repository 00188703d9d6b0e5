//! Writes the body for `/v1/responses`.

use serde_json::{Map, Value, json};

use super::{INSTRUCTIONS, items};
use crate::json::to_text;
use crate::openai::tools::{effort, encode_function, encode_schema};
use crate::openai::{UpstreamOptions, encode_labels};
use crate::wire::{Setting, carry_extra, put, put_extra, put_number, refuse_settings, untranslatable};
use crate::{Dialect, Error, OutputFormat, Prompt, Request, Tool, ToolChoice};

const TARGET: Dialect = Dialect::OpenAiResponses;

/// Writes a request. `options.stream` decides over streaming.
///
/// # Errors
/// [`crate::ErrorKind::InvalidRequest`] for what this dialect cannot say.
pub fn encode_request(request: &Request, options: &UpstreamOptions) -> Result<String, Error> {
    let Prompt::Chat(messages) = &request.prompt else { return Err(untranslatable("prompt", TARGET)) };
    refuse_settings(
        request,
        TARGET,
        &[
            Setting::Choices,
            Setting::Logprobs,
            Setting::TopK,
            Setting::MinP,
            Setting::Penalties,
            Setting::LogitBias,
            Setting::Seed,
            Setting::Stop,
        ],
    )?;
    let mut body = Map::new();
    put(&mut body, "model", Some(options.model.as_str()));
    let instructions = messages.iter().find(|message| message.extra.contains_key(INSTRUCTIONS));
    put(&mut body, INSTRUCTIONS, instructions.map(|message| message.text().into_owned()));
    body.insert("input".to_owned(), Value::Array(items::encode(messages, request)?));
    encode_tools(&mut body, request)?;
    encode_format(&mut body, request)?;
    encode_reasoning(&mut body, request);
    put(&mut body, "max_output_tokens", request.max_tokens);
    put_number(&mut body, "temperature", request.sampling.temperature);
    put_number(&mut body, "top_p", request.sampling.top_p);
    encode_labels(&mut body, &request.labels);
    put(&mut body, "stream", Some(options.stream));
    carry_extra(&mut body, &request.extra, request, TARGET)?;
    to_text(&body)
}

fn encode_tools(body: &mut Map<String, Value>, request: &Request) -> Result<(), Error> {
    let mut tools = Vec::new();
    for tool in &request.tools {
        tools.push(match tool {
            Tool::Function(function) => {
                let mut map = encode_function(function, request, TARGET)?;
                map.insert("type".to_owned(), json!("function"));
                if request.origin != Some(TARGET) && function.strict.is_none() {
                    // Here a schema is strict unless it says that it is not.
                    map.insert("strict".to_owned(), json!(false));
                }
                Value::Object(map)
            }
            Tool::Other(value) if request.origin == Some(TARGET) => value.clone(),
            Tool::Other(_) => return Err(untranslatable("tools", TARGET)),
        });
    }
    put(body, "tools", Some(tools).filter(|tools| !tools.is_empty()));
    let choice = match &request.tool_choice {
        None => None,
        Some(ToolChoice::Auto) => Some(json!("auto")),
        Some(ToolChoice::None) => Some(json!("none")),
        Some(ToolChoice::Required) => Some(json!("required")),
        Some(ToolChoice::Named(name)) => Some(json!({"type": "function", "name": name})),
        Some(ToolChoice::Allowed { names, required }) => {
            let tools: Vec<_> = names.iter().map(|name| json!({"type": "function", "name": name})).collect();
            let mode = if *required { "required" } else { "auto" };
            Some(json!({"type": "allowed_tools", "mode": mode, "tools": tools}))
        }
        Some(ToolChoice::Other(value)) if request.origin == Some(TARGET) => Some(value.clone()),
        Some(ToolChoice::Other(_)) => return Err(untranslatable("tool_choice", TARGET)),
    };
    put(body, "tool_choice", choice);
    put(body, "parallel_tool_calls", request.parallel_tools);
    Ok(())
}

fn encode_format(body: &mut Map<String, Value>, request: &Request) -> Result<(), Error> {
    let mut text = Map::new();
    let format = match &request.format {
        None => None,
        Some(OutputFormat::Text) => Some(json!({"type": "text"})),
        Some(OutputFormat::JsonObject) => Some(json!({"type": "json_object"})),
        Some(OutputFormat::JsonSchema(schema)) => {
            let mut map = encode_schema(schema, request, TARGET)?;
            map.insert("type".to_owned(), json!("json_schema"));
            Some(Value::Object(map))
        }
    };
    put(&mut text, "format", format);
    if request.origin == Some(TARGET)
        && let Some(Value::Object(rest)) = request.extra.get("text")
    {
        put_extra(&mut text, rest);
    }
    put(body, "text", Some(text).filter(|text| !text.is_empty()));
    Ok(())
}

fn encode_reasoning(body: &mut Map<String, Value>, request: &Request) {
    let mut reasoning = Map::new();
    put(&mut reasoning, "effort", effort(request));
    put(&mut reasoning, "summary", request.reasoning.summary.as_deref());
    if request.origin == Some(TARGET) {
        put_extra(&mut reasoning, &request.reasoning.extra);
    } else if !reasoning.is_empty() {
        // What was thought must be able to come back, since the provider keeps nothing.
        body.insert("include".to_owned(), json!(["reasoning.encrypted_content"]));
    }
    put(body, "reasoning", Some(reasoning).filter(|reasoning| !reasoning.is_empty()));
}
