//! API keys: made once, shown once, kept only as hashes.
//!
//! Keys are 256 random bits, so one SHA-256 is enough to store and compare them: there is nothing to guess. The file
//! is read again whenever it changes on disk, so that a revocation holds for the next request of a running server.

mod file;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::{constant_time, digest, rand};
use jiff::Timestamp;

use crate::changes::{self, Change, Changed};
use file::{KeyFile, Stamp, StoredKey};

/// The most keys that one file holds, revoked ones included.
pub const MAX_KEYS: usize = 4096;
/// The longest name of a key, in characters.
pub const MAX_NAME_LENGTH: usize = 64;
/// Name of the file that holds the hashes.
const KEYS_FILE: &str = "keys.json";
/// Name of the file that holds the one key that the server makes for itself.
const SERVER_KEY_FILE: &str = "server.key";
/// Starts every key, so that secret scanners and people recognise one.
const KEY_PREFIX: &str = "nf-";
/// The key id under which requests with the caller-given key are recorded.
const GIVEN_KEY_ID: &str = "env";

/// What went wrong with the keys.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file of hashes is not what this program writes.
    #[error(
        "the key file {path} cannot be used: {reason}; restore it from a copy, or move it away and add the keys anew"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Others may read a file that holds a key.
    #[error(
        "{path} can be read by other users (mode {mode:04o}): delete it so that a new key is made, or run chmod 600 on it"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A name that cannot be used.
    #[error("{name:?} cannot be a key's name: use 1 to {MAX_NAME_LENGTH} letters, digits, '.', '_' or '-'")]
    BadName {
        /// The name.
        name: String,
    },
    /// A key given from outside that cannot be used.
    #[error(
        "the API key given by the environment cannot be used: it must be 1 to 512 visible ASCII characters"
    )]
    BadGivenKey,
    /// An active key has this name already.
    #[error("a key named {name:?} exists already: revoke it first, or choose another name")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// No active key has this id or name.
    #[error("no active key has the id or name {name:?}: `nearfield keys list` shows them")]
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// The file is full.
    #[error("the key file holds {MAX_KEYS} keys, which is the most: remove old ones from it")]
    TooMany,
    /// The system gave no random bytes.
    #[error("the system's random generator failed: a key cannot be made")]
    Random,
}

/// A key as it can be shown: everything but the key.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct KeyRecord {
    /// Names the key in the ledger and in `revoke`; never reused.
    pub id: String,
    /// What its owner called it.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it was revoked, if it was.
    pub revoked: Option<Timestamp>,
    /// Whether the server made it for itself.
    pub generated: bool,
}

/// A new key. The plaintext exists only here.
#[derive(Clone)]
pub struct NewKey {
    /// What is stored of it.
    pub record: KeyRecord,
    /// The key itself, to be shown once.
    pub plaintext: String,
}

impl std::fmt::Debug for NewKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("NewKey").field("record", &self.record).finish_non_exhaustive()
    }
}

/// The keys of one data folder. Safe to use from several processes at once.
#[derive(Debug)]
pub struct KeyStore {
    folder: PathBuf,
    path: PathBuf,
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    stamp: Option<Stamp>,
    keys: Arc<[StoredKey]>,
}

impl KeyStore {
    /// The keys under `data_folder`, which is created when missing. Fails when the file there is damaged.
    pub fn open(data_folder: &Path) -> Result<Self, KeyError> {
        file::create_folder(data_folder)?;
        let store = Self {
            folder: data_folder.to_owned(),
            path: data_folder.join(KEYS_FILE),
            cache: Mutex::default(),
        };
        let _lock = file::lock(data_folder)?;
        store.note_unrecorded(&KeyFile::read(&store.path)?)?;
        Ok(store)
    }

    /// Makes a key. Its plaintext is in the result and nowhere else.
    pub fn add(&self, name: &str) -> Result<NewKey, KeyError> {
        check_name(name)?;
        self.insert(name, false)
    }

    /// All keys, revoked ones included, oldest first.
    pub fn list(&self) -> Result<Vec<KeyRecord>, KeyError> {
        Ok(self.keys()?.iter().map(StoredKey::record).collect())
    }

    /// Revokes the active key with this id or name. Servers refuse it from their next request on.
    pub fn revoke(&self, id_or_name: &str) -> Result<KeyRecord, KeyError> {
        self.change(|keys| {
            let found = keys
                .iter_mut()
                .find(|key| key.revoked.is_none() && (key.id == id_or_name || key.name == id_or_name))
                .ok_or_else(|| KeyError::NotFound { name: id_or_name.to_owned() })?;
            found.revoked = Some(Timestamp::now());
            let record = found.record();
            Ok((format!("revoked {}", record.id), record))
        })
    }

    fn insert(&self, name: &str, generated: bool) -> Result<NewKey, KeyError> {
        let plaintext = format!("{KEY_PREFIX}{}", random_hex::<32>()?);
        let key = StoredKey {
            id: format!("key_{}", random_hex::<8>()?),
            name: name.to_owned(),
            sha256: hex(&hash(&plaintext)),
            created: Timestamp::now(),
            revoked: None,
            generated,
        };
        let record = key.record();
        self.change(|keys| {
            if keys.iter().any(|other| other.revoked.is_none() && other.name == name) {
                return Err(KeyError::NameTaken { name: name.to_owned() });
            }
            if keys.len() >= MAX_KEYS {
                return Err(KeyError::TooMany);
            }
            let did = format!("added {}", key.id);
            keys.push(key);
            Ok((did, ()))
        })?;
        Ok(NewKey { record, plaintext })
    }

