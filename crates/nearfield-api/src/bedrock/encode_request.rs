//! Writes the body for Converse.

use serde_json::{Map, Value, json};

use super::blocks;
use crate::json::to_text;
use crate::openai::UpstreamOptions;
use crate::wire::{Setting, carry_extra, put, put_extra, put_number, refuse_settings, untranslatable};
use crate::{Dialect, Error, Message, OutputFormat, Prompt, Request, Role, Tool, ToolChoice};

const TARGET: Dialect = Dialect::Bedrock;

/// Writes a request. The model and whether to stream belong into the address: [`super::route`].
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
    body.insert("messages".to_owned(), Value::Array(encode_turns(messages, request)?));
    let mut system = Vec::new();
    for message in messages.iter().filter(|message| instructs(message)) {
        system.extend(blocks::encode(&message.content, request)?);
    }
    put(&mut body, "system", Some(system).filter(|system| !system.is_empty()));
    put(&mut body, "inferenceConfig", Some(settings(request)).filter(|config| !config.is_empty()));
    encode_tools(&mut body, request)?;
    encode_format(&mut body, request)?;
    let more = additional(request, &options.model)?;
    put(&mut body, "additionalModelRequestFields", Some(more).filter(|more| !more.is_empty()));
    put(&mut body, "requestMetadata", request.labels.metadata.clone());
    carry_extra(&mut body, &request.extra, request, TARGET)?;
    to_text(&body)
}

fn instructs(message: &Message) -> bool {
    matches!(message.role, Role::System | Role::Developer)
}

/// Turns of the same side are joined, as the results of several calls must be, unless the request came in this
/// dialect.
fn encode_turns(messages: &[Message], request: &Request) -> Result<Vec<Value>, Error> {
    let same = request.origin == Some(TARGET);
    let mut written: Vec<(&'static str, Vec<Value>, Map<String, Value>)> = Vec::new();
    for message in messages.iter().filter(|message| !instructs(message)) {
        let role = if message.role == Role::Assistant { "assistant" } else { "user" };
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
        let mut map =
            Map::from_iter([("role".to_owned(), json!(role)), ("content".to_owned(), json!(blocks))]);
        put_extra(&mut map, &extra);
        Value::Object(map)
    });
    Ok(turns.collect())
}

fn settings(request: &Request) -> Map<String, Value> {
    let mut config = Map::new();
    put(&mut config, "maxTokens", request.max_tokens);
    put_number(&mut config, "temperature", request.sampling.temperature);
    put_number(&mut config, "topP", request.sampling.top_p);
    put(&mut config, "stopSequences", Some(request.stop.clone()).filter(|stops| !stops.is_empty()));
    if request.origin == Some(TARGET)
        && let Some(Value::Object(rest)) = request.extra.get("inferenceConfig")
    {
        put_extra(&mut config, rest);
    }
    config
}

fn encode_tools(body: &mut Map<String, Value>, request: &Request) -> Result<(), Error> {
    if request.tools.is_empty()
        || (request.tool_choice == Some(ToolChoice::None) && request.origin != Some(TARGET))
    {
        // There is no word for "none": tools that must not be called are left out.
        return Ok(());
    }
    let mut tools = Vec::new();
    for tool in &request.tools {
        tools.push(match tool {
            Tool::Function(function) => {
                let mut map = Map::new();
                put(&mut map, "name", Some(function.name.as_str()));
                put(&mut map, "description", function.description.as_deref());
                let schema = function.parameters.clone().unwrap_or_else(|| json!({"type": "object"}));
                map.insert("inputSchema".to_owned(), json!({"json": schema}));
                put(
                    &mut map,
                    "strict",
                    function.strict.filter(|strict| *strict || request.origin == Some(TARGET)),
                );
                carry_extra(&mut map, &function.extra, request, TARGET)?;
                json!({"toolSpec": map})
            }
            Tool::Other(value) if request.origin == Some(TARGET) => value.clone(),
            Tool::Other(_) => return Err(untranslatable("tools", TARGET)),
        });
    }
    if request.parallel_tools == Some(false) {
        return Err(untranslatable("parallel_tool_calls", TARGET));
    }
    let mut config = Map::from_iter([("tools".to_owned(), Value::Array(tools))]);
    let choice = match &request.tool_choice {
        None | Some(ToolChoice::None) => None,
        Some(ToolChoice::Auto) => Some(json!({"auto": {}})),
        Some(ToolChoice::Required) => Some(json!({"any": {}})),
        Some(ToolChoice::Named(name)) => Some(json!({"tool": {"name": name}})),
        Some(_) => return Err(untranslatable("tool_choice", TARGET)),
    };
    put(&mut config, "toolChoice", choice);
    body.insert("toolConfig".to_owned(), Value::Object(config));
    Ok(())
}

fn encode_format(body: &mut Map<String, Value>, request: &Request) -> Result<(), Error> {
    match &request.format {
        None | Some(OutputFormat::Text) => Ok(()),
        Some(OutputFormat::JsonObject) => Err(untranslatable("response_format", TARGET)),
        Some(OutputFormat::JsonSchema(schema)) => {
            let mut inner = Map::new();
            put(&mut inner, "schema", Some(schema.schema.to_string()));
            put(&mut inner, "name", schema.name.as_deref());
            put(&mut inner, "description", schema.description.as_deref());
            let format = json!({"type": "json_schema", "structure": {"jsonSchema": inner}});
            body.insert("outputConfig".to_owned(), json!({"textFormat": format}));
            crate::wire::refuse_extra(&schema.extra, TARGET)
        }
    }
}

/// Settings that each family of models has in its own words.
fn additional(request: &Request, model: &str) -> Result<Map<String, Value>, Error> {
    let mut more = Map::new();
    if request.origin == Some(TARGET) {
        return Ok(more);
    }
    let top_k = request.sampling.top_k.filter(|top_k| *top_k > 0);
    let reasoning = &request.reasoning;
    if model.contains("anthropic.") {
        put(&mut more, "top_k", top_k);
        match (reasoning.budget_tokens, reasoning.effort.as_deref()) {
            (Some(0), _) | (None, Some("none")) => {
                put(&mut more, "thinking", Some(json!({"type": "disabled"})));
            }
            (Some(budget), _) => {
                put(&mut more, "thinking", Some(json!({"type": "enabled", "budget_tokens": budget})));
            }
            (None, Some(effort)) => {
                put(&mut more, "thinking", Some(json!({"type": "adaptive"})));
                put(&mut more, "output_config", Some(json!({"effort": effort})));
            }
            (None, None) => {}
        }
        return Ok(more);
    }
    if model.contains("amazon.nova") {
        put(&mut more, "inferenceConfig", top_k.map(|top_k| json!({"topK": top_k})));
    } else if top_k.is_some() {
        return Err(untranslatable("top_k", TARGET));
    }
    put(&mut more, "reasoning_effort", crate::openai::tools::effort(request));
    Ok(more)
}
