//! Filters whose results or arguments differ between the template engine and Python's Jinja: these are as in Python.

use std::cmp::Ordering;

use minijinja::value::{Kwargs, Tuple, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind};

use super::python::is_space;
use super::strings;

/// Puts the filters into an environment.
pub(super) fn install(environment: &mut Environment<'_>) {
    environment.add_filter("trim", trim);
    environment.add_filter("replace", replace);
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("dictsort", dictsort);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("indent", indent);
    environment.add_filter("escape", escape);
    environment.add_filter("e", escape);
    environment.add_filter("truncate", truncate);
    environment.add_filter("wordcount", word_count);
}

/// The text of any value; Python's `str`.
fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn trim(value: &Value, characters: Option<Value>) -> String {
    let text = text_of(value);
    match characters.as_ref().and_then(Value::as_str) {
        Some(characters) => text.trim_matches(|at| characters.contains(at)).to_owned(),
        None => text.trim_matches(is_space).to_owned(),
    }
}

fn replace(value: &Value, old: &Value, new: &Value, count: Option<i64>) -> Result<String, Error> {
    let limit = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    strings::replace(&text_of(value), &text_of(old), &text_of(new), limit)
}

fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() {
        return Ok(0);
    }
    value.len().ok_or_else(|| {
        let problem = format!("a value of the kind {} has no length", value.kind());
        Error::new(ErrorKind::InvalidOperation, problem)
    })
}

fn default(
    value: &Value,
    other: Option<Value>,
    boolean: Option<bool>,
    named: Kwargs,
) -> Result<Value, Error> {
    let other = other.or(named.get("default_value")?).unwrap_or_else(|| Value::from(""));
    let boolean = boolean.or(named.get("boolean")?).unwrap_or(false);
    named.assert_all_used()?;
    Ok(if value.is_undefined() || boolean && !value.is_true() { other } else { value.clone() })
}

fn dictsort(
    value: &Value,
    case_sensitive: Option<bool>,
    by: Option<String>,
    reverse: Option<bool>,
    named: Kwargs,
) -> Result<Value, Error> {
    let case_sensitive = case_sensitive.or(named.get("case_sensitive")?).unwrap_or(false);
    let by = by.or(named.get("by")?);
    let reverse = reverse.or(named.get("reverse")?).unwrap_or(false);
    named.assert_all_used()?;
    let by_value = match by.as_deref() {
        None | Some("key") => false,
        Some("value") => true,
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "dictsort sorts by key or value")),
    };
    if value.kind() != ValueKind::Map {
        return Err(Error::new(ErrorKind::InvalidOperation, "dictsort takes a dictionary"));
    }
    let entry = |key: Value| {
        let item = value.get_item(&key)?;
        let sorted = if by_value { &item } else { &key };
        let sorted = match sorted.as_str() {
            Some(text) if !case_sensitive => Value::from(text.to_lowercase()),
            _ => sorted.clone(),
        };
        Ok((sorted, Value::from(Tuple::from(vec![key, item]))))
    };
    let mut entries = value.try_iter()?.map(entry).collect::<Result<Vec<_>, Error>>()?;
    let compare = |one: &(Value, Value), other: &(Value, Value)| -> Ordering { one.0.cmp(&other.0) };
    entries.sort_by(|one, other| if reverse { compare(other, one) } else { compare(one, other) });
    Ok(entries.into_iter().map(|(_, entry)| entry).collect())
}

/// A number in text as Python's `float` reads it.
fn parsed(text: &str) -> Option<f64> {
    text.trim_matches(is_space).parse().ok()
}

fn int(value: &Value, default: Option<Value>, base: Option<u32>, named: Kwargs) -> Result<Value, Error> {
    let default = default.or(named.get("default")?).unwrap_or_else(|| Value::from(0));
    let base = base.or(named.get("base")?).unwrap_or(10);
    named.assert_all_used()?;
    let whole = |number: f64| (number.abs() < 1e18).then(|| Value::from(number.trunc() as i64));
    let found = match value.kind() {
        ValueKind::Number if value.is_integer() => Some(value.clone()),
        ValueKind::Number => whole(f64::try_from(value.clone())?),
        ValueKind::Bool => Some(Value::from(i64::from(value.is_true()))),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default().trim_matches(is_space);
            let whole_number = (2..=36).contains(&base).then(|| i64::from_str_radix(text, base).ok());
            whole_number.flatten().map(Value::from).or_else(|| parsed(text).and_then(whole))
        }
        _ => None,
    };
    Ok(found.unwrap_or(default))
}

fn float(value: &Value, default: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let default = default.or(named.get("default")?).unwrap_or_else(|| Value::from(0.0));
    named.assert_all_used()?;
    let found = match value.kind() {
        ValueKind::Number => Some(f64::try_from(value.clone())?),
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        ValueKind::String => parsed(value.as_str().unwrap_or_default()),
        _ => None,
    };
    Ok(found.map_or(default, Value::from))
}

fn indent(
    value: &Value,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    named: Kwargs,
) -> Result<String, Error> {
    let width = width.or(named.get("width")?).unwrap_or_else(|| Value::from(4));
    let first = first.or(named.get("first")?).unwrap_or(false);
    let blank = blank.or(named.get("blank")?).unwrap_or(false);
    named.assert_all_used()?;
    let indentation = match width.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(usize::try_from(width)?.min(1024)),
    };
    // As in Jinja: a line break at the end gives an empty last line.
    let text = text_of(value) + "\n";
    let lines = strings::lines(&text, false);
    strings::check_length(text.len().saturating_add(lines.len().saturating_mul(indentation.len())))?;
    let mut out = String::with_capacity(text.len());
    for (number, line) in lines.iter().enumerate() {
        if number > 0 {
            out.push('\n');
        }
        if if number == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&indentation);
        }
        out.push_str(line);
    }
    Ok(out)
}

fn escape(value: &Value) -> Value {
    if value.is_safe() {
        return value.clone();
    }
    let text = text_of(value).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    Value::from_safe_string(text.replace('\'', "&#39;").replace('"', "&#34;"))
}

fn truncate(
    value: &Value,
    length: Option<usize>,
    kill_words: Option<bool>,
    end: Option<String>,
    named: Kwargs,
) -> Result<String, Error> {
    let length = length.or(named.get("length")?).unwrap_or(255);
    let kill_words = kill_words.or(named.get("killwords")?).unwrap_or(false);
    let end = end.or(named.get("end")?).unwrap_or_else(|| "...".to_owned());
    let leeway = named.get::<Option<usize>>("leeway")?.unwrap_or(5);
    named.assert_all_used()?;
    let text = text_of(value);
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text);
    }
    let kept: String = text.chars().take(length.saturating_sub(end.chars().count())).collect();
    let kept =
        if kill_words { kept.as_str() } else { kept.rsplit_once(' ').map_or(kept.as_str(), |parts| parts.0) };
    Ok(format!("{kept}{end}"))
}

fn word_count(value: &Value) -> usize {
    let text = text_of(value);
    text.split(|at: char| !(at.is_alphanumeric() || at == '_')).filter(|word| !word.is_empty()).count()
}
