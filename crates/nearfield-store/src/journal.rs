//! The journal: the append-only file of one process that admission and ends are written to.
//!
//! Each process that opens a ledger has an owner name, `<pid>-<uuid>`, and two files under it: `<owner>.lock`, which
//! it holds locked while it lives, and `<owner>.journal`. A lock that can be taken belongs to a process that died.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::StoreError;
use crate::recent::Recent;
use crate::record::{Record, USUAL_RECORD, decode, encode, encode_into};

/// How much of a journal is read at once.
const BATCH: u64 = 128 * 1024;
/// The most unread bytes that compaction copies while writers wait: what comes at thousands of requests a second while the
/// database is brought up to date, and copied in less than a millisecond.
const MAX_TAIL: u64 = 1024 * 1024;

/// The journal of this process.
#[derive(Debug)]
pub(crate) struct Journal {
    owner: String,
    path: PathBuf,
    lock_path: PathBuf,
    state: Mutex<State>,
    /// Told when something was appended.
    pub(crate) appended: Notify,
    /// Told when something has happened after it was quiet.
    pub(crate) happened: Notify,
    /// Held for as long as the journal is ours.
    _lock: File,
}

#[derive(Debug)]
struct State {
    file: File,
    /// Bytes of whole writes.
    length: u64,
    /// Whether a failed write left bytes behind `length` that could not be cut off.
    torn: bool,
    /// What has happened and is not written yet: what happens in a moment, and all of it while it cannot be written. Then it
    /// goes before whatever is written next, and is bounded by the requests that are under way, since none is admitted.
    waiting: Vec<Record>,
    /// Whether it could not be written.
    stuck: bool,
    /// Whether somebody wants to be told when something happens.
    quiet: bool,
    /// Requests that were admitted and have not ended.
    open: u64,
    /// What was written last.
    recent: Recent,
    /// Whether the files are gone.
    removed: bool,
}

impl Journal {
    /// Makes the files of a new owner in `folder`.
    pub(crate) fn create(folder: &Path) -> Result<Self, StoreError> {
        let owner = format!("{}-{}", std::process::id(), uuid::Uuid::now_v7().simple());
        let path = journal_path(folder, &owner);
        let lock_path = lock_path(folder, &owner);
        // Locked before it has the name by which others look for it, so nobody ever finds it unlocked while we live.
        let unnamed = folder.join(format!("{owner}.lock.new"));
        let lock = private(OpenOptions::new().write(true).create_new(true)).open(&unnamed);
        let lock = lock.map_err(failed("create", &unnamed))?;
        lock.lock().map_err(failed("lock", &unnamed))?;
        fs::rename(&unnamed, &lock_path).map_err(failed("create", &lock_path))?;
        let file = private(OpenOptions::new().append(true).create_new(true)).open(&path);
        let file = file.map_err(failed("create", &path))?;
        Ok(Self::over(owner, path, lock_path, file, lock))
    }

    fn over(owner: String, path: PathBuf, lock_path: PathBuf, file: File, lock: File) -> Self {
        let state = State {
            file,
            length: 0,
            torn: false,
            waiting: Vec::new(),
            stuck: false,
            quiet: false,
            open: 0,
            recent: Recent::default(),
            removed: false,
        };
        Self {
            owner,
            path,
            lock_path,
            state: Mutex::new(state),
            appended: Notify::new(),
            happened: Notify::new(),
            _lock: lock,
        }
    }

    /// The name that rows and files of this process carry.
    pub(crate) fn owner(&self) -> &str {
        &self.owner
    }

    /// A reader from the start of the file.
    pub(crate) fn reader(&self) -> Result<Reader, StoreError> {
        Reader::open(&self.path)
    }

