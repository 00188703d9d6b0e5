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
}

impl ChatMessage {
    /// A message without a name.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), name: None }
    }

    /// As templates see it.
    pub(super) fn value(&self) -> TemplateValue {
        let name = self.name.as_deref().map(|name| ("name", name));
        TemplateValue::from_pairs(
            [("role", self.role.as_str()), ("content", self.content.as_str())].into_iter().chain(name),
        )
    }
}

/// How a conversation is rendered.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatOptions {
    /// Whether the prompt ends where the model's answer begins. True by default.
    pub add_generation_prompt: bool,
    /// Further variables of the template, such as `enable_thinking`. Texts in them are not trusted.
    pub template_options: Map<String, Value>,
    /// The time that `strftime_now` tells; the system's, in its time zone, by default.
    pub now: Option<jiff::Zoned>,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self { add_generation_prompt: true, template_options: Map::new(), now: None }
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
