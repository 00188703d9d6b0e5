//! Writes the body for `/v1/messages`.

use serde_json::{Map, Value, json};

use super::blocks;
use crate::json::to_text;
use crate::openai::UpstreamOptions;
use crate::wire::{Setting, carry_extra, put, put_number, refuse_settings, typed, untranslatable};
use crate::{Dialect, Error, Message, OutputFormat, Part, Prompt, Request, Role, Tool, ToolChoice};

const TARGET: Dialect = Dialect::Anthropic;

/// The limit of tokens when the request sets none: this dialect demands one.
pub const DEFAULT_MAX_TOKENS: u32 = 8192;

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
            Setting::MinP,
            Setting::Penalties,
            Setting::LogitBias,
            Setting::Seed,
        ],
    )?;
    let mut body = Map::new();
    put(&mut body, "model", Some(options.model.as_str()));
    put(&mut body, "max_tokens", Some(request.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS)));
    let (system, turns) = split(messages, request.origin == Some(TARGET));
    put(&mut body, "system", encode_system(&system, request)?);
    body.insert("messages".to_owned(), Value::Array(encode_turns(&turns, request)?));
    encode_tools(&mut body, request)?;
    encode_reasoning(&mut body, request)?;
    put_number(&mut body, "temperature", request.sampling.temperature);
    put_number(&mut body, "top_p", request.sampling.top_p);
    put(&mut body, "top_k", request.sampling.top_k.filter(|top_k| *top_k > 0));
    put(&mut body, "stop_sequences", Some(request.stop.clone()).filter(|stops| !stops.is_empty()));
    let mut metadata = request.labels.metadata.clone().unwrap_or_default();
    put(&mut metadata, "user_id", request.labels.user.as_deref());
    put(&mut body, "metadata", Some(metadata).filter(|map| !map.is_empty()));
    put(&mut body, "stream", Some(options.stream));
    carry_extra(&mut body, &request.extra, request, TARGET)?;
    to_text(&body)
}

/// Instructions and turns. Of a request of this dialect only instructions at the beginning are a field of their own.
fn split(messages: &[Message], same: bool) -> (Vec<&Message>, Vec<&Message>) {
    let instructs = |message: &Message| matches!(message.role, Role::System | Role::Developer);
    if same {
        let leading = usize::from(messages.first().is_some_and(instructs));
        let (system, turns) = messages.split_at(leading);
        return (system.iter().collect(), turns.iter().collect());
    }
    messages.iter().partition(|message| instructs(message))
}

fn encode_system(system: &[&Message], request: &Request) -> Result<Option<Value>, Error> {
    let parts: Vec<Part> = system.iter().flat_map(|message| message.content.iter().cloned()).collect();
    match parts.as_slice() {
        [] => Ok(None),
        [only] if only.extra.is_empty() && only.as_text().is_some() => Ok(only.as_text().map(Value::from)),
        parts => Ok(Some(Value::Array(blocks::encode(parts, request)?))),
    }
}