    /// Writes the records that admit a request or let it go on, in one `write`. When this fails nothing of them stays in the
    /// journal, and what they record must not happen.
    pub(crate) fn append(&self, records: Vec<Record>) -> Result<(), StoreError> {
        let bytes = encode(&records)?;
        let mut state = self.state();
        if state.removed {
            return Err(StoreError::Closed);
        }
        if state.stuck {
            state.write_waiting().map_err(|source| self.failed(source))?;
        }
        state.write(&bytes).map_err(|source| self.failed(source))?;
        let admitted = records.iter().filter(|record| matches!(record, Record::Admitted(_))).count();
        state.open += admitted as u64;
        state.remember(bytes.len(), records);
        drop(state);
        self.appended.notify_one();
        Ok(())
    }

    /// Takes the records of something that has happened already. They are written soon, together with others, so that nobody
    /// waits for what comes after an answer. A process that is killed before leaves the request to be closed as `unknown`.
    pub(crate) fn note(&self, records: Vec<Record>) {
        let mut state = self.state();
        for record in &records {
            match record {
                Record::Admitted(_) => state.open += 1,
                Record::Ended(_) => state.open = state.open.saturating_sub(1),
                Record::AttemptStarted(_) | Record::AttemptEnded(_) => {}
            }
        }
        state.waiting.extend(records);
        let told = std::mem::take(&mut state.quiet);
        drop(state);
        if told {
            self.happened.notify_one();
        }
    }

    /// Writes what has happened and is not written yet; whether there was anything. When this fails it is kept, and nothing
    /// else is written before it.
    pub(crate) fn write_waiting(&self) -> Result<bool, StoreError> {
        let mut state = self.state();
        if state.waiting.is_empty() {
            return Ok(false);
        }
        state.write_waiting().map_err(|source| self.failed(source))?;
        drop(state);
        self.appended.notify_one();
        Ok(true)
    }

    /// Whether nothing waits. If so, the next that happens is told to those who listen for it.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut state = self.state();
        state.quiet = state.waiting.is_empty();
        state.quiet
    }

    /// The records that stand from an offset on, where they are still in memory, which spares reading the file.
    pub(crate) fn recent(&self, offset: u64) -> Option<Batch> {
        let mut state = self.state();
        let (records, end) = state.recent.take(offset, BATCH)?;
        Some(Batch { records, last: end == state.length, end, ..Batch::default() })
    }

    /// Drops the first `applied` bytes of the file, which the database holds, unless more than a little is behind
    /// them. A reader has to be opened anew when this returns `true`.
    pub(crate) fn compact(&self, applied: u64) -> Result<bool, StoreError> {
        let mut state = self.state();
        let tail_length = state.length.saturating_sub(applied);
        if tail_length > MAX_TAIL || state.torn || applied > state.length {
            return Ok(false);
        }
        let rewrite = || -> io::Result<File> {
            let mut tail = Vec::new();
            let mut old = File::open(&self.path)?;
            old.seek(SeekFrom::Start(applied))?;
            old.take(tail_length).read_to_end(&mut tail)?;
            let new = self.path.with_extension("journal.new");
            let mut file = private(OpenOptions::new().append(true).create(true)).open(&new)?;
            // A leftover of an earlier failure.
            file.set_len(0)?;
            file.write_all(&tail)?;
            fs::rename(&new, &self.path)?;
            Ok(file)
        };
        state.file = rewrite().map_err(failed("rewrite", &self.path))?;
        state.length = tail_length;
        state.recent.cut(applied);
        Ok(true)
    }

    /// Removes the files, provided that all is in the database and no request is open. Whether that was so.
    pub(crate) fn remove(&self, applied: u64) -> Result<bool, StoreError> {
        let mut state = self.state();
        if state.removed {
            return Ok(true);
        }
        if state.open > 0 || !state.waiting.is_empty() || state.length > applied {
            return Ok(false);
        }
        state.removed = true;
        fs::remove_file(&self.path).map_err(failed("remove", &self.path))?;
        fs::remove_file(&self.lock_path).map_err(failed("remove", &self.lock_path))?;
        Ok(true)
    }

    /// A panic cannot leave the state half changed, so a poisoned lock is still good.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, source: io::Error) -> StoreError {
        StoreError::Journal { path: self.path.clone(), source }
    }
}

