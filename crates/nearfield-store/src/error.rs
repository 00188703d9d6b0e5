//! What can go wrong with a ledger.

use std::io;
use std::path::PathBuf;

/// A failure of the ledger.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file or folder of the ledger cannot be used.
    #[error("cannot {what} {}: {source}; the ledger needs a folder that this user may write, with free space", path.display())]
    File {
        /// What was tried, as a verb.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A record could not be written to the journal, so what it records must not happen.
    #[error("the ledger's journal {} cannot be written: {source}; free disk space or check the folder's permissions", path.display())]
    Journal {
        /// The journal.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A record is larger than any record may be.
    #[error("a ledger record of {bytes} bytes is too large; a record may hold 65536")]
    RecordTooLarge {
        /// The record's size.
        bytes: usize,
    },
    /// A record could not be written as JSON.
    #[error("a ledger record cannot be written as JSON: {0}")]
    Record(#[from] serde_json::Error),
    /// The database failed. Nothing is lost: the journal keeps what is not in it yet.
    #[error("the ledger's database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The database's layout could not be brought up to date.
    #[error("the ledger's database cannot be brought up to date: {0}; was it written by a newer Nearfield?")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// Another process holds the ledger's start lock for too long.
    #[error("another process has been opening the ledger {} for {seconds} s; end it and try again", path.display())]
    Busy {
        /// The lock.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// The system gave no thread to the ledger's writer.
    #[error("the ledger's writer cannot be started: {0}; raise this user's limit of threads")]
    Thread(io::Error),
    /// The ledger's writer has ended: it was closed.
    #[error("the ledger is closed")]
    Closed,
}
