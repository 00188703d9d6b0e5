//! Reads what a backend says when it refuses or fails.

use std::time::Duration;

use serde_json::Value;

use crate::{Error, ErrorKind};

/// The longest text of a backend that is passed on, in characters.
const LONGEST_MESSAGE: usize = 400;

/// What an error body says, in whichever form.
#[derive(Debug, Default)]
struct Said {
    message: Option<String>,
    param: Option<String>,
    /// The code, when it is a word.
    code: Option<String>,
    /// The code, when it is a status.
    status: Option<u16>,
    kind: Option<String>,
}

/// The error for a reply with another status than 200.
///
/// A backend's refusal of its key, and its own faults, are the operator's matter ([`ErrorKind::Upstream`]); of those
/// the backend's words are not passed on, since they may quote the key. A refusal of the request is the caller's.
pub fn decode_error(status: u16, body: &[u8], retry_after: Option<Duration>) -> Error {
    let said = serde_json::from_slice(body).map(|tree| read(&tree)).unwrap_or_default();
    classify(status, said, retry_after)
}

/// The error for an `error` object inside a stream or in a reply with status 200.
pub fn decode_stream_error(chunk: &Value) -> Error {
    let said = read(chunk);
    let named = said.code.as_deref().or(said.kind.as_deref()).unwrap_or_default();
    let status = said.status.unwrap_or(match named {
        "rate_limit_exceeded" | "rate_limit_error" => 429,
        "overloaded_error" | "overloaded" | "service_unavailable" => 503,
        "timeout" => 504,
        "invalid_request_error"
        | "context_length_exceeded"
        | "content_filter"
        | "exceed_context_size_error"
        | "BadRequestError" => 400,
        "insufficient_quota" => 402,
        "invalid_api_key" | "authentication_error" => 401,
        _ => 500,
    });
    classify(status, said, None)
}

fn classify(status: u16, said: Said, retry_after: Option<Duration>) -> Error {
    let context = is_context_length(&said);
    let quota = said.code.as_deref() == Some("insufficient_quota") || status == 402;
    let (kind, what) = match status {
        _ if context => (ErrorKind::ContextLength, "says that prompt and answer do not fit its context"),
        _ if quota => {
            (ErrorKind::Upstream, "says that the account has no credit left; check the account's billing")
        }
        300..=399 => (
            ErrorKind::Upstream,
            "answered with a redirect, which is not followed; set its base URL to the final address",
        ),
        400 | 422 => (ErrorKind::InvalidRequest, "refused the request"),
        413 => (ErrorKind::InvalidRequest, "says that the request is too large"),
        401 | 403 => (
            ErrorKind::Upstream,
            "refused our credentials; check the key that is configured for it and what the key may use",
        ),
        404 if said.message.is_some() => (ErrorKind::NotFound, "does not have what was asked for"),
        404 | 405 => {
            (ErrorKind::Upstream, "has no such route; check its base URL, which usually ends in /v1")
        }
        408 | 504 => (ErrorKind::Timeout, "took too long by its own measure"),
        429 => (ErrorKind::RateLimited, "limits the rate of requests"),
        503 | 529 => (ErrorKind::Overloaded, "is overloaded or down"),
        500..=599 => (ErrorKind::Upstream, "failed"),
        _ => (ErrorKind::Upstream, "answered with a status that is not expected"),
    };
    let mut message = format!("The backend {what} (HTTP {status}).");
    let is_callers =
        matches!(kind, ErrorKind::InvalidRequest | ErrorKind::ContextLength | ErrorKind::NotFound);
    if is_callers && let Some(words) = &said.message {
        message.push_str(" It says: ");
        message.push_str(words);
    }
    let mut error = Error::new(kind, message);
    error.code = match kind {
        ErrorKind::ContextLength => Some("context_length_exceeded".to_owned()),
        ErrorKind::Upstream if quota => Some("insufficient_quota".to_owned()),
        ErrorKind::Upstream if matches!(status, 401 | 403) => Some("backend_credentials".to_owned()),
        ErrorKind::Upstream if matches!(status, 300..=399) => Some("backend_redirects".to_owned()),
        ErrorKind::Upstream if matches!(status, 404 | 405) => Some("backend_has_no_such_route".to_owned()),
        _ => said.code,
    };
    if is_callers {
        error.param = said.param;
    }
    if matches!(kind, ErrorKind::RateLimited | ErrorKind::Overloaded) {
        error.retry_after = retry_after;
    }
    error
}

