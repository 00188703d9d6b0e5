//! The files behind the keys: private, replaced whole, locked while they change.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{KeyError, KeyRecord, MAX_KEYS};

/// The layout that this program writes.
const VERSION: u32 = 1;
/// No file of [`MAX_KEYS`] keys is longer.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// No file of one key is longer.
const MAX_SECRET_BYTES: u64 = 4096;

/// The file's contents.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyFile {
    version: u32,
    pub(super) keys: Vec<StoredKey>,
}

/// One key as stored: the SHA-256 of the whole key, in lower-case hexadecimal.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredKey {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) sha256: String,
    pub(super) created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) revoked: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) generated: bool,
}

impl StoredKey {
    pub(super) fn record(&self) -> KeyRecord {
        KeyRecord {
            id: self.id.clone(),
            name: self.name.clone(),
            created: self.created,
            revoked: self.revoked,
            generated: self.generated,
        }
    }
}

impl KeyFile {
    /// Reads the file; a missing one holds no keys.
    pub(super) fn read(path: &Path) -> Result<Self, KeyError> {
        let damaged = |reason: String| KeyError::Damaged { path: path.to_owned(), reason };
        let Some(text) = read_bounded(path, MAX_FILE_BYTES)? else {
            return Ok(Self { version: VERSION, keys: Vec::new() });
        };
        let contents: Self = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        if contents.version != VERSION {
            return Err(damaged(format!(
                "its version is {}, this program knows {VERSION}",
                contents.version
            )));
        }
        if contents.keys.len() > MAX_KEYS {
            return Err(damaged(format!("it holds more than {MAX_KEYS} keys")));
        }
        for key in &contents.keys {
            let lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            if key.sha256.len() != 64 || !key.sha256.bytes().all(lower_hex) {
                return Err(damaged(format!("the hash of key {:?} is not a SHA-256", key.id)));
            }
        }
        Ok(contents)
    }

    /// A short hash of what the file says.
    pub(super) fn hash(&self) -> String {
        let text = serde_json::to_string(self).unwrap_or_default();
        let mut hash = super::hex(&super::hash(&text));
        hash.truncate(16);
        hash
    }

    /// Replaces the file: readers see the old or the new contents, never a part.
    pub(super) fn write(&self, folder: &Path, path: &Path) -> Result<(), KeyError> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| KeyError::Damaged { path: path.to_owned(), reason: error.to_string() })?;
        replace(folder, path, &text)
    }
}

/// Tells one version of a file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    length: u64,
    modified: Option<std::time::SystemTime>,
    /// Device, inode and time of the last status change: replacing a file always changes them.
    identity: [i64; 4],
}

impl Stamp {
    /// The stamp of the file now, or `None` when there is no file.
    pub(super) fn of(path: &Path) -> Result<Option<Self>, KeyError> {
        match fs::metadata(path) {
            Ok(metadata) => Ok(Some(Self {
                length: metadata.len(),
                modified: metadata.modified().ok(),
                identity: identity(&metadata),
            })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", path)(error)),
        }
    }
}

#[cfg(unix)]
fn identity(metadata: &fs::Metadata) -> [i64; 4] {
    use std::os::unix::fs::MetadataExt as _;
    [metadata.dev().cast_signed(), metadata.ino().cast_signed(), metadata.ctime(), metadata.ctime_nsec()]
}

#[cfg(not(unix))]
fn identity(_metadata: &fs::Metadata) -> [i64; 4] {
    [0; 4]
}

/// Creates the folder, readable by its owner only, when it is missing.
pub(super) fn create_folder(folder: &Path) -> Result<(), KeyError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).map_err(failed("create", folder))
}

/// Holds other processes off until the result is dropped.
pub(super) fn lock(folder: &Path) -> Result<File, KeyError> {
    let path = folder.join("keys.lock");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    owner_only(&mut options);
    let file = options.open(&path).map_err(failed("open", &path))?;
    file.lock().map_err(failed("lock", &path))?;
    Ok(file)
}

/// The text of a file that holds a secret; `None` when there is none, an error when others may read it.
pub(super) fn read_secret(path: &Path) -> Result<Option<String>, KeyError> {
    #[cfg(unix)]
    if let Ok(metadata) = fs::metadata(path) {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.to_owned(), mode });
        }
    }
    read_bounded(path, MAX_SECRET_BYTES)
}

/// Writes a secret into a file of its own.
pub(super) fn write_secret(folder: &Path, path: &Path, secret: &str) -> Result<(), KeyError> {
    replace(folder, path, &format!("{secret}\n"))
}

fn replace(folder: &Path, path: &Path, text: &str) -> Result<(), KeyError> {
    // Temporary files are created with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed("write beside", path))?;
    file.write_all(text.as_bytes()).map_err(failed("write", path))?;
    file.as_file().sync_all().map_err(failed("write", path))?;
    file.persist(path).map_err(|error| failed("replace", path)(error.error))?;
    #[cfg(unix)]
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync the folder of", path))?;
    Ok(())
}

fn read_bounded(path: &Path, limit: u64) -> Result<Option<String>, KeyError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path)(error)),
    };
    let mut text = String::new();
    file.take(limit + 1).read_to_string(&mut text).map_err(failed("read", path))?;
    if text.len() as u64 > limit {
        let reason = format!("it is longer than {limit} bytes");
        return Err(KeyError::Damaged { path: path.to_owned(), reason });
    }
    Ok(Some(text))
}

fn owner_only(options: &mut OpenOptions) {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    #[cfg(not(unix))]
    let _ = options;
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> KeyError {
    move |source| KeyError::Io { action, path: path.to_owned(), source }
}
