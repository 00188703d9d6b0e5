//! Calls of Gemma 4: `call:NAME{key:value,...}`, with strings between quotation tokens.

use serde_json::{Map, Value};

use super::{Broken, Call, QUOTE, ToolTypes};

/// Deepest nesting of a value.
const MAX_DEPTH: usize = 64;

/// Reads `call:NAME{...}`.
pub(super) fn parse(body: &str, tools: &ToolTypes) -> Result<Call, Broken> {
    let body = body.trim().strip_prefix("call:").ok_or(Broken::Malformed)?;
    let open = body.find('{').ok_or(Broken::Malformed)?;
    let (name, rest) = body.split_at_checked(open).ok_or(Broken::Malformed)?;
    let name = name.trim();
    if name.is_empty() || name.contains(['\n', '<', '}']) {
        return Err(Broken::Malformed);
    }
    let mut reader = Reader { rest };
    let Value::Object(arguments) = reader.value(0)? else { return Err(Broken::Malformed) };
    if !reader.rest.trim().is_empty() {
        return Err(Broken::Malformed);
    }
    let typed = |(key, value): (String, Value)| {
        let value = tools.typed_value(name, &key, value);
        (key, value)
    };
    Ok(Call { name: name.to_owned(), arguments: arguments.into_iter().map(typed).collect::<Map<_, _>>() })
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn skip(&mut self, text: &str) -> bool {
        self.rest = self.rest.trim_start();
        let after = self.rest.strip_prefix(text);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    fn value(&mut self, depth: usize) -> Result<Value, Broken> {
        if depth > MAX_DEPTH {
            return Err(Broken::Malformed);
        }
        if self.skip(QUOTE) {
            return self.quoted().map(Value::String);
        }
        if self.skip("{") {
            return self.object(depth);
        }
        if self.skip("[") {
            return self.array(depth);
        }
        if self.rest.starts_with('"') {
            return self.json_string().map(Value::String);
        }
        self.bare()
    }

    fn object(&mut self, depth: usize) -> Result<Value, Broken> {
        let mut map = Map::new();
        while !self.skip("}") {
            let key = self.key()?;
            let value = self.value(depth + 1)?;
            map.insert(key, value);
            self.separator('}')?;
        }
        Ok(Value::Object(map))
    }

    fn array(&mut self, depth: usize) -> Result<Value, Broken> {
        let mut items = Vec::new();
        while !self.skip("]") {
            items.push(self.value(depth + 1)?);
            self.separator(']')?;
        }
        Ok(Value::Array(items))
    }

    /// A comma, unless the end follows.
    fn separator(&mut self, end: char) -> Result<(), Broken> {
        if self.skip(",") || self.rest.starts_with(end) {
            return Ok(());
        }
        Err(if self.rest.is_empty() { Broken::Unfinished } else { Broken::Malformed })
    }

    fn key(&mut self) -> Result<String, Broken> {
        let key = if self.skip(QUOTE) {
            self.quoted()?
        } else if self.rest.starts_with('"') {
            self.json_string()?
        } else {
            let end = self.rest.find([':', ',', '{', '}', '[', ']']).ok_or(Broken::Unfinished)?;
            let (key, rest) = self.rest.split_at_checked(end).ok_or(Broken::Malformed)?;
            self.rest = rest;
            key.trim().to_owned()
        };
        if !key.is_empty() && self.skip(":") { Ok(key) } else { Err(Broken::Malformed) }
    }

    /// The rest of a string up to its quotation token.
    fn quoted(&mut self) -> Result<String, Broken> {
        let (text, rest) = self.rest.split_once(QUOTE).ok_or(Broken::Unfinished)?;
        self.rest = rest;
        Ok(text.to_owned())
    }

    /// A string as JSON has it, which some models fall back to.
    fn json_string(&mut self) -> Result<String, Broken> {
        let mut strings = serde_json::Deserializer::from_str(self.rest).into_iter::<String>();
        let text = strings.next().and_then(Result::ok).ok_or(Broken::Malformed)?;
        let used = strings.byte_offset();
        self.rest = self.rest.get(used..).unwrap_or_default();
        Ok(text)
    }

    /// A number, a truth value, nothing, or a word without quotation marks.
    fn bare(&mut self) -> Result<Value, Broken> {
        let end = self.rest.find([',', '}', ']']).ok_or(Broken::Unfinished)?;
        let (text, rest) = self.rest.split_at_checked(end).ok_or(Broken::Malformed)?;
        let text = text.trim();
        if text.is_empty() || text.contains(['{', '[', '<', ':', '\n']) {
            return Err(Broken::Malformed);
        }
        self.rest = rest;
        Ok(serde_json::from_str(text).unwrap_or_else(|_| text.into()))
    }
}
