//! Bounded reading of the small files beside a checkpoint.

use std::{fs::File, io::Read, path::Path};

use serde_json::{Map, Value};

use crate::error::ModelError;

/// The bytes of a file of at most `limit` bytes.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, ModelError> {
    let read = |source| ModelError::read(path, source);
    let file = File::open(path).map_err(read)?;
    let mut bytes = Vec::new();
    // One byte more than allowed tells "too large" without trusting the size that the file system reports.
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() as u64 > limit {
        let size = path.metadata().map_or(bytes.len() as u64, |metadata| metadata.len());
        return Err(ModelError::TooLarge { path: path.to_owned(), size, limit });
    }
    Ok(bytes)
}

/// A JSON file of at most `limit` bytes that holds an object.
pub(crate) fn read_object(path: &Path, limit: u64) -> Result<Map<String, Value>, ModelError> {
    let bytes = read_bounded(path, limit)?;
    serde_json::from_slice(&bytes).map_err(|error| ModelError::Json {
        path: path.to_owned(),
        problem: format!("not a JSON object: {error}"),
    })
}
