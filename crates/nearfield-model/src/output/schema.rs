//! Gives the values of a call the types that the tool's JSON schema asks for.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// Deepest nesting of choices in a schema that is looked into.
const MAX_DEPTH: usize = 8;

/// What the parameters of some tools are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ToolTypes {
    properties: HashMap<String, Map<String, Value>>,
}

impl ToolTypes {
    /// Takes the `properties` of each tool's schema: pairs of a tool's name and its schema.
    pub fn new<'a>(tools: impl IntoIterator<Item = (&'a str, Option<&'a Value>)>) -> Self {
        let properties = |schema: Option<&Value>| {
            schema.and_then(|schema| schema.get("properties")?.as_object()).cloned().unwrap_or_default()
        };
        let tools = tools.into_iter().map(|(name, schema)| (name.to_owned(), properties(schema)));
        Self { properties: tools.collect() }
    }

    fn schema(&self, tool: &str, parameter: &str) -> Option<&Value> {
        self.properties.get(tool)?.get(parameter)
    }

    /// A parameter that was written as bare text. Without a schema it is a string.
    pub(super) fn typed_text(&self, tool: &str, parameter: &str, text: &str) -> Value {
        self.schema(tool, parameter).map_or_else(|| text.into(), |schema| typed(schema, text))
    }

    /// A parameter that has a type already, which may not be the one that is asked for.
    pub(super) fn typed_value(&self, tool: &str, parameter: &str, value: Value) -> Value {
        let Some(schema) = self.schema(tool, parameter) else { return value };
        let mut wanted = Vec::new();
        collect_types(schema, &mut wanted, 0);
        if wanted.is_empty() || wanted.iter().any(|kind| is_of(&value, kind)) {
            return value;
        }
        match value {
            Value::String(text) => typed(schema, &text),
            Value::Number(_) | Value::Bool(_) if wanted.contains(&"string") => value.to_string().into(),
            value => value,
        }
    }
}

/// The value that a text stands for under a schema: of the first type that fits, else as it is.
fn typed(schema: &Value, text: &str) -> Value {
    let mut wanted = Vec::new();
    collect_types(schema, &mut wanted, 0);
    let parsed = literal(text.trim());
    if wanted.is_empty() {
        return parsed.unwrap_or_else(|| text.into());
    }
    for kind in &wanted {
        match &parsed {
            _ if *kind == "string" => return text.into(),
            Some(value) if is_of(value, kind) => return value.clone(),
            _ => {}
        }
    }
    parsed.filter(|value| !value.is_string()).unwrap_or_else(|| text.into())
}

/// A text as JSON, or as Python writes truth and nothing.
fn literal(text: &str) -> Option<Value> {
    match text {
        "True" => Some(Value::Bool(true)),
        "False" => Some(Value::Bool(false)),
        "None" => Some(Value::Null),
        text => serde_json::from_str(text).ok(),
    }
}

fn is_of(value: &Value, kind: &str) -> bool {
    match kind {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        _ => false,
    }
}

/// The types that a schema allows, in its order; none when it does not say.
fn collect_types<'a>(schema: &'a Value, into: &mut Vec<&'a str>, depth: usize) {
    match schema.get("type") {
        Some(Value::String(kind)) => into.push(kind),
        Some(Value::Array(kinds)) => into.extend(kinds.iter().filter_map(Value::as_str)),
        _ => {}
    }
    let choices = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|key| schema.get(key)?.as_array());
    for choice in choices.flatten().filter(|_| depth < MAX_DEPTH) {
        collect_types(choice, into, depth + 1);
    }
    if into.is_empty() {
        let constants = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
        into.extend(constants.chain(schema.get("const")).map(|value| match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        }));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_takes_the_type_that_is_asked_for() {
        for (schema, text, wanted) in [
            (json!({"type": "string"}), "5", json!("5")),
            (json!({"type": "integer"}), " 5 ", json!(5)),
            (json!({"type": "integer"}), "five", json!("five")),
            (json!({"type": "integer"}), "3.7", json!(3.7)),
            (json!({"type": "boolean"}), "True", json!(true)),
            (json!({"type": ["null", "string"]}), "null", json!(null)),
            (json!({"type": ["null", "string"]}), "nil", json!("nil")),
            (json!({"anyOf": [{"type": "object"}, {"type": "null"}]}), "{\"a\": [1]}", json!({"a": [1]})),
            (json!({"enum": ["1", "2"]}), "1", json!("1")),
            (json!({"type": "array"}), "[1, \"x\"]", json!([1, "x"])),
            (json!({}), "[1]", json!([1])),
            (json!({}), "a b", json!("a b")),
        ] {
            assert_eq!(typed(&schema, text), wanted, "{schema} {text}");
        }
    }

    #[test]
    fn values_of_a_wrong_type_are_changed_where_that_loses_nothing() {
        let schema = json!({"properties": {"n": {"type": "integer"}, "s": {"type": "string"}}});
        let tools = ToolTypes::new([("f", Some(&schema))]);
        assert_eq!(tools.typed_value("f", "n", json!("7")), json!(7));
        assert_eq!(tools.typed_value("f", "s", json!(7)), json!("7"));
        assert_eq!(tools.typed_value("f", "s", json!([7])), json!([7]));
        assert_eq!(tools.typed_value("f", "other", json!("7")), json!("7"));
        assert_eq!(tools.typed_text("g", "n", "7"), json!("7"));
    }
}