    /// Reads, changes and replaces the file while no other process does. What `edit` says that it did stands in the
    /// record of changes before the file is replaced.
    fn change<T>(
        &self,
        edit: impl FnOnce(&mut Vec<StoredKey>) -> Result<(String, T), KeyError>,
    ) -> Result<T, KeyError> {
        let _lock = file::lock(&self.folder)?;
        let mut contents = KeyFile::read(&self.path)?;
        let old = self.note_unrecorded(&contents)?;
        let (did, result) = edit(&mut contents.keys)?;
        let new = contents.hash();
        if new != old {
            self.record(did, Some(old), new)?;
            contents.write(&self.folder, &self.path)?;
        }
        Ok(result)
    }

    /// Records a change of the file that nothing recorded, such as one by hand; the hash of the file as it is.
    fn note_unrecorded(&self, contents: &KeyFile) -> Result<String, KeyError> {
        let now = contents.hash();
        let last = changes::last_hash(&self.folder, Changed::Keys);
        let nothing_yet = last.is_none() && contents.keys.is_empty();
        if !nothing_yet && last.as_ref() != Some(&now) {
            self.record("found changed".to_owned(), last, now.clone())?;
        }
        Ok(now)
    }

    fn record(&self, by: String, old: Option<String>, new: String) -> Result<(), KeyError> {
        changes::record(&self.folder, &Change::now(Changed::Keys, by, old, new)).map_err(|source| {
            KeyError::Io { action: "write", path: self.folder.join(changes::CHANGES_FILE), source }
        })
    }

    /// The keys as they are on disk now.
    fn keys(&self) -> Result<Arc<[StoredKey]>, KeyError> {
        let stamp = Stamp::of(&self.path)?;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if stamp != cache.stamp {
            // Not cached on failure: a file that cannot be read closes the server rather than keep old keys alive.
            cache.keys = KeyFile::read(&self.path)?.keys.into();
            cache.stamp = stamp;
        }
        Ok(Arc::clone(&cache.keys))
    }
}

/// A presented key that is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownKey {
    /// Its id.
    pub id: String,
    /// What its owner called it; the key that the environment gives has no name.
    pub name: Option<String>,
}

/// Decides which presented keys are good.
#[derive(Debug)]
pub struct Authenticator {
    store: KeyStore,
    given: Option<[u8; 32]>,
    generated: Option<PathBuf>,
}

impl Authenticator {
    /// Uses the keys of `store` and one more: `given` where it is set (it replaces the generated key), else a key
    /// that is made once and kept in a file of mode 0600 beside the store.
    pub fn new(store: KeyStore, given: Option<&str>) -> Result<Self, KeyError> {
        if let Some(key) = given {
            if key.is_empty() || key.len() > 512 || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(KeyError::BadGivenKey);
            }
            return Ok(Self { store, given: Some(hash(key)), generated: None });
        }
        let path = store.folder.join(SERVER_KEY_FILE);
        ensure_server_key(&store, &path)?;
        Ok(Self { store, given: None, generated: Some(path) })
    }

    /// The file that holds the generated key, unless a given key replaces it.
    pub fn server_key_path(&self) -> Option<&Path> {
        self.generated.as_deref()
    }

    /// The active key that this is, or `None`. Every stored hash is compared, each in constant time, so
    /// that the time tells nothing. An error means that the keys cannot be read: nobody may pass then.
    pub fn check(&self, presented: &str) -> Result<Option<KnownKey>, KeyError> {
        let presented = hash(presented);
        let presented_hex = hex(&presented);
        let mut found = None;
        if let Some(given) = &self.given
            && constant_time::verify_slices_are_equal(given, &presented).is_ok()
        {
            found = Some(KnownKey { id: GIVEN_KEY_ID.to_owned(), name: None });
        }
        for key in self.store.keys()?.iter() {
            let equal =
                constant_time::verify_slices_are_equal(key.sha256.as_bytes(), presented_hex.as_bytes())
                    .is_ok();
            let usable = key.revoked.is_none() && (!key.generated || self.given.is_none());
            if equal && usable {
                found = Some(KnownKey { id: key.id.clone(), name: Some(key.name.clone()) });
            }
        }
        Ok(found)
    }
}

/// Makes sure that `path` holds the plaintext of an active generated key.
fn ensure_server_key(store: &KeyStore, path: &Path) -> Result<(), KeyError> {
    let generated = |key: &StoredKey| key.generated && key.revoked.is_none();
    if let Some(text) = file::read_secret(path)? {
        let stored = hex(&hash(text.trim()));
        if store.keys()?.iter().any(|key| generated(key) && key.sha256 == stored) {
            return Ok(());
        }
    }
    // The file is missing, or its key was revoked: the old one must not come back to life.
    store.change(|keys| {
        let mut revoked = Vec::new();
        for key in keys.iter_mut().filter(|key| generated(key)) {
            key.revoked = Some(Timestamp::now());
            revoked.push(key.id.as_str());
        }
        Ok((format!("revoked {}", revoked.join(", ")), ()))
    })?;
    let name = format!("server-{}", random_hex::<4>()?);
    let key = store.insert(&name, true)?;
    file::write_secret(&store.folder, path, &key.plaintext)
}

fn check_name(name: &str) -> Result<(), KeyError> {
    let fits = !name.is_empty() && name.len() <= MAX_NAME_LENGTH;
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if fits && plain { Ok(()) } else { Err(KeyError::BadName { name: name.chars().take(80).collect() }) }
}

fn hash(key: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, key.as_bytes()).as_ref());
    bytes
}

/// Random bytes of the system's generator.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| KeyError::Random)?;
    Ok(bytes)
}

fn random_hex<const N: usize>() -> Result<String, KeyError> {
    Ok(hex(&random_bytes::<N>()?))
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(half.into(), 16).unwrap_or('0');
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
    text
}

#[cfg(test)]
mod tests;
