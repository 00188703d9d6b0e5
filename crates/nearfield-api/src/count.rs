//! Token counts in JSON.

use serde_json::Value;

/// Reads counts that may be missing, null or written as a fraction.
pub(crate) trait Counts {
    /// The count at a path of names.
    fn count(&self, path: &[&str]) -> Option<u64>;
}

impl Counts for Value {
    fn count(&self, path: &[&str]) -> Option<u64> {
        let number = path.iter().try_fold(self, |value, name| value.get(name))?;
        number.as_u64().or_else(|| {
            // Some servers write counts as 12.0.
            number.as_f64().filter(|n| *n >= 0.0 && n.fract() == 0.0 && *n < 1e15).map(|n| n as u64)
        })
    }
}
