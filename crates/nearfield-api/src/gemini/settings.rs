//! `generationConfig`, tools and the choice among them: read and written.

use serde_json::{Map, Value, json};

use crate::fields::{Fields, Range, invalid_value};
use crate::wire::{carry_extra, put, put_extra, put_number, untranslatable};
use crate::{Dialect, Error, Function, JsonSchema, OutputFormat, Request, Sampling, Tool, ToolChoice};

const TARGET: Dialect = Dialect::Gemini;
const SHARE: Range = Range { low: 0.0, high: 1.0 };
const WIDE: Range = Range { low: -2.0, high: 2.0 };

/// Reads the settings; what the tree has no name for is put back.
pub(super) fn decode(fields: &mut Fields, request: &mut Request) -> Result<(), Error> {
    let Some(mut config) = fields.either_object("generationConfig", "generation_config")? else {
        return Ok(());
    };
    request.sampling = Sampling {
        temperature: config.number("temperature", Range { low: 0.0, high: 2.0 })?,
        top_p: config.number("topP", SHARE)?,
        // Some clients write 1.0.
        top_k: config.number("topK", Range { low: 0.0, high: 1e6 })?.map(|top_k| top_k as u32),
        presence_penalty: config.number("presencePenalty", WIDE)?,
        frequency_penalty: config.number("frequencyPenalty", WIDE)?,
        seed: config.integer("seed", i64::MIN, i64::MAX)?.map(i64::cast_unsigned),
        ..Sampling::default()
    };
    request.max_tokens = config.count("maxOutputTokens", 0)?;
    request.choices = config.count("candidateCount", 1)?.unwrap_or(1);
    for stop in config.array("stopSequences")?.unwrap_or_default() {
        match stop {
            Value::String(stop) => request.stop.push(stop),
            _ => return Err(invalid_value("generationConfig.stopSequences", "must hold strings")),
        }
    }
    if config.bool("responseLogprobs")? == Some(true) {
        let top = config.integer("logprobs", 0, 255)?.and_then(|top| u8::try_from(top).ok());
        request.logprobs = Some(top.unwrap_or(0));
    }
    if config.peek("responseMimeType") == Some("application/json") && !config.has("responseSchema") {
        config.take("responseMimeType");
        request.format = Some(match config.take("responseJsonSchema") {
            Some(schema) => OutputFormat::JsonSchema(JsonSchema { schema, ..JsonSchema::default() }),
            None => OutputFormat::JsonObject,
        });
    }
    if let Some(mut thinking) = config.either_object("thinkingConfig", "thinking_config")? {
        // Minus one leaves the budget to the model, which is no number of tokens.
        let budget = thinking.take("thinkingBudget").or_else(|| thinking.take("thinking_budget"));
        match budget.as_ref().and_then(Value::as_u64).and_then(|budget| u32::try_from(budget).ok()) {
            Some(budget) => request.reasoning.budget_tokens = Some(budget),
            None => {
                if let Some(budget) = budget {
                    thinking.put_back("thinkingBudget", budget);
                }
            }
        }
        request.reasoning.effort = thinking.either_string("thinkingLevel", "thinking_level")?;
        request.reasoning.extra = thinking.rest();
    }
    let rest = config.rest();
    if !rest.is_empty() {
        fields.put_back("generationConfig", Value::Object(rest));
    }
    Ok(())
}

/// Reads tools. One entry may hold many functions.
pub(super) fn decode_tools(fields: &mut Fields, request: &mut Request) -> Result<(), Error> {
    let items = match fields.take("tools") {
        None => Vec::new(),
        Some(Value::Array(items)) => items,
        Some(single) => vec![single],
    };
    for (i, item) in items.into_iter().enumerate() {
        let mut tool = Fields::of(item, &format!("tools[{i}]"))?;
        let functions = match tool.array("functionDeclarations")? {
            Some(functions) => Some(functions),
            None => tool.array("function_declarations")?,
        };
        for function in functions.unwrap_or_default() {
            let mut function = Fields::of(function, &format!("tools[{i}].functionDeclarations"))?;
            let parameters =
                function.take("parametersJsonSchema").or_else(|| function.take("parameters_json_schema"));
            request.tools.push(Tool::Function(Function {
                name: function.required_string("name")?,
                description: function.string("description")?,
                parameters,
                strict: None,
                // The older form of a schema, `parameters`, has types of its own and stays what it is.
                extra: function.rest(),
            }));
        }
        let rest = tool.rest();
        if !rest.is_empty() {
            request.tools.push(Tool::Other(Value::Object(rest)));
        }
    }
    choice(fields, request)
}

fn choice(fields: &mut Fields, request: &mut Request) -> Result<(), Error> {
    let Some(mut config) = fields.either_object("toolConfig", "tool_config")? else { return Ok(()) };
    if let Some(mut calling) = config.either_object("functionCallingConfig", "function_calling_config")? {
        let mut names = Vec::new();
        for name in calling.array("allowedFunctionNames")?.unwrap_or_default() {
            names.extend(name.as_str().map(str::to_owned));
        }
        let mode = calling.string("mode")?.unwrap_or_default();
        request.tool_choice = Some(match (mode.as_str(), names.as_slice()) {
            ("AUTO", []) => ToolChoice::Auto,
            ("NONE", _) => ToolChoice::None,
            ("ANY", []) => ToolChoice::Required,
            ("ANY", [name]) => ToolChoice::Named(name.clone()),
            ("ANY", _) => ToolChoice::Allowed { names, required: true },
            _ => {
                calling.put_back("mode", mode.into());
                if !names.is_empty() {
                    calling.put_back("allowedFunctionNames", names.into());
                }
                ToolChoice::Other(calling.into_value())
            }
        });
    }
    let rest = config.rest();
    if !rest.is_empty() {
        fields.put_back("toolConfig", Value::Object(rest));
    }
    Ok(())
}

