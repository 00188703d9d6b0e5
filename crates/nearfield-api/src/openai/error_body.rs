//! Writes errors.

use serde::Serialize;

use crate::{Error, ErrorKind};

#[derive(Serialize)]
struct Body<'a> {
    error: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

/// The body of an error reply, and the data of an error event inside a stream: clients of this dialect raise on both.
pub fn error_body(error: &Error) -> String {
    let body = Body {
        error: Inner {
            message: &error.message,
            r#type: error.kind.openai_type(),
            param: error.param.as_deref(),
            code: error.code.as_deref().or(default_code(error.kind)),
        },
    };
    // Strings and options of strings always serialize.
    serde_json::to_string(&body).unwrap_or_else(|_| r#"{"error":{"message":"internal error"}}"#.to_owned())
}

/// The code that clients look for when the error itself names none.
const fn default_code(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::ContextLength => Some("context_length_exceeded"),
        ErrorKind::Authentication => Some("invalid_api_key"),
        ErrorKind::RateLimited => Some("rate_limit_exceeded"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn bodies_have_all_four_fields() {
        let error = Error::invalid("tools", "`tools` is not supported.").with_code("unsupported_parameter");
        assert_eq!(
            serde_json::from_str::<Value>(&error_body(&error)).unwrap(),
            json!({"error": {"message": "`tools` is not supported.", "type": "invalid_request_error",
                "param": "tools", "code": "unsupported_parameter"}})
        );
        let error = Error::new(ErrorKind::ContextLength, "9 > 8");
        assert_eq!(
            serde_json::from_str::<Value>(&error_body(&error)).unwrap(),
            json!({"error": {"message": "9 > 8", "type": "invalid_request_error", "param": null,
                "code": "context_length_exceeded"}})
        );
    }
}
