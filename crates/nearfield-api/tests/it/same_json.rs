//! Whether a recorded body and the one that we write say the same.
//!
//! Equal as JSON, except for these forms, which mean the same to the provider that reads them:
//!
//! * a field that is null, or a `stream` that is false, or an `n` of 1, is not there;
//! * numbers are compared by value (1 and 1.0);
//! * content of one plain text is that text;
//! * Responses: `input` of one text is one message of the user's; `type: message` of an item with a role is left out;
//! * Gemini: names in snake case are those in camel case; one tool is a list of one; all functions stand in one tool;
//!   an empty `generationConfig` is none; `systemInstruction.role` means nothing;
//! * Bedrock: an empty `system`, `inferenceConfig` or `toolConfig` is none.

use nearfield_api::Dialect;
use serde_json::{Map, Value, json};

/// The paths at which two bodies differ.
pub(crate) fn differences(dialect: Dialect, ours: &Value, theirs: &Value) -> Vec<String> {
    let (ours, theirs) = (normal(dialect, ours, ""), normal(dialect, theirs, ""));
    let mut found = Vec::new();
    compare("", &ours, &theirs, &mut found);
    found
}

fn compare(path: &str, left: &Value, right: &Value, found: &mut Vec<String>) {
    match (left, right) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                compare(
                    &format!("{path}.{key}"),
                    a.get(key).unwrap_or(&Value::Null),
                    b.get(key).unwrap_or(&Value::Null),
                    found,
                );
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&format!("{path}[{i}]"), a, b, found);
            }
        }
        (Value::Number(a), Value::Number(b)) if a.as_f64() == b.as_f64() => {}
        _ if left == right => {}
        _ => {
            let short = |value: &Value| value.to_string().chars().take(120).collect::<String>();
            found.push(format!("{path}: recorded {} but written {}", short(left), short(right)));
        }
    }
}

fn normal(dialect: Dialect, value: &Value, path: &str) -> Value {
    match value {
        Value::Object(map) => object(dialect, map, path),
        Value::Array(items) => {
            Value::Array(items.iter().map(|item| normal(dialect, item, &format!("{path}[]"))).collect())
        }
        other => other.clone(),
    }
}

fn object(dialect: Dialect, map: &Map<String, Value>, path: &str) -> Value {
    let mut out = Map::new();
    for (key, value) in map {
        let key = if dialect == Dialect::Gemini { camel(key) } else { key.clone() };
        let value = normal(dialect, value, &format!("{path}.{key}"));
        let empty =
            value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
        let at = format!("{path}.{key}");
        let nothing = value.is_null()
            || (at == ".stream" && value == false)
            || (at == ".n" && value == 1)
            || (empty
                && matches!(
                    at.as_str(),
                    ".generationConfig" | ".system" | ".inferenceConfig" | ".toolConfig"
                ))
            || at == ".systemInstruction.role";
        if !nothing {
            out.insert(key, value);
        }
    }
    if path.is_empty() {
        whole(dialect, &mut out);
    }
    for name in ["content", "output", "system"] {
        if let Some(text) = out.get(name).and_then(single_text) {
            out.insert(name.to_owned(), text);
        }
    }
    if dialect == Dialect::OpenAiResponses
        && path == ".input[]"
        && out.contains_key("role")
        && out.get("type") == Some(&json!("message"))
    {
        out.remove("type");
    }
    Value::Object(out)
}

fn whole(dialect: Dialect, body: &mut Map<String, Value>) {
    if let (Dialect::OpenAiResponses, Some(text @ Value::String(_))) = (dialect, body.get("input").cloned()) {
        body.insert("input".to_owned(), json!([{"role": "user", "content": text}]));
    }
    if dialect != Dialect::Gemini {
        return;
    }
    let tools = match body.remove("tools") {
        Some(Value::Array(tools)) => tools,
        Some(tool) => vec![tool],
        None => return,
    };
    let (mut functions, mut rest) = (Vec::new(), Vec::new());
    for mut tool in tools {
        match tool.as_object_mut().and_then(|tool| tool.remove("functionDeclarations")) {
            Some(Value::Array(more)) => functions.extend(more),
            _ => rest.push(tool),
        }
    }
    if !functions.is_empty() {
        rest.insert(0, json!({"functionDeclarations": functions}));
    }
    body.insert("tools".to_owned(), Value::Array(rest));
}

/// The text of content that is one plain text.
fn single_text(content: &Value) -> Option<Value> {
    let [only] = content.as_array()?.as_slice() else { return None };
    let map = only.as_object()?;
    let kind = map.get("type")?.as_str()?;
    let rest = map.iter().filter(|(key, value)| {
        !matches!(key.as_str(), "type" | "text") && value.as_array().is_none_or(|items| !items.is_empty())
    });
    (matches!(kind, "text" | "input_text" | "output_text") && rest.count() == 0)
        .then(|| map.get("text").cloned())?
}

/// Field names of Google's, which come in both spellings.
fn camel(key: &str) -> String {
    const NAMES: [&str; 6] = [
        "function_declarations",
        "parameters_json_schema",
        "file_uri",
        "mime_type",
        "thinking_budget",
        "generation_config",
    ];
    if !NAMES.contains(&key) {
        return key.to_owned();
    }
    let mut words = key.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let (head, tail) = word.split_at(1);
        format!("{name}{}{tail}", head.to_uppercase())
    })
}