/// How servers say in words that a prompt does not fit: vLLM and OpenAI's chat, OpenAI's Responses, llama.cpp, Anthropic
/// (twice), Bedrock (twice), Gemini. In small letters.
const TOO_LONG: [&str; 8] = [
    "maximum context length",
    "exceeds the context window",
    "exceeds the available context size",
    "prompt is too long",
    "exceed context limit",
    "input is too long",
    "too many input tokens",
    "exceeds the maximum number of tokens",
];

/// Servers say this by code, by type, or in words only.
fn is_context_length(said: &Said) -> bool {
    let is =
        |word: &Option<String>, names: &[&str]| word.as_deref().is_some_and(|word| names.contains(&word));
    is(&said.code, &["context_length_exceeded"])
        || is(&said.kind, &["exceed_context_size_error"])
        || said.message.as_deref().is_some_and(|words| {
            let words = words.to_ascii_lowercase();
            TOO_LONG.iter().any(|said| words.contains(said))
        })
}

fn read(tree: &Value) -> Said {
    // Some servers wrap the error in an array of one.
    let tree = tree.as_array().and_then(|items| items.first()).unwrap_or(tree);
    let inner = tree.get("error").filter(|inner| !inner.is_null()).unwrap_or(tree);
    let word = |name| inner.get(name).and_then(Value::as_str).filter(|word| is_word(word)).map(str::to_owned);
    let status = ["code", "status"].iter().find_map(|name| u16::try_from(inner.get(name)?.as_u64()?).ok());
    let message = inner
        .as_str()
        .or_else(|| ["message", "detail"].iter().find_map(|name| inner.get(name)?.as_str()))
        .map(tidy)
        .filter(|words| !words.is_empty());
    Said { message, param: word("param"), code: word("code"), status, kind: word("type") }
}

/// Whether a text looks like an identifier or a field's path: only such are passed on as code or param.
fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 100
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.[]".contains(&byte))
}

