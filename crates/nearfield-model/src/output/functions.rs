//! Calls of Qwen 3.5 and 3.6: tags around raw values.

use serde_json::Map;

use super::{Broken, Call, ToolTypes};

const VALUE_END: &str = "</parameter>";
const CALL_END: &str = "</function>";

/// Reads `<function=NAME>`, any number of `<parameter=KEY>` with their values, `</function>`.
pub(super) fn parse(body: &str, tools: &ToolTypes) -> Result<Call, Broken> {
    let (name, mut rest) = tag(body.trim_start(), "<function=")?;
    let mut arguments = Map::new();
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix(CALL_END) {
            let done = after.trim().is_empty();
            let call = Call { name: name.to_owned(), arguments };
            return if done { Ok(call) } else { Err(Broken::Malformed) };
        }
        let (key, after) = tag(rest, "<parameter=")?;
        let (value, after) = split_value(after).ok_or(Broken::Unfinished)?;
        arguments.insert(key.to_owned(), tools.typed_text(name, key, inner(value)));
        rest = after;
    }
}

/// The name in a tag that begins a text, and what follows.
fn tag<'a>(text: &'a str, open: &str) -> Result<(&'a str, &'a str), Broken> {
    let inside = text.strip_prefix(open).ok_or(Broken::Malformed)?;
    let (name, rest) = inside.split_once('>').ok_or(Broken::Malformed)?;
    let name = name.trim().trim_matches('"');
    if name.is_empty() || name.contains(['\n', '<']) { Err(Broken::Malformed) } else { Ok((name, rest)) }
}

/// A value and what follows its end. An end that nothing follows which could stand there is part of the value.
fn split_value(text: &str) -> Option<(&str, &str)> {
    text.match_indices(VALUE_END).find_map(|(place, _)| {
        let after = text.get(place + VALUE_END.len()..)?;
        let next = after.trim_start();
        let last = next.strip_prefix(CALL_END).is_some_and(|rest| rest.trim().is_empty());
        let ends = last || next.starts_with("<parameter=");
        ends.then_some((text.get(..place)?, after))
    })
}

/// A value without the one line break on each side that is not part of it.
fn inner(value: &str) -> &str {
    let value = value.strip_prefix('\n').unwrap_or(value);
    value.strip_suffix('\n').unwrap_or(value)
}
