//! Looks for values in what a server received: in the address, the headers and the body, through every encoding in
//! which they could hide.

use nearfield_testkit::cloud_server::CloudRequest;
use serde_json::Value;

/// How deep encodings may lie in each other.
const DEPTH: usize = 4;

/// Everything that a request says, decoded in every way.
pub(crate) fn views(request: &CloudRequest) -> Vec<String> {
    let mut found = Vec::new();
    let body = String::from_utf8_lossy(&request.body).into_owned();
    for text in std::iter::once(&request.target)
        .chain(request.headers.iter().flat_map(|(name, value)| [name, value]))
        .chain([&body])
    {
        look(text, DEPTH, &mut found);
    }
    found
}

/// Whether one of the views holds a value, in whichever case.
pub(crate) fn holds(views: &[String], value: &str) -> bool {
    let value = value.to_lowercase();
    views.iter().any(|view| view.contains(&value))
}

fn look(text: &str, depth: usize, found: &mut Vec<String>) {
    let lower = text.to_lowercase();
    if text.is_empty() || found.contains(&lower) {
        return;
    }
    found.push(lower);
    let Some(depth) = depth.checked_sub(1) else { return };
    if let Ok(tree) = serde_json::from_str::<Value>(text) {
        strings(&tree, depth, found);
    }
    for decoded in [unescaped(text), percent(text)].into_iter().flatten() {
        look(&decoded, depth, found);
    }
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || "+/-_".contains(c);
    for run in text.split(|c| !is_base64(c)).filter(|run| run.len() >= 12) {
        if let Some(decoded) = base64(run) {
            look(&decoded, depth, found);
        }
    }
}

fn strings(tree: &Value, depth: usize, found: &mut Vec<String>) {
    match tree {
        Value::String(text) => look(text, depth, found),
        Value::Array(items) => items.iter().for_each(|item| strings(item, depth, found)),
        Value::Object(fields) => {
            for (key, value) in fields {
                look(key, depth, found);
                strings(value, depth, found);
            }
        }
        Value::Number(number) => look(&number.to_string(), depth, found),
        Value::Null | Value::Bool(_) => {}
    }
}

/// The text with `\uXXXX` read, wherever it stands; `None` where there is none.
fn unescaped(text: &str) -> Option<String> {
    text.contains("\\u").then(|| {
        let mut parts = text.split("\\u");
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let code = part.get(..4).and_then(|digits| u32::from_str_radix(digits, 16).ok());
            match code.and_then(char::from_u32) {
                Some(c) => {
                    out.push(c);
                    out.push_str(&part[4..]);
                }
                None => out.push_str(part),
            }
        }
        out
    })
}

fn percent(text: &str) -> Option<String> {
    text.contains('%').then(|| {
        let bytes = text.as_bytes();
        let (mut out, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let code = text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
            if let Some(byte) = code.filter(|_| bytes[at] == b'%') {
                out.push(byte);
                at += 3;
            } else {
                out.push(bytes[at]);
                at += 1;
            }
        }
        String::from_utf8_lossy(&out).into_owned()
    })
}

/// The text of a run in either alphabet; `None` when it is no text.
fn base64(run: &str) -> Option<String> {
    let (mut out, mut held, mut bits) = (Vec::new(), 0_u32, 0);
    for byte in run.bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            _ => 63,
        };
        held = (held << 6) | u32::from(digit);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((held >> bits) as u8);
        }
    }
    String::from_utf8(out).ok()
}

#[test]
fn a_value_is_found_in_every_hiding_place() {
    let request = |target: &str, headers: Vec<(String, String)>, body: &str| CloudRequest {
        method: "POST".to_owned(),
        target: target.to_owned(),
        headers,
        body: body.to_owned().into(),
    };
    let value = "jo.planted@x.example";
    for body in [
        r#"{"a":"mail JO.planted@x.example"}"#,
        r#"{"jo.planted@x.example":1}"#,
        r#"{"a":"jo.planted\u0040x.example"}"#,
        r#"{"arguments":"{\"to\":\"jo.planted\\u0040x.example\"}"}"#,
        r#"{"a":"jo.planted%40x.example"}"#,
        r#"{"a":"am8ucGxhbnRlZEB4LmV4YW1wbGU="}"#,
        r"not json, jo.planted\u0040x.example",
    ] {
        assert!(holds(&views(&request("/", Vec::new(), body)), value), "{body}");
    }
    let header = vec![("x-a".to_owned(), "am8ucGxhbnRlZEB4LmV4YW1wbGU".to_owned())];
    assert!(holds(&views(&request("/", header, "{}")), value));
    assert!(holds(&views(&request("/?q=jo%2Eplanted%40x.example", Vec::new(), "{}")), value));
    assert!(!holds(&views(&request("/", Vec::new(), r#"{"a":"[EMAIL_1]"}"#)), value));
}