/// Turns of the same side are joined, as the results of several calls must be, unless the request came in this
/// dialect.
fn encode_turns(turns: &[&Message], request: &Request) -> Result<Vec<Value>, Error> {
    let same = request.origin == Some(TARGET);
    let mut written: Vec<(&'static str, Vec<Value>, Map<String, Value>)> = Vec::new();
    for message in turns {
        let role = match message.role {
            Role::Assistant => "assistant",
            Role::User | Role::Tool => "user",
            Role::System | Role::Developer => "system",
        };
        let blocks = blocks::encode(&message.content, request)?;
        if blocks.is_empty() && !same {
            continue;
        }
        let mut extra = Map::new();
        carry_extra(&mut extra, &message.extra, request, TARGET)?;
        match written.last_mut() {
            Some((last, there, _)) if *last == role && !same => there.extend(blocks),
            _ => written.push((role, blocks, extra)),
        }
    }
    let turns = written.into_iter().map(|(role, blocks, extra)| {
        let mut map = Map::new();
        put(&mut map, "role", Some(role));
        map.insert("content".to_owned(), Value::Array(blocks));
        crate::wire::put_extra(&mut map, &extra);
        Value::Object(map)
    });
    Ok(turns.collect())
}

fn encode_tools(body: &mut Map<String, Value>, request: &Request) -> Result<(), Error> {
    let mut tools = Vec::new();
    for tool in &request.tools {
        tools.push(match tool {
            Tool::Function(function) => {
                let mut map = Map::new();
                put(&mut map, "name", Some(function.name.as_str()));
                put(&mut map, "description", function.description.as_deref());
                let schema = function.parameters.clone().unwrap_or_else(|| json!({"type": "object"}));
                put(&mut map, "input_schema", Some(schema));
                put(
                    &mut map,
                    "strict",
                    function.strict.filter(|strict| *strict || request.origin == Some(TARGET)),
                );
                carry_extra(&mut map, &function.extra, request, TARGET)?;
                Value::Object(map)
            }
            Tool::Other(value) if request.origin == Some(TARGET) => value.clone(),
            Tool::Other(_) => return Err(untranslatable("tools", TARGET)),
        });
    }
    let any = !tools.is_empty();
    put(body, "tools", Some(tools).filter(|tools| !tools.is_empty()));
    let mut choice = match &request.tool_choice {
        None if request.parallel_tools == Some(false) && any => typed("auto", "type", "auto"),
        None => return Ok(()),
        Some(ToolChoice::Auto) => typed("auto", "type", "auto"),
        Some(ToolChoice::None) => typed("none", "type", "none"),
        Some(ToolChoice::Required) => typed("any", "type", "any"),
        Some(ToolChoice::Named(name)) => typed("tool", "name", name.as_str()),
        Some(ToolChoice::Allowed { names, required: true }) if names.len() == 1 => {
            typed("tool", "name", names.concat())
        }
        Some(_) => return Err(untranslatable("tool_choice", TARGET)),
    };
    put(&mut choice, "disable_parallel_tool_use", request.parallel_tools.map(|parallel| !parallel));
    if any || request.origin == Some(TARGET) {
        body.insert("tool_choice".to_owned(), Value::Object(choice));
    }
    Ok(())
}

fn encode_reasoning(body: &mut Map<String, Value>, request: &Request) -> Result<(), Error> {
    let reasoning = &request.reasoning;
    let mut config = Map::new();
    if request.origin == Some(TARGET) {
        put(body, "thinking", reasoning.extra.get("thinking").cloned());
        put(&mut config, "effort", reasoning.effort.as_deref());
    } else {
        match reasoning.effort.as_deref() {
            Some("none") => put(body, "thinking", Some(json!({"type": "disabled"}))),
            Some(effort) => {
                put(body, "thinking", Some(json!({"type": "adaptive"})));
                put(&mut config, "effort", Some(if effort == "minimal" { "low" } else { effort }));
            }
            None => {}
        }
    }
    match reasoning.budget_tokens {
        Some(0) => put(body, "thinking", Some(json!({"type": "disabled"}))),
        Some(budget) => put(body, "thinking", Some(json!({"type": "enabled", "budget_tokens": budget}))),
        None => {}
    }
    match &request.format {
        None | Some(OutputFormat::Text) => {}
        Some(OutputFormat::JsonObject) => return Err(untranslatable("response_format", TARGET)),
        Some(OutputFormat::JsonSchema(schema)) => {
            let mut format = typed("json_schema", "schema", schema.schema.clone());
            carry_extra(&mut format, &schema.extra, request, TARGET)?;
            config.insert("format".to_owned(), Value::Object(format));
        }
    }
    if request.origin == Some(TARGET)
        && let Some(Value::Object(rest)) = request.extra.get("output_config")
    {
        crate::wire::put_extra(&mut config, rest);
    }
    put(body, "output_config", Some(config).filter(|config| !config.is_empty()));
    Ok(())
}
