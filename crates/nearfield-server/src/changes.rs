//! The append-only record of what changed: the policy and the keys, one line of JSON for each change, with time, actor,
//! and the hashes before and after.
//!
//! What changed without a line, such as a file of keys that was edited by hand, is seen at the next start or change,
//! because its hash is not the last one of the record.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Name of the file in the data folder.
pub const CHANGES_FILE: &str = "changes.jsonl";
/// The last lines are looked for in so many bytes at the end of the file.
const TAIL: u64 = 256 * 1024;

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Changed {
    /// The policy file.
    Policy,
    /// The API keys.
    Keys,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When.
    pub time: Timestamp,
    /// What.
    pub changed: Changed,
    /// The user of this machine who made the change, as far as the system says.
    pub actor: String,
    /// By which means, and what in particular.
    pub by: String,
    /// The hash before; `None` when nothing was recorded before.
    pub old: Option<String>,
    /// The hash after.
    pub new: String,
}

impl Change {
    /// A change that happens now, made by this process's user.
    pub fn now(changed: Changed, by: impl Into<String>, old: Option<String>, new: impl Into<String>) -> Self {
        let actor = process_user();
        Self { time: Timestamp::now(), changed, actor, by: by.into(), old, new: new.into() }
    }

    /// The same, made by the owner of a file.
    pub fn made_by_owner_of(self, path: &Path) -> Self {
        Self { actor: owner(path).unwrap_or(self.actor), ..self }
    }
}

/// Adds a line to the record of a data folder.
///
/// # Errors
/// The file cannot be written.
pub fn record(folder: &Path, change: &Change) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.append(true).read(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(folder.join(CHANGES_FILE))?;
    // A line that a crash cut short is left as it is; what follows does not become a part of it.
    let mut last = [b'\n'];
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    let begin = if last == [b'\n'] { "" } else { "\n" };
    // One write for one line, so that lines of two processes do not mix.
    file.write_all(format!("{begin}{}\n", serde_json::to_string(change)?).as_bytes())?;
    file.sync_data()
}

/// The hash that the record names last for what may have changed; `None` when it names none.
pub fn last_hash(folder: &Path, changed: Changed) -> Option<String> {
    let mut file = File::open(folder.join(CHANGES_FILE)).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let changes = text.lines().rev().filter_map(|line| serde_json::from_str::<Change>(line).ok());
    changes.into_iter().find(|change| change.changed == changed).map(|change| change.new)
}

fn process_user() -> String {
    owner(Path::new("/proc/self")).unwrap_or_else(|| {
        let name = std::env::var("USER").or_else(|_| std::env::var("USERNAME"));
        name.unwrap_or_else(|_| "unknown".to_owned())
    })
}

#[cfg(unix)]
fn owner(path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    Some(format!("uid {}", fs::metadata(path).ok()?.uid()))
}

#[cfg(not(unix))]
fn owner(path: &Path) -> Option<String> {
    let _ = fs::metadata(path);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_leave_lines_and_the_last_one_of_a_kind_is_found() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(last_hash(folder.path(), Changed::Policy), None);
        for (changed, old, new) in [
            (Changed::Policy, None, "a1"),
            (Changed::Keys, None, "c3"),
            (Changed::Policy, Some("a1".to_owned()), "b2"),
        ] {
            record(folder.path(), &Change::now(changed, "test", old, new)).unwrap();
        }
        fs::OpenOptions::new()
            .append(true)
            .open(folder.path().join(CHANGES_FILE))
            .unwrap()
            .write_all(b"a line that was cut sho")
            .unwrap();
        assert_eq!(last_hash(folder.path(), Changed::Policy).as_deref(), Some("b2"));
        record(folder.path(), &Change::now(Changed::Policy, "test", None, "d4")).unwrap();
        assert_eq!(last_hash(folder.path(), Changed::Policy).as_deref(), Some("d4"));
        assert_eq!(last_hash(folder.path(), Changed::Keys).as_deref(), Some("c3"));
        let text = fs::read_to_string(folder.path().join(CHANGES_FILE)).unwrap();
        let first: Change = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!((first.by.as_str(), first.old), ("test", None));
        #[cfg(unix)]
        assert!(first.actor.starts_with("uid "), "{}", first.actor);
    }
}
