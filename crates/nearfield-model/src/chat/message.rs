//! What goes into a chat template.

use minijinja::value::Value as TemplateValue;
use serde_json::{Map, Value};

/// One message of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChatMessage {
    /// Who speaks: `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What is said. Never trusted: text in it that looks like a control token stays text.
    pub content: String,
    /// The speaker's name, which few templates show.
    pub name: Option<String>,
    /// What else the message holds, under the names that templates know: `tool_calls`, with arguments as objects,
    /// `tool_call_id`, `reasoning_content`. Texts in it are not trusted.
    pub fields: Map<String, Value>,
}

impl ChatMessage {
    /// A message without a name.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), ..Self::default() }
    }

    /// As templates see it.
    pub(super) fn value(&self) -> TemplateValue {
        let name = self.name.as_deref().map(|name| ("name", TemplateValue::from(name)));
        let known = [("role", self.role.as_str().into()), ("content", self.content.as_str().into())];
        let fields = self.fields.iter().map(|(name, value)| (name.as_str(), value_of(value)));
        TemplateValue::from_pairs(known.into_iter().chain(name).chain(fields))
    }
}

/// How a conversation is rendered.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatOptions {
    /// Whether the prompt ends where the model's answer begins. True by default.
    pub add_generation_prompt: bool,
    /// Tools that the model may call, as the chat completions API has them. Texts in them are not trusted.
    pub tools: Vec<Value>,
    /// Further variables of the template, such as `enable_thinking`. Texts in them are not trusted.
    pub template_options: Map<String, Value>,
    /// The time that `strftime_now` tells; the system's, in its time zone, by default.
    pub now: Option<jiff::Zoned>,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self { add_generation_prompt: true, tools: Vec::new(), template_options: Map::new(), now: None }
    }
}

/// A value of JSON as templates see it, objects in their order.
pub(super) fn value_of(value: &Value) -> TemplateValue {
    match value {
        Value::Null => TemplateValue::from(()),
        Value::Bool(value) => TemplateValue::from(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), ..) => TemplateValue::from(number),
            (_, Some(number), _) => TemplateValue::from(number),
            (_, _, number) => TemplateValue::from(number.unwrap_or_default()),
        },
        Value::String(text) => TemplateValue::from(text.as_str()),
        Value::Array(values) => TemplateValue::from(values.iter().map(value_of).collect::<Vec<_>>()),
        Value::Object(map) => {
            TemplateValue::from_pairs(map.iter().map(|(key, value)| (key.as_str(), value_of(value))))
        }
    }
}
