//! Takes a request's fields one by one, so that what is left over can be refused by name.

use serde_json::{Map, Value};

use crate::json::shorten;
use crate::{Error, ErrorKind};

/// The fields of one JSON object that nobody has asked for yet.
#[derive(Debug)]
pub(crate) struct Fields {
    map: Map<String, Value>,
    /// Where the object stands, as the prefix of a field's path: empty, or `messages[2].`.
    path: String,
}

/// Numbers that a field may hold, ends included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Fields {
    /// The fields of `value`, which stands at `at` (empty for the body itself).
    pub(crate) fn of(value: Value, at: &str) -> Result<Self, Error> {
        let path = if at.is_empty() { String::new() } else { [at, "."].concat() };
        match value {
            Value::Object(map) => Ok(Self { map, path }),
            _ if at.is_empty() => {
                Err(Error::new(ErrorKind::InvalidRequest, "The body must be a JSON object.")
                    .with_code("invalid_type"))
            }
            other => Err(wrong_type(at, "an object", &other)),
        }
    }

    /// A field's full path, for messages.
    pub(crate) fn path_of(&self, name: &str) -> String {
        [&self.path, name].concat()
    }

    /// Takes a field; `null` counts as absent, as everywhere in this dialect.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// Takes a field that must be there.
    pub(crate) fn required(&mut self, name: &str) -> Result<Value, Error> {
        self.take(name).ok_or_else(|| self.missing(name))
    }

    pub(crate) fn bool(&mut self, name: &str) -> Result<Option<bool>, Error> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(&self.path_of(name), "true or false", &other)),
        }
    }

    pub(crate) fn string(&mut self, name: &str) -> Result<Option<String>, Error> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(&self.path_of(name), "a string", &other)),
        }
    }

    /// A number inside a range.
    pub(crate) fn number(&mut self, name: &str, range: Range) -> Result<Option<f32>, Error> {
        self.take(name).map(|value| number(&self.path_of(name), &value, range)).transpose()
    }

    /// A whole number inside a range.
    pub(crate) fn integer(&mut self, name: &str, low: i64, high: i64) -> Result<Option<i64>, Error> {
        let Some(value) = self.take(name) else { return Ok(None) };
        if !value.is_i64() && !value.is_u64() {
            return Err(wrong_type(&self.path_of(name), "a whole number", &value));
        }
        match value.as_i64() {
            Some(number) if (low..=high).contains(&number) => Ok(Some(number)),
            _ => Err(out_of_range(&self.path_of(name), &format!("from {low} to {high}"), &value)),
        }
    }

    /// A whole number from `low` to the largest `u32`.
    pub(crate) fn count(&mut self, name: &str, low: u32) -> Result<Option<u32>, Error> {
        let number = self.integer(name, i64::from(low), i64::from(u32::MAX))?;
        Ok(number.and_then(|number| u32::try_from(number).ok()))
    }

    /// Takes a field that we do not support, unless its value says what we do anyway.
    pub(crate) fn refuse(
        &mut self,
        name: &str,
        harmless: impl FnOnce(&Value) -> bool,
        instead: &str,
    ) -> Result<(), Error> {
        match self.take(name) {
            Some(value) if !harmless(&value) => Err(unsupported(&self.path_of(name), instead)),
            _ => Ok(()),
        }
    }

    /// Takes a field whose value says what is done anyway.
    pub(crate) fn drop_if(&mut self, name: &str, harmless: impl FnOnce(&Value) -> bool) {
        if self.map.get(name).is_some_and(harmless) {
            self.map.remove(name);
        }
    }

    /// What nobody took, without nulls, which ask for nothing.
    pub(crate) fn rest(self) -> crate::Extra {
        self.map.into_iter().filter(|(_, value)| !value.is_null()).collect()
    }

    /// Takes an array; absent is `None`.
    pub(crate) fn array(&mut self, name: &str) -> Result<Option<Vec<Value>>, Error> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(wrong_type(&self.path_of(name), "an array", &other)),
        }
    }

    /// Takes an object; absent is `None`.
    pub(crate) fn object(&mut self, name: &str) -> Result<Option<Self>, Error> {
        self.take(name).map(|value| Self::of(value, &self.path_of(name))).transpose()
    }

    /// Takes an object under one of two spellings of its name.
    pub(crate) fn either_object(&mut self, name: &str, other: &str) -> Result<Option<Self>, Error> {
        match self.object(name)? {
            Some(object) => Ok(Some(object)),
            None => self.object(other),
        }
    }

    /// Takes a string under one of two spellings of its name.
    pub(crate) fn either_string(&mut self, name: &str, other: &str) -> Result<Option<String>, Error> {
        match self.string(name)? {
            Some(text) => Ok(Some(text)),
            None => self.string(other),
        }
    }

    /// Takes a string that must be there.
    pub(crate) fn required_string(&mut self, name: &str) -> Result<String, Error> {
        match self.required(name)? {
            Value::String(text) => Ok(text),
            other => Err(wrong_type(&self.path_of(name), "a string", &other)),
        }
    }

    /// The error for a field that must be there and is not.
    pub(crate) fn missing(&self, name: &str) -> Error {
        let path = self.path_of(name);
        Error::invalid(&path, format!("`{path}` is missing.")).with_code("missing_required_parameter")
    }

    /// Puts a field back that was taken.
    pub(crate) fn put_back(&mut self, name: &str, value: Value) {
        self.map.insert(name.to_owned(), value);
    }

    /// The object as it came.
    pub(crate) fn into_value(self) -> Value {
        Value::Object(self.map)
    }

    /// The string of a field that stays where it is.
    pub(crate) fn peek(&self, name: &str) -> Option<&str> {
        self.map.get(name).and_then(Value::as_str)
    }

    /// A field that stays where it is.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name)
    }

    /// Whether a field is there and says something.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|value| !value.is_null())
    }

    /// Ends the object: a field that nobody took is an error that names it.
    pub(crate) fn finish(self) -> Result<(), Error> {
        // A null asks for nothing, even of a field that we do not know.
        match self.map.iter().find(|(_, value)| !value.is_null()) {
            None => Ok(()),
            Some((name, _)) => {
                let path = format!("{}{}", self.path, shorten(name));
                Err(Error::invalid(
                    &path,
                    format!("`{path}` is not a field that Nearfield knows here; remove it."),
                )
                .with_code("unknown_parameter"))
            }
        }
    }
}

