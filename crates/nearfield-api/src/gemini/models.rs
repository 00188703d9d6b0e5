//! Lists of models.

use serde_json::Value;

use crate::answer::malformed;
use crate::{Error, ModelInfo};

/// Reads a list of models. Those that cannot generate are left out, where the list says so.
///
/// # Errors
/// [`crate::ErrorKind::Upstream`] when it is none.
pub fn decode_models(body: &[u8]) -> Result<Vec<ModelInfo>, Error> {
    let tree: Value =
        serde_json::from_slice(body).map_err(|_| malformed("the list of models is not JSON"))?;
    let models = tree.get("models").and_then(Value::as_array);
    let models = models.ok_or_else(|| malformed("the list of models is none"))?;
    let generates = |model: &Value| {
        model
            .get("supportedGenerationMethods")
            .and_then(Value::as_array)
            .is_none_or(|methods| methods.iter().any(|method| method.as_str() == Some("generateContent")))
    };
    Ok(models
        .iter()
        .filter(|model| generates(model))
        .filter_map(|model| {
            let name = model.get("name")?.as_str()?;
            Some(ModelInfo {
                id: name.strip_prefix("models/").unwrap_or(name).to_owned(),
                context_length: model.get("inputTokenLimit").and_then(Value::as_u64),
            })
        })
        .collect())
}