/// Writes the settings.
pub(super) fn encode(body: &mut Map<String, Value>, request: &Request, model: &str) -> Result<(), Error> {
    let mut config = Map::new();
    let sampling = &request.sampling;
    put_number(&mut config, "temperature", sampling.temperature);
    put_number(&mut config, "topP", sampling.top_p);
    put(&mut config, "topK", sampling.top_k.filter(|top_k| *top_k > 0));
    put_number(&mut config, "presencePenalty", sampling.presence_penalty);
    put_number(&mut config, "frequencyPenalty", sampling.frequency_penalty);
    put(&mut config, "seed", sampling.seed.map(u64::cast_signed));
    put(&mut config, "maxOutputTokens", request.max_tokens);
    put(&mut config, "candidateCount", Some(request.choices).filter(|choices| *choices > 1));
    put(&mut config, "stopSequences", Some(request.stop.clone()).filter(|stops| !stops.is_empty()));
    put(&mut config, "responseLogprobs", request.logprobs.map(|_| true));
    put(&mut config, "logprobs", request.logprobs.filter(|top| *top > 0));
    match &request.format {
        None | Some(OutputFormat::Text) => {}
        Some(OutputFormat::JsonObject) => put(&mut config, "responseMimeType", Some("application/json")),
        Some(OutputFormat::JsonSchema(schema)) => {
            put(&mut config, "responseMimeType", Some("application/json"));
            put(&mut config, "responseJsonSchema", Some(schema.schema.clone()));
            crate::wire::refuse_extra(&schema.extra, TARGET)?;
        }
    }
    let thinking = thinking(request, model);
    put(&mut config, "thinkingConfig", Some(thinking).filter(|thinking| !thinking.is_empty()));
    if request.origin == Some(TARGET)
        && let Some(Value::Object(rest)) = request.extra.get("generationConfig")
    {
        put_extra(&mut config, rest);
    }
    put(body, "generationConfig", Some(config).filter(|config| !config.is_empty()));
    Ok(())
}

/// Models from the third version on take a level of thinking, older ones a budget.
fn thinking(request: &Request, model: &str) -> Map<String, Value> {
    let reasoning = &request.reasoning;
    let mut thinking = Map::new();
    put(&mut thinking, "thinkingBudget", reasoning.budget_tokens);
    if request.origin == Some(TARGET) {
        put(&mut thinking, "thinkingLevel", reasoning.effort.as_deref());
        put_extra(&mut thinking, &reasoning.extra);
        return thinking;
    }
    if let Some(effort) = reasoning.effort.as_deref().filter(|_| reasoning.budget_tokens.is_none()) {
        if model.contains("gemini-2") || model.contains("gemini-1") {
            let budget = match effort {
                "none" => 0,
                "minimal" => 512,
                "low" => 1024,
                "medium" => 8192,
                _ => 24_576,
            };
            put(&mut thinking, "thinkingBudget", Some(budget));
        } else {
            let level = match effort {
                "none" | "minimal" => "minimal",
                "low" | "medium" => effort,
                _ => "high",
            };
            put(&mut thinking, "thinkingLevel", Some(level));
        }
    }
    put(&mut thinking, "includeThoughts", reasoning.summary.as_deref().map(|_| true));
    thinking
}

/// Writes tools and the choice among them.
pub(super) fn encode_tools(body: &mut Map<String, Value>, request: &Request) -> Result<(), Error> {
    let mut functions = Vec::new();
    let mut tools = Vec::new();
    for tool in &request.tools {
        match tool {
            Tool::Function(function) => {
                let mut map = Map::new();
                put(&mut map, "name", Some(function.name.as_str()));
                put(&mut map, "description", function.description.as_deref());
                put(&mut map, "parametersJsonSchema", function.parameters.clone());
                carry_extra(&mut map, &function.extra, request, TARGET)?;
                functions.push(Value::Object(map));
            }
            Tool::Other(value) if request.origin == Some(TARGET) => tools.push(value.clone()),
            Tool::Other(_) => return Err(untranslatable("tools", TARGET)),
        }
    }
    if !functions.is_empty() {
        tools.insert(0, json!({"functionDeclarations": functions}));
    }
    put(body, "tools", Some(tools).filter(|tools| !tools.is_empty()));
    if request.parallel_tools == Some(false) && !request.tools.is_empty() {
        return Err(untranslatable("parallel_tool_calls", TARGET));
    }
    let calling = match &request.tool_choice {
        None => return Ok(()),
        Some(ToolChoice::Auto) => json!({"mode": "AUTO"}),
        Some(ToolChoice::None) => json!({"mode": "NONE"}),
        Some(ToolChoice::Required) => json!({"mode": "ANY"}),
        Some(ToolChoice::Named(name)) => json!({"mode": "ANY", "allowedFunctionNames": [name]}),
        Some(ToolChoice::Allowed { names, required: true }) => {
            json!({"mode": "ANY", "allowedFunctionNames": names})
        }
        Some(ToolChoice::Other(value)) if request.origin == Some(TARGET) => value.clone(),
        Some(_) => return Err(untranslatable("tool_choice", TARGET)),
    };
    let mut config = Map::from_iter([("functionCallingConfig".to_owned(), calling)]);
    if request.origin == Some(TARGET)
        && let Some(Value::Object(rest)) = request.extra.get("toolConfig")
    {
        put_extra(&mut config, rest);
    }
    body.insert("toolConfig".to_owned(), Value::Object(config));
    Ok(())
}
