//! The methods of Python's strings, dictionaries and lists that templates call.
//!
//! Those that change a value in place are refused, as `transformers` does by its sandbox.

use minijinja::value::{Kwargs, Tuple, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};

use super::python::is_space;
use super::strings;

/// Calls a method that the template engine does not know.
pub(super) fn call(
    _state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => of_string(value.as_str().unwrap_or_default(), method, arguments),
        ValueKind::Map => of_map(value, method, arguments),
        ValueKind::Seq | ValueKind::Iterable => of_list(value, method, arguments),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

/// An error of Python's kind `ValueError`.
fn value_error(problem: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem)
}

fn of_map(map: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    match method {
        "get" => {
            let (key, default): (&Value, Option<Value>) = from_args(arguments)?;
            // A key whose value is none is there all the same.
            let found = map.try_iter()?.any(|other| other == *key);
            if found { map.get_item(key) } else { Ok(default.unwrap_or_else(|| Value::from(()))) }
        }
        "keys" | "values" | "items" | "copy" => {
            let () = from_args(arguments)?;
            let keys = map.try_iter()?;
            match method {
                "keys" => Ok(keys.collect()),
                "values" => keys.map(|key| map.get_item(&key)).collect(),
                "copy" => Ok(map.clone()),
                _ => keys
                    .map(|key| Ok(Value::from(Tuple::from(vec![key.clone(), map.get_item(&key)?]))))
                    .collect(),
            }
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn of_list(list: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    match method {
        "index" => {
            let (wanted,): (&Value,) = from_args(arguments)?;
            let place = list.try_iter()?.position(|item| item == *wanted);
            place.map(Value::from).ok_or_else(|| value_error("the value is not in the list"))
        }
        "count" => {
            let (wanted,): (&Value,) = from_args(arguments)?;
            Ok(Value::from(list.try_iter()?.filter(|item| item == wanted).count()))
        }
        "copy" => Ok(list.clone()),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn of_string(text: &str, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    match method {
        "strip" | "lstrip" | "rstrip" => strip(text, method, arguments),
        "split" | "rsplit" => split(text, method == "rsplit", arguments),
        "splitlines" => split_lines(text, arguments),
        "partition" | "rpartition" => partition(text, method == "rpartition", arguments),
        "startswith" | "endswith" => starts_or_ends(text, method == "startswith", arguments),
        "find" | "rfind" | "index" | "rindex" | "count" => search(text, method, arguments),
        "removeprefix" | "removesuffix" => {
            let (affix,): (&str,) = from_args(arguments)?;
            let rest =
                if method == "removeprefix" { text.strip_prefix(affix) } else { text.strip_suffix(affix) };
            Ok(Value::from(rest.unwrap_or(text)))
        }
        "replace" => {
            let (old, new, count, named): (&str, &str, Option<i64>, Kwargs) = from_args(arguments)?;
            let count = count.or(named.get("count")?).unwrap_or(-1);
            named.assert_all_used()?;
            let limit = usize::try_from(count).unwrap_or(usize::MAX);
            Ok(Value::from(strings::replace(text, old, new, limit)?))
        }
        "join" => {
            let (items,): (&Value,) = from_args(arguments)?;
            let mut joined = String::new();
            for (number, item) in items.try_iter()?.enumerate() {
                if number > 0 {
                    joined.push_str(text);
                }
                let wrong = || value_error("join takes strings only");
                joined.push_str(item.as_str().ok_or_else(wrong)?);
                strings::check_length(joined.len())?;
            }
            Ok(Value::from(joined))
        }
        "ljust" | "rjust" | "center" | "zfill" => padded(text, method, arguments),
        "format" => strings::format(text, arguments).map(Value::from),
        _ => {
            let () = from_args(arguments)?;
            strings::changed_case(text, method)
                .map(Value::from)
                .or_else(|| strings::is_of_kind(text, method).map(Value::from))
                .ok_or_else(|| Error::from(ErrorKind::UnknownMethod))
        }
    }
}

/// An argument that may be left out or none.
fn text_or_none(value: Option<&Value>) -> Result<Option<&str>, Error> {
    match value {
        None => Ok(None),
        Some(value) if value.is_none() => Ok(None),
        Some(value) => {
            value.as_str().map(Some).ok_or_else(|| value_error("the argument must be a string or none"))
        }
    }
}

fn strip(text: &str, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (characters,): (Option<&Value>,) = from_args(arguments)?;
    let characters = text_or_none(characters)?;
    let goes = |at: char| characters.map_or_else(|| is_space(at), |characters| characters.contains(at));
    Ok(Value::from(match method {
        "lstrip" => text.trim_start_matches(goes),
        "rstrip" => text.trim_end_matches(goes),
        _ => text.trim_matches(goes),
    }))
}

fn split(text: &str, from_end: bool, arguments: &[Value]) -> Result<Value, Error> {
    let (separator, limit, named): (Option<&Value>, Option<i64>, Kwargs) = from_args(arguments)?;
    let named_separator: Option<Value> = named.get("sep")?;
    let limit = limit.or(named.get("maxsplit")?).unwrap_or(-1);
    named.assert_all_used()?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX - 1);
    let parts: Vec<&str> = match text_or_none(separator.or(named_separator.as_ref()))? {
        Some("") => return Err(value_error("split takes no empty separator")),
        Some(separator) if from_end => {
            let mut parts: Vec<&str> = text.rsplitn(limit.saturating_add(1), separator).collect();
            parts.reverse();
            parts
        }
        Some(separator) => text.splitn(limit.saturating_add(1), separator).collect(),
        None => strings::words(text, limit, from_end),
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

fn split_lines(text: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (keep, named): (Option<bool>, Kwargs) = from_args(arguments)?;
    let keep = keep.or(named.get("keepends")?).unwrap_or(false);
    named.assert_all_used()?;
    Ok(strings::lines(text, keep).into_iter().map(Value::from).collect())
}

fn partition(text: &str, from_end: bool, arguments: &[Value]) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(arguments)?;
    if separator.is_empty() {
        return Err(value_error("partition takes no empty separator"));
    }
    let parts = if from_end { text.rsplit_once(separator) } else { text.split_once(separator) };
    let parts = match parts {
        Some((before, after)) => [before, separator, after],
        None if from_end => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from).to_vec())))
}

fn starts_or_ends(text: &str, starts: bool, arguments: &[Value]) -> Result<Value, Error> {
    let (affix, from, to): (&Value, Option<i64>, Option<i64>) = from_args(arguments)?;
    let Some((_, text)) = strings::window(text, from, to) else { return Ok(Value::from(false)) };
    let matches = |affix: &str| if starts { text.starts_with(affix) } else { text.ends_with(affix) };
    if let Some(affix) = affix.as_str() {
        return Ok(Value::from(matches(affix)));
    }
    if !matches!(affix.kind(), ValueKind::Seq) {
        return Err(value_error("startswith and endswith take a string or several"));
    }
    Ok(Value::from(affix.try_iter()?.any(|affix| affix.as_str().is_some_and(matches))))
}

fn search(text: &str, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (wanted, from, to): (&str, Option<i64>, Option<i64>) = from_args(arguments)?;
    let window = strings::window(text, from, to);
    if method == "count" {
        return Ok(Value::from(window.map_or(0, |(_, text)| match wanted {
            "" => text.chars().count() + 1,
            _ => text.matches(wanted).count(),
        })));
    }
    let found = window.and_then(|(before, text)| {
        let place = if method.starts_with('r') { text.rfind(wanted) } else { text.find(wanted) }?;
        Some(before + text.get(..place)?.chars().count())
    });
    match found {
        Some(place) => Ok(Value::from(place)),
        None if method.ends_with("find") => Ok(Value::from(-1)),
        None => Err(value_error("the substring is not there")),
    }
}

fn padded(text: &str, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (width, fill): (i64, Option<&str>) = from_args(arguments)?;
    let fill = fill.and_then(|fill| fill.chars().next()).unwrap_or(' ');
    let width = usize::try_from(width).unwrap_or(0);
    strings::check_length(width)?;
    let length = text.chars().count();
    let missing = width.saturating_sub(length);
    let pad = |count: usize, fill: char| std::iter::repeat_n(fill, count).collect::<String>();
    Ok(Value::from(match method {
        "ljust" => format!("{text}{}", pad(missing, fill)),
        "rjust" => format!("{}{text}", pad(missing, fill)),
        "zfill" => {
            let signs = usize::from(text.starts_with(['+', '-']));
            let (sign, digits) = text.split_at_checked(signs).unwrap_or(("", text));
            format!("{sign}{}{digits}", pad(missing, '0'))
        }
        _ => {
            // Python puts the odd one to the left when the width is odd.
            let left = missing / 2 + (missing & width & 1);
            format!("{}{text}{}", pad(left, fill), pad(missing - left, fill))
        }
    }))
}
