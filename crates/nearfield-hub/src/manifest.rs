//! The record of an installed model, kept beside its files.

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::catalogue::License;
use crate::digest::{Digest, Hasher};
use crate::error::HubError;
use crate::files::{read_small, write_atomically};
use crate::names::is_safe_relative;

/// File name of the manifest in a model's folder.
pub(crate) const MANIFEST_FILE: &str = "manifest.json";
/// Longest manifest, in bytes.
const MAX_MANIFEST_BYTES: u64 = 8 << 20;
/// The layout that this version writes and reads.
const FORMAT: u32 = 1;

/// What an installed model consists of and where it came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Manifest {
    /// Layout of this record.
    pub format: u32,
    /// Name by which the model is found: a catalogue name, or the reference it was pulled by.
    pub name: String,
    /// The source that delivered it, without secrets.
    pub source: String,
    /// Exact revision at the source: commit or package version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The licence, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<License>,
    /// When the pull ended.
    pub pulled_at: Timestamp,
    /// Folder of this content inside the model's folder.
    pub content: String,
    /// The file to open, relative to `content`; absent for a folder of safetensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<String>,
    /// All files, relative to `content`.
    pub files: Vec<InstalledFile>,
}

/// One file of an installed model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledFile {
    /// Path with `/`, relative to the content's folder.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// Digest that was verified when the file was fetched.
    pub sha256: Digest,
}

impl Manifest {
    pub(crate) fn new(name: String, source: String, files: Vec<InstalledFile>) -> Self {
        let mut hasher = Hasher::default();
        for file in &files {
            hasher.update(format!("{}\0{}\n", file.path, file.sha256).as_bytes());
        }
        let content = hasher.finish().short(16);
        let pulled_at = Timestamp::now();
        Self {
            format: FORMAT,
            name,
            source,
            revision: None,
            license: None,
            pulled_at,
            content,
            open: None,
            files,
        }
    }

    /// Sum of the files' lengths in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.bytes))
    }

    /// Reads the manifest in a model's folder; `Ok(None)` if there is none.
    pub(crate) fn load(folder: &Path) -> Result<Option<Self>, HubError> {
        let path = folder.join(MANIFEST_FILE);
        let Some(text) = read_small(&path, MAX_MANIFEST_BYTES)? else { return Ok(None) };
        let invalid = |reason: String| HubError::Manifest { path: path.clone(), reason };
        let manifest: Self = serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(invalid(format!("it has layout {}, this version reads {FORMAT}", manifest.format)));
        }
        let paths =
            manifest.files.iter().map(|file| &file.path).chain(&manifest.open).chain([&manifest.content]);
        if let Some(wrong) = paths.into_iter().find(|path| !is_safe_relative(path)) {
            return Err(invalid(format!("it names the file `{}`", wrong.escape_debug())));
        }
        if manifest.files.is_empty() {
            return Err(invalid("it names no files".to_owned()));
        }
        Ok(Some(manifest))
    }

    /// Writes the manifest into a model's folder: the moment at which the model is installed.
    pub(crate) fn save(&self, folder: &Path) -> Result<(), HubError> {
        let path = folder.join(MANIFEST_FILE);
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| HubError::Manifest { path: path.clone(), reason: error.to_string() })?;
        bytes.push(b'\n');
        write_atomically(&path, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let file = InstalledFile { path: "a.gguf".into(), bytes: 3, sha256: Digest::of(b"abc") };
        Manifest::new("n".into(), "s".into(), vec![file])
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::load(folder.path()).unwrap(), None);
        manifest().save(folder.path()).unwrap();
        let read = Manifest::load(folder.path()).unwrap().unwrap();
        assert_eq!((&read.content, read.bytes()), (&manifest().content, 3));
    }

    #[test]
    fn manifests_cannot_point_outside_their_folder() {
        let folder = tempfile::tempdir().unwrap();
        let good = serde_json::to_string(&manifest()).unwrap();
        let content = manifest().content;
        for (from, to) in
            [("a.gguf", "../a.gguf"), (content.as_str(), "/etc"), ("\"format\":1", "\"format\":2")]
        {
            std::fs::write(folder.path().join(MANIFEST_FILE), good.replace(from, to)).unwrap();
            assert!(matches!(Manifest::load(folder.path()), Err(HubError::Manifest { .. })), "{to}");
        }
    }
}