impl State {
    fn write_waiting(&mut self) -> io::Result<()> {
        let mut waiting = std::mem::take(&mut self.waiting);
        let mut lines = Vec::with_capacity(waiting.len() * USUAL_RECORD);
        waiting.retain(|record| match encode_into(&mut lines, record) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(request = record.id(), %error, "what happened to a request is not recorded");
                false
            }
        });
        let result = self.write(&lines);
        self.stuck = result.is_err();
        match &result {
            Ok(()) => self.remember(lines.len(), waiting),
            Err(_) => self.waiting = waiting,
        }
        result
    }

    /// Keeps records that were just written, in so many bytes.
    fn remember(&mut self, bytes: usize, records: Vec<Record>) {
        let bytes = bytes as u64;
        self.recent.push(self.length.saturating_sub(bytes), bytes, records);
    }

    /// Writes all of `bytes` or nothing.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.torn && self.file.set_len(self.length).is_ok() {
            self.torn = false;
        }
        if self.torn {
            return Err(io::Error::other("the remains of a failed write cannot be cut off"));
        }
        let result = self.file.write_all(bytes);
        match &result {
            Ok(()) => self.length += bytes.len() as u64,
            Err(_) => self.torn = self.file.set_len(self.length).is_err(),
        }
        result
    }
}

/// What a batch of a journal holds.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) records: Vec<Record>,
    /// Whole lines that are not records.
    pub(crate) damaged: u64,
    /// Bytes behind the last line feed.
    pub(crate) torn: u64,
    /// Whether the file ends here.
    pub(crate) last: bool,
    /// Where it ends.
    pub(crate) end: u64,
}

/// Reads a journal from the start, batch by batch.
#[derive(Debug)]
pub(crate) struct Reader {
    file: File,
    path: PathBuf,
    offset: u64,
    /// The bytes read last; its room is used again.
    bytes: Vec<u8>,
}

impl Reader {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let file = File::open(path).map_err(failed("open", path))?;
        Ok(Self { file, path: path.to_owned(), offset: 0, bytes: Vec::new() })
    }

    /// Bytes read, always at the start of a record.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Goes to a start of a record.
    pub(crate) fn go_to(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// The records up to the last line feed of the next [`BATCH`] bytes.
    pub(crate) fn next_batch(&mut self) -> Result<Batch, StoreError> {
        let bytes = &mut self.bytes;
        bytes.clear();
        let mut read = || {
            self.file.seek(SeekFrom::Start(self.offset))?;
            (&self.file).take(BATCH).read_to_end(bytes)
        };
        let length = read().map_err(failed("read", &self.path))? as u64;
        let mut batch = Batch { last: length < BATCH, ..Batch::default() };
        let whole = match bytes.iter().rposition(|&byte| byte == b'\n') {
            Some(end) => end + 1,
            // A line longer than any record: its parts are damage.
            None if !batch.last => bytes.len(),
            None => 0,
        };
        let (lines, rest) = bytes.split_at(whole);
        batch.torn = if batch.last { rest.len() as u64 } else { 0 };
        for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            match decode(line) {
                Some(record) => batch.records.push(record),
                None => batch.damaged += 1,
            }
        }
        self.offset += whole as u64;
        batch.end = self.offset;
        Ok(batch)
    }
}

pub(crate) fn journal_path(folder: &Path, owner: &str) -> PathBuf {
    folder.join(format!("{owner}.journal"))
}

pub(crate) fn lock_path(folder: &Path, owner: &str) -> PathBuf {
    folder.join(format!("{owner}.lock"))
}

/// Makes the error of a failed file operation.
pub(crate) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError + use<> {
    let path = path.to_owned();
    move |source| StoreError::File { what, path, source }
}

/// Lets only this user read what is created.
pub(crate) fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

#[cfg(test)]
mod tests;
