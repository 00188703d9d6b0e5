//! The filter `tojson` as `transformers` defines it: Python's `json.dumps` with all characters written as they are.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::python;

/// Deepest nesting that is written.
const MAX_DEPTH: usize = 200;

/// `json.dumps`: keys in their order unless `sort_keys`, `", "` and `": "` between parts, or lines when `indent` is given.
pub(super) fn tojson(value: &Value, indent: Option<Value>, arguments: Kwargs) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => arguments.get::<Option<Value>>("indent")?,
    };
    let indent = match indent {
        Some(indent) if indent.is_none() || indent.is_undefined() => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(indent)?.min(64)),
        }),
        None => None,
    };
    let separators = arguments.get::<Option<Vec<String>>>("separators")?;
    let separators = match separators.as_deref() {
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(refuse("the separators of tojson must be two")),
    };
    let mut writer = Writer {
        out: String::new(),
        indent,
        separators,
        sort_keys: arguments.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ascii: arguments.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    arguments.assert_all_used()?;
    writer.value(value, 0)?;
    Ok(writer.out)
}

fn refuse(problem: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem)
}

struct Writer {
    out: String,
    indent: Option<String>,
    /// Between items, and behind keys.
    separators: (String, String),
    sort_keys: bool,
    ascii: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(refuse("a value is nested too deeply for tojson"));
        }
        match value.kind() {
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Map => {
                let mut keys = value.try_iter()?.collect::<Vec<_>>();
                if self.sort_keys {
                    keys.sort();
                }
                let entries = keys.into_iter().map(|key| Ok((Some(key_text(&key)?), value.get_item(&key)?)));
                self.items(['{', '}'], entries, depth)?;
            }
            ValueKind::Seq | ValueKind::Iterable => {
                self.items(['[', ']'], value.try_iter()?.map(|item| Ok((None, item))), depth)?;
            }
            _ => self.out.push_str(&scalar(value)?),
        }
        Ok(())
    }

    fn items(
        &mut self,
        brackets: [char; 2],
        items: impl Iterator<Item = Result<(Option<String>, Value), Error>>,
        depth: usize,
    ) -> Result<(), Error> {
        let [open, close] = brackets;
        self.out.push(open);
        let mut empty = true;
        for item in items {
            let (key, item) = item?;
            if !empty {
                self.out.push_str(&self.separators.0);
            }
            empty = false;
            self.line(depth + 1);
            if let Some(key) = key {
                self.string(&key);
                self.out.push_str(&self.separators.1);
            }
            self.value(&item, depth + 1)?;
        }
        if !empty {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            (0..depth).for_each(|_| self.out.push_str(indent));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for character in text.chars() {
            match character {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{C}' => self.out.push_str("\\f"),
                _ if character < ' ' || self.ascii && !matches!(character, ' '..='~') => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        self.out.push_str("\\u");
                        let digit = |shift: u32| char::from_digit(u32::from(*unit) >> shift & 15, 16);
                        self.out.extend([12, 8, 4, 0].into_iter().filter_map(digit));
                    }
                }
                _ => self.out.push(character),
            }
        }
        self.out.push('"');
    }
}

/// Numbers, booleans and none.
fn scalar(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if value.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Number if value.is_integer() => Ok(value.to_string()),
        ValueKind::Number => {
            let text = python::float(f64::try_from(value.clone())?);
            Ok(match text.as_str() {
                "nan" => "NaN".to_owned(),
                "inf" => "Infinity".to_owned(),
                "-inf" => "-Infinity".to_owned(),
                _ => text,
            })
        }
        kind => Err(refuse(format!("tojson cannot write a value of the kind {kind}"))),
    }
}

fn key_text(key: &Value) -> Result<String, Error> {
    match key.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => scalar(key),
    }
}
