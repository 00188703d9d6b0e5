//! What the caller expects the answer to be: the `prediction` of a chat request. It makes a right guess cheap and changes
//! nothing else.

use nearfield_api::{Error, ErrorKind, Prompt, Request};
use nearfield_model::tokenizer::Special;
use serde_json::Value;

use super::models::Lease;

/// Takes the predicted text out of a chat request.
pub(super) fn take(request: &mut Request) -> Result<Option<String>, Error> {
    if !matches!(request.prompt, Prompt::Chat(_)) {
        return Ok(None);
    }
    match request.extra.remove("prediction") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => text(&value).map(Some).ok_or_else(|| {
            Error::invalid(
                "prediction",
                "must be {\"type\": \"content\", \"content\": ...} with a string or an array of text parts",
            )
        }),
    }
}

/// The text of a prediction; `None` where it is not one.
fn text(value: &Value) -> Option<String> {
    let object = value.as_object().filter(|object| object.len() == 2)?;
    object.get("type").filter(|kind| *kind == "content")?;
    match object.get("content")? {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => {
            let part = |part: &Value| {
                let object = part.as_object().filter(|object| object.len() == 2)?;
                object.get("type").filter(|kind| *kind == "text")?;
                object.get("text")?.as_str().map(str::to_owned)
            };
            parts.iter().map(part).collect::<Option<Vec<_>>>().map(|texts| texts.join("\n"))
        }
        _ => None,
    }
}

/// The tokens of a predicted text. Nothing in it is a control token.
pub(super) async fn encode(lease: &Lease, prediction: Option<String>) -> Result<Vec<u32>, Error> {
    let Some(prediction) = prediction else { return Ok(Vec::new()) };
    let text = lease.shared_text();
    // A text of the longest request takes a while: beside the threads that serve others.
    tokio::task::spawn_blocking(move || text.tokenizer().encode(&prediction, Special::AsText).ids)
        .await
        .map_err(|_| Error::new(ErrorKind::Internal, "the prediction could not be encoded"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn taken(prediction: Value) -> Result<Option<String>, Error> {
        let body = json!({
            "model": "m",
            "messages": [{ "role": "user", "content": "x" }],
            "prediction": prediction,
        });
        let limits = nearfield_api::openai::Limits::default();
        let (mut request, _) =
            nearfield_api::openai::parse_chat_request(body.to_string().as_bytes(), &limits).unwrap();
        let text = take(&mut request);
        assert!(!request.extra.contains_key("prediction"), "what is taken is not left for others to refuse");
        text
    }

    #[test]
    fn a_prediction_is_a_text_or_parts_of_one() {
        let text = |prediction| taken(prediction).unwrap();
        assert_eq!(text(Value::Null), None);
        assert_eq!(text(json!({"type": "content", "content": "abc"})).as_deref(), Some("abc"));
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        assert_eq!(text(json!({"type": "content", "content": parts})).as_deref(), Some("a\nb"));
    }

    #[test]
    fn what_is_no_prediction_is_refused_by_name() {
        for wrong in [
            json!("abc"),
            json!({"type": "content"}),
            json!({"type": "other", "content": "a"}),
            json!({"type": "content", "content": 5}),
            json!({"type": "content", "content": [{"type": "image_url", "text": "a"}]}),
            json!({"type": "content", "content": "a", "more": 1}),
        ] {
            let error = taken(wrong.clone()).unwrap_err();
            assert_eq!(
                (error.kind, error.param.as_deref()),
                (ErrorKind::InvalidRequest, Some("prediction")),
                "{wrong}"
            );
        }
    }
}