/// One line without control characters, and not too long.
fn tidy(text: &str) -> String {
    let mut line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LONGEST_MESSAGE)
        .collect::<String>()
        .trim()
        .to_owned();
    if text.chars().nth(LONGEST_MESSAGE).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn decode(status: u16, body: &Value) -> Error {
        decode_error(status, body.to_string().as_bytes(), Some(Duration::from_secs(3)))
    }

    #[test]
    fn a_refused_request_is_passed_on() {
        let body = json!({"error": {"message": "Web search options not supported with this model.",
            "type": "invalid_request_error", "param": "web_search_options", "code": null}});
        let error = decode(400, &body);
        assert_eq!(error.kind, ErrorKind::InvalidRequest);
        assert_eq!(error.param.as_deref(), Some("web_search_options"));
        assert!(error.message.contains("not supported with this model"), "{error}");
        assert_eq!(error.retry_after, None);
    }

    #[test]
    fn the_key_is_never_quoted() {
        for status in [401, 403] {
            let error = decode(
                status,
                &json!({"error": {"message": "Incorrect API key provided: sk-abc123", "code": "invalid_api_key"}}),
            );
            assert_eq!(error.kind, ErrorKind::Upstream);
            assert!(!error.message.contains("sk-abc"), "{error}");
            assert!(error.message.contains("check the key"), "{error}");
        }
    }

    #[test]
    fn kinds_follow_status_and_words() {
        let plain = json!({"error": {"message": "m"}});
        for (status, kind, waits) in [
            (302, ErrorKind::Upstream, false),
            (402, ErrorKind::Upstream, false),
            (404, ErrorKind::NotFound, false),
            (408, ErrorKind::Timeout, false),
            (413, ErrorKind::InvalidRequest, false),
            (418, ErrorKind::Upstream, false),
            (422, ErrorKind::InvalidRequest, false),
            (429, ErrorKind::RateLimited, true),
            (500, ErrorKind::Upstream, false),
            (503, ErrorKind::Overloaded, true),
            (504, ErrorKind::Timeout, false),
            (529, ErrorKind::Overloaded, true),
        ] {
            let error = decode(status, &plain);
            assert_eq!(error.kind, kind, "{status}");
            assert_eq!(error.retry_after.is_some(), waits, "{status}");
        }
        assert_eq!(decode_error(404, b"<html>", None).kind, ErrorKind::Upstream);
        let quota = decode(429, &json!({"error": {"message": "m", "code": "insufficient_quota"}}));
        assert_eq!((quota.kind, quota.retry_after), (ErrorKind::Upstream, None));
    }

    #[test]
    fn context_length_in_every_wording() {
        for body in [
            json!({"error": {"message": "m", "code": "context_length_exceeded"}}),
            json!({"error": {"message": "m", "type": "exceed_context_size_error", "code": 400}}),
            json!({"object": "error", "message": "This model's maximum context length is 4096 tokens.", "code": 400}),
            json!({"type": "error", "error": {"type": "invalid_request_error",
                "message": "prompt is too long: 210000 tokens > 200000 maximum"}}),
            json!({"type": "error", "error": {"type": "invalid_request_error",
                "message": "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"}}),
            json!({"message": "Input is too long for requested model."}),
            json!({"error": {"code": 400, "status": "INVALID_ARGUMENT",
                "message": "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."}}),
            json!({"error": {"message": "Your input exceeds the context window of this model."}}),
        ] {
            let error = decode(400, &body);
            assert_eq!(error.kind, ErrorKind::ContextLength, "{body}");
            assert_eq!(error.code.as_deref(), Some("context_length_exceeded"));
        }
    }

    #[test]
    fn all_shapes_of_bodies() {
        for body in [
            json!({"error": {"message": "why"}}),
            json!({"error": "why"}),
            json!([{"error": {"message": "why", "status": "INVALID_ARGUMENT"}}]),
            json!({"detail": "why"}),
            json!({"message": "why"}),
        ] {
            assert!(decode(400, &body).message.ends_with("It says: why"), "{body}");
        }
        assert!(decode_error(400, b"not json", None).message.ends_with("(HTTP 400)."));
    }

    #[test]
    fn long_and_odd_words_are_tamed() {
        let error = decode(
            400,
            &json!({"error": {"message": format!("a\nb\u{1b}[0m{}", "x".repeat(9999)),
            "param": "a b", "code": "x".repeat(200)}}),
        );
        assert!(error.message.chars().count() < 500);
        assert!(!error.message.contains(char::is_control));
        assert_eq!((error.param, error.code), (None, None));
    }

    #[test]
    fn errors_inside_a_stream() {
        for (chunk, kind) in [
            (json!({"error": {"message": "m", "type": "server_error"}}), ErrorKind::Upstream),
            (json!({"error": {"message": "m", "code": 502}}), ErrorKind::Upstream),
            (json!({"error": {"message": "m", "code": "rate_limit_exceeded"}}), ErrorKind::RateLimited),
            (json!({"error": {"message": "m", "type": "overloaded_error"}}), ErrorKind::Overloaded),
            (json!({"error": {"message": "m", "code": "context_length_exceeded"}}), ErrorKind::ContextLength),
            (json!({"error": "boom"}), ErrorKind::Upstream),
        ] {
            assert_eq!(decode_stream_error(&chunk).kind, kind, "{chunk}");
        }
    }
}
