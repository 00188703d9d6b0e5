//! What a chat request says of tools and of thinking, as the model's template and the reader of its output take it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use nearfield_api::{Error, Function, Prompt, Request, Tool, ToolChoice};
use nearfield_model::Text;
use nearfield_model::output::{OutputFormat, OutputParser, ToolTypes};
use serde_json::{Map, Value, json};

/// The field with variables for the template, as other servers name it.
const VARIABLES: &str = "chat_template_kwargs";
/// The variable that turns thinking on and off.
const THINKING: &str = "enable_thinking";

/// The template's side of a request.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// The tools for the prompt.
    pub(super) tools: Vec<Value>,
    /// Variables of the template.
    pub(super) variables: Map<String, Value>,
}

/// How an answer is read.
#[derive(Debug)]
pub(super) struct AnswerForm {
    format: OutputFormat,
    types: Arc<ToolTypes>,
    in_thought: bool,
    /// Whether the caller has said what the answer will be.
    pub(super) predicted: bool,
    /// Whether the answer ends with its first call.
    pub(super) one_call: bool,
    /// What makes the ids of calls differ between answers; the same answer has the same.
    key: u64,
    /// Control tokens that the parser must see.
    pub(super) shown: Arc<[u32]>,
}

/// Takes the template's variables out of a chat request.
pub(super) fn take_variables(request: &mut Request) -> Result<Map<String, Value>, Error> {
    if !matches!(request.prompt, Prompt::Chat(_)) {
        return Ok(Map::new());
    }
    match request.extra.remove(VARIABLES) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(variables)) => Ok(variables),
        Some(_) => Err(Error::invalid(VARIABLES, "must be an object of variables for the chat template")),
    }
}

/// What is asked of a model, or why it cannot do that.
pub(super) fn asked(request: &Request, variables: Map<String, Value>, text: &Text) -> Result<Asked, Error> {
    let source = text.chat_template().map_or("", |template| template.source());
    let mut variables = variables;
    for (name, value) in &variables {
        // To switch off what is not there changes nothing.
        let off = name == THINKING && *value == Value::Bool(false) && text.output().thoughts.is_none();
        if !off && !source.contains(name.as_str()) {
            let message =
                format!("the model's chat template does not know the variable `{name}`; leave it out");
            return Err(Error::invalid(VARIABLES, message));
        }
    }
    effort(request, text, source, &mut variables)?;
    let tools = offered(request);
    if !tools.is_empty() && text.output().calls.is_none() {
        let message = "this model cannot call tools: its chat template does not know them; \
                       send the request without tools, or take a model that can";
        return Err(Error::invalid("tools", message).with_code("no_tools"));
    }
    Ok(Asked { tools: tools.into_iter().map(definition).collect(), variables })
}

fn effort(
    request: &Request,
    text: &Text,
    source: &str,
    variables: &mut Map<String, Value>,
) -> Result<(), Error> {
    let reasoning = &request.reasoning;
    if reasoning.budget_tokens.is_some_and(|tokens| tokens > 0)
        || reasoning.summary.is_some()
        || !reasoning.extra.is_empty()
    {
        let message = "a budget or a summary of reasoning is not supported here; only the effort is";
        return Err(Error::invalid("reasoning", message).with_code("unsupported_value"));
    }
    let effort = reasoning.effort.as_deref().or(reasoning.budget_tokens.map(|_| "none"));
    let Some(effort) = effort else { return Ok(()) };
    let on = effort != "none";
    let wrong = |message: &str| Error::invalid("reasoning_effort", message).with_code("unsupported_value");
    match (text.output().thoughts.is_some(), source.contains(THINKING)) {
        (false, _) if on => return Err(wrong("this model does not think before it answers; leave it out")),
        (true, false) if !on => {
            return Err(wrong("this model always thinks; its template has no switch for it"));
        }
        (_, true) => {
            variables.entry(THINKING).or_insert(Value::Bool(on));
        }
        _ => {}
    }
    if on && source.contains("reasoning_effort") {
        variables.entry("reasoning_effort").or_insert_with(|| effort.into());
    }
    Ok(())
}

/// The functions that the model may call.
fn offered(request: &Request) -> Vec<&Function> {
    let functions = request.tools.iter().filter_map(|tool| match tool {
        Tool::Function(function) => Some(function),
        _ => None,
    });
    match &request.tool_choice {
        Some(ToolChoice::None) => Vec::new(),
        Some(ToolChoice::Allowed { names, .. }) => {
            functions.filter(|function| names.contains(&function.name)).collect()
        }
        _ => functions.collect(),
    }
}

/// A function in the form that templates were made for.
fn definition(function: &Function) -> Value {
    let mut inner = Map::new();
    inner.insert("name".to_owned(), json!(function.name));
    if let Some(description) = &function.description {
        inner.insert("description".to_owned(), json!(description));
    }
    if let Some(parameters) = &function.parameters {
        inner.insert("parameters".to_owned(), parameters.clone());
    }
    json!({"type": "function", "function": inner})
}

impl AnswerForm {
    /// How the answer to a request is read, whose prompt became these tokens.
    pub(super) fn new(request: &Request, text: &Text, prompt: &[u32], seed: u64, predicted: bool) -> Self {
        let functions = offered(request);
        let chat = matches!(request.prompt, Prompt::Chat(_));
        let mut format = if chat { text.output() } else { OutputFormat::PLAIN };
        if functions.is_empty() {
            format.calls = None;
        }
        let tokenizer = text.tokenizer();
        let mut hasher = DefaultHasher::new();
        (seed, prompt).hash(&mut hasher);
        Self {
            format,
            in_thought: chat && text.begins_in_thought(prompt),
            predicted,
            one_call: request.parallel_tools == Some(false),
            key: hasher.finish(),
            shown: format.marks().filter_map(|mark| tokenizer.token_id(mark)).collect(),
            types: Arc::new(ToolTypes::new(
                functions.into_iter().map(|function| (function.name.as_str(), function.parameters.as_ref())),
            )),
        }
    }

    /// A reader of one of the answers.
    pub(super) fn parser(&self) -> OutputParser {
        OutputParser::new(self.format, Arc::clone(&self.types), self.in_thought)
    }

    /// The id of a call.
    pub(super) fn call_id(&self, choice: u32, index: u32) -> String {
        let mut hasher = DefaultHasher::new();
        (self.key, choice, index).hash(&mut hasher);
        format!("call_{:016x}", hasher.finish())
    }
}