/// A number inside a range, as f32.
pub(crate) fn number(path: &str, value: &Value, range: Range) -> Result<f32, Error> {
    match value.as_f64() {
        Some(number) if (range.low..=range.high).contains(&number) => Ok(number as f32),
        Some(_) => Err(out_of_range(path, &format!("from {} to {}", range.low, range.high), value)),
        None => Err(wrong_type(path, "a number", value)),
    }
}

/// The error for a value of the wrong JSON type. The value itself is not quoted: it may be a prompt.
pub(crate) fn wrong_type(path: &str, expected: &str, found: &Value) -> Error {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    Error::invalid(path, format!("`{path}` must be {expected}, not {found}.")).with_code("invalid_type")
}

/// The error for a number outside its range.
pub(crate) fn out_of_range(path: &str, range: &str, found: &Value) -> Error {
    Error::invalid(path, format!("`{path}` must be {range}, not {found}.")).with_code("invalid_value")
}

/// The error for a value that cannot be accepted.
pub(crate) fn invalid_value(path: &str, must: &str) -> Error {
    Error::invalid(path, format!("`{path}` {must}.")).with_code("invalid_value")
}

/// The error for a field that would change the answer and is not supported.
pub(crate) fn unsupported(path: &str, instead: &str) -> Error {
    Error::invalid(path, format!("`{path}` is not supported; {instead}.")).with_code("unsupported_parameter")
}

/// The error for more of something than the limits allow.
pub(crate) fn too_many(path: &str, what: &str, limit: usize) -> Error {
    Error::invalid(path, format!("`{path}` has more than {limit} {what}.")).with_code("request_too_large")
}
