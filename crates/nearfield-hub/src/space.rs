//! The disk is asked before it is filled.

use std::path::Path;

use crate::error::HubError;
use crate::settings::HubSettings;

/// Bytes left free beyond what a model needs, so that the system keeps working (64 MiB).
const MARGIN_BYTES: u64 = 64 << 20;

/// Checks that `needed` more bytes fit where `path` lies (the path itself need not exist, its parent must).
pub(crate) fn require_space(settings: &HubSettings, path: &Path, needed: u64) -> Result<(), HubError> {
    if needed == 0 {
        return Ok(());
    }
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
    let free = (settings.free_space)(folder).map_err(|error| HubError::io(folder, error))?;
    let needed = needed.saturating_add(MARGIN_BYTES);
    if free < needed {
        return Err(HubError::DiskFull { path: folder.to_owned(), needed, free });
    }
    Ok(())
}
