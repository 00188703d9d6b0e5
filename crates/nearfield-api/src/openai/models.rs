//! The list of models, written and read.

use serde::Serialize;
use serde_json::Value;

use crate::{Error, ErrorKind, ModelInfo};

/// A model as `/v1/models` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelEntry {
    /// Its name and context.
    pub info: ModelInfo,
    /// When it came to be here, in seconds since 1970.
    pub created: u64,
    /// Whose it is: a backend's or an organization's name.
    pub owned_by: String,
}

#[derive(Serialize)]
struct WireModel<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_length: Option<u64>,
}

impl<'a> From<&'a ModelEntry> for WireModel<'a> {
    fn from(entry: &'a ModelEntry) -> Self {
        Self {
            id: &entry.info.id,
            object: "model",
            created: entry.created,
            owned_by: &entry.owned_by,
            context_length: entry.info.context_length,
        }
    }
}

/// The body of `/v1/models`.
pub fn models_body(entries: &[ModelEntry]) -> String {
    #[derive(Serialize)]
    struct List<'a> {
        object: &'static str,
        data: Vec<WireModel<'a>>,
    }
    json(&List { object: "list", data: entries.iter().map(WireModel::from).collect() })
}

/// The body of `/v1/models/{id}`.
pub fn model_body(entry: &ModelEntry) -> String {
    json(&WireModel::from(entry))
}

/// Structs of strings and numbers always serialize.
pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Reads a list of models. Entries without an `id` are left out; a context length is taken from any of the names that
/// servers use for it.
///
/// # Errors
/// [`ErrorKind::Upstream`] when the body is no list of models.
pub fn decode_models(body: &[u8]) -> Result<Vec<ModelInfo>, Error> {
    let no_list = || {
        Error::new(ErrorKind::Upstream, "The backend's list of models cannot be read; check its base URL.")
    };
    let tree: Value = serde_json::from_slice(body).map_err(|_| no_list())?;
    let items = tree.get("data").unwrap_or(&tree).as_array().ok_or_else(no_list)?;
    Ok(items
        .iter()
        .filter_map(|item| {
            Some(ModelInfo {
                id: item.get("id")?.as_str()?.to_owned(),
                context_length: ["context_length", "max_model_len", "context_window", "max_context_length"]
                    .iter()
                    .find_map(|name| item.get(name)?.as_u64()),
            })
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_are_written_and_read() {
        let entry = ModelEntry {
            info: ModelInfo { id: "smollm2:135m".into(), context_length: Some(8192) },
            created: 7,
            owned_by: "local".into(),
        };
        let wire = json!({"id": "smollm2:135m", "object": "model", "created": 7, "owned_by": "local",
            "context_length": 8192});
        assert_eq!(serde_json::from_str::<Value>(&model_body(&entry)).unwrap(), wire);
        let body = models_body(std::slice::from_ref(&entry));
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), json!({"object": "list", "data": [wire]}));
        assert_eq!(decode_models(body.as_bytes()).unwrap(), [entry.info]);
    }

    #[test]
    fn foreign_lists() {
        let body = br#"{"data":[{"id":"a","max_model_len":4096,"x":1},{"name":"no id"},{"id":"b"}]}"#;
        let models = decode_models(body).unwrap();
        assert_eq!(models[0], ModelInfo { id: "a".into(), context_length: Some(4096) });
        assert_eq!(models[1].id, "b");
        assert!(decode_models(b"<html>").is_err());
        assert!(decode_models(b"{}").is_err());
        assert!(decode_models(b"[]").unwrap().is_empty());
    }
}
