//! Calls as JSON objects.

use serde_json::{Map, Value};

use super::{Broken, Call, ToolTypes};

/// Reads `{"name": ..., "arguments": {...}}`. Arguments may be a JSON text of an object, and some models say
/// `parameters`.
pub(super) fn parse(body: &str, tools: &ToolTypes) -> Result<Call, Broken> {
    let mut object: Map<String, Value> = serde_json::from_str(body.trim())
        .map_err(|error| if error.is_eof() { Broken::Unfinished } else { Broken::Malformed })?;
    let Some(Value::String(name)) = object.remove("name") else { return Err(Broken::Malformed) };
    let arguments = match object.remove("arguments").or_else(|| object.remove("parameters")) {
        Some(Value::Object(arguments)) => arguments,
        Some(Value::String(text)) => serde_json::from_str(&text).map_err(|_| Broken::Malformed)?,
        None | Some(Value::Null) => Map::new(),
        Some(_) => return Err(Broken::Malformed),
    };
    if name.is_empty() {
        return Err(Broken::Malformed);
    }
    let typed = |(key, value): (String, Value)| {
        let value = tools.typed_value(&name, &key, value);
        (key, value)
    };
    let arguments = arguments.into_iter().map(typed).collect();
    Ok(Call { name, arguments })
}
