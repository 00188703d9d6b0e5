//! The ledger as a whole: opening it, and the writer task that carries the journal into the database.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::{Connection, SqliteConnection, SqlitePool};
use tokio::sync::{mpsc, oneshot};

use crate::database::{self, Database};
use crate::handle::RowHandle;
use crate::journal::{Journal, Orphan, Reader, has_files};
use crate::row::{Admission, Filter, Row, Summary};
use crate::{NanoDollars, StoreError, carry, query};

/// How long the writer lets records gather before it carries them over together: a moment where there are few, and where
/// there are many long enough that most requests are over by then, and are written whole.
const GROUP: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));
/// Records from which on they are many.
const MANY: usize = 64;
/// The pause between two pieces that are carried over.
const PAUSE: Duration = Duration::from_millis(4);
/// The first and the longest wait after a failure of the database.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// The carried-over bytes at which the journal is compacted.
const COMPACT_AT: u64 = 4 * 1024 * 1024;

/// The ledger. Clones are the same ledger; the writer ends with the last of them.
#[derive(Clone, Debug)]
pub struct Ledger {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    journal: Arc<Journal>,
    readers: SqlitePool,
    commands: mpsc::UnboundedSender<Command>,
    recovery: Recovery,
}

/// What was found of processes that died.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Journals that were carried over.
    pub journals: u64,
    /// Requests that had no end and were closed as `unknown`.
    pub unknown: u64,
    /// Journals whose last record was cut short.
    pub torn: u64,
    /// Records that could not be read; their journals are kept as `.damaged`.
    pub damaged: u64,
}

#[derive(Debug)]
enum Command {
    Flush(oneshot::Sender<Result<(), StoreError>>),
    Close(oneshot::Sender<Result<(), StoreError>>),
}

impl Ledger {
    /// Opens or creates the ledger in `folder`: carries over the journals of processes that died, closes what they
    /// left open as `unknown`, and starts the writer on the current tokio runtime.
    pub async fn open(folder: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let folder = folder.into();
        let journals = folder.join("journal");
        database::create_folder(&journals)?;
        let Database { mut writer, readers } = Box::pin(database::open(&folder)).await?;
        let recovery = Box::pin(recover(&mut writer, &journals)).await?;
        if recovery.unknown + recovery.torn + recovery.damaged > 0 {
            let Recovery { journals, unknown, torn, damaged } = recovery;
            tracing::warn!(journals, unknown, torn, damaged, "the ledger recovered what a crash left behind");
        }
        let journal = Arc::new(Journal::create(&journals)?);
        let reader = journal.reader()?;
        let (commands, received) = mpsc::unbounded_channel();
        let task = Writer {
            journal: Arc::clone(&journal),
            reader,
            database: writer,
            commands: received,
            failing: None,
            carried: 0,
        };
        tokio::spawn(Box::pin(task.run()));
        Ok(Self { inner: Arc::new(Inner { journal, readers, commands, recovery }) })
    }

    /// What opening found of processes that died.
    pub fn recovery(&self) -> &Recovery {
        &self.inner.recovery
    }

    /// Admits a request: when this returns, its row survives the process. An error means that nothing may leave.
    pub fn admit(&self, admission: Admission) -> Result<RowHandle, StoreError> {
        RowHandle::admit(self.clone(), admission)
    }

    /// Waits until everything that was journalled before this call is in the database.
    pub async fn flush(&self) -> Result<(), StoreError> {
        let (reply, done) = oneshot::channel();
        self.inner.commands.send(Command::Flush(reply)).map_err(|_| StoreError::Closed)?;
        done.await.map_err(|_| StoreError::Closed)?
    }

    /// Flushes and, when no request is under way, removes this process's journal: the tidy end of a process. Without
    /// it nothing is lost, the next process carries the journal over.
    pub async fn close(self) -> Result<(), StoreError> {
        let (reply, done) = oneshot::channel();
        self.inner.commands.send(Command::Close(reply)).map_err(|_| StoreError::Closed)?;
        let result = done.await.map_err(|_| StoreError::Closed)?;
        self.inner.readers.close().await;
        result
    }

    /// The rows that match, oldest first, as the database has them; see [`Ledger::flush`].
    pub async fn rows(&self, filter: &Filter) -> Result<Vec<Row>, StoreError> {
        query::rows(&self.inner.readers, filter).await
    }

    /// Sums over the rows that match, by backend and model.
    pub async fn summary(&self, filter: &Filter) -> Result<Summary, StoreError> {
        query::summary(&self.inner.readers, filter).await
    }

    /// What a key's requests have cost since a time: of those whose cost is not known, or not known yet, what was set
    /// aside for them. Includes everything that was admitted before this call.
    ///
    /// # Errors
    /// The database cannot be written or read.
    pub async fn spent(&self, key_id: &str, since: Timestamp) -> Result<NanoDollars, StoreError> {
        self.flush().await?;
        query::spent(&self.inner.readers, key_id, since).await
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.inner.journal
    }
}

async fn recover(writer: &mut SqliteConnection, journals: &Path) -> Result<Recovery, StoreError> {
    let mut recovery = Recovery::default();
    for orphan in Orphan::find(journals)? {
        let mut damaged = 0;
        if let Some(mut reader) = orphan.reader()? {
            recovery.journals += 1;
            loop {
                let batch = reader.next_batch()?;
                carry::apply(writer, &orphan.owner, &batch.records).await?;
                damaged += batch.damaged;
                if batch.last {
                    recovery.torn += u64::from(batch.torn > 0);
                    break;
                }
            }
        }
        recovery.unknown += database::close_owner(writer, &orphan.owner).await?;
        recovery.damaged += damaged;
        orphan.remove(damaged > 0)?;
    }
    // Rows whose process is gone and whose journal someone deleted.
    for owner in database::running_owners(writer).await? {
        if !has_files(journals, &owner) {
            recovery.unknown += database::close_owner(writer, &owner).await?;
        }
    }
    Ok(recovery)
}

/// The one task of this process that writes to the database.
struct Writer {
    journal: Arc<Journal>,
    reader: Reader,
    database: SqliteConnection,
    commands: mpsc::UnboundedReceiver<Command>,
    /// How long to wait before the next try, while the database or the journal fails.
    failing: Option<Duration>,
    /// Records that were carried over last.
    carried: usize,
}

impl Writer {
    async fn run(mut self) {
        let journal = Arc::clone(&self.journal);
        loop {
            let mut command = tokio::select! {
                command = self.commands.recv() => Some(command),
                () = journal.appended.notified(), if self.failing.is_none() => None,
                () = tokio::time::sleep(self.failing.unwrap_or(RETRY.1)), if self.failing.is_some() => None,
            };
            if command.is_none() && self.failing.is_none() {
                // A moment for more records to come, unless somebody waits for these.
                command = tokio::select! {
                    command = self.commands.recv() => Some(command),
                    () = tokio::time::sleep(if self.carried < MANY { GROUP.0 } else { GROUP.1 }) => None,
                };
            }
            let waiting = journal.retry();
            let result = self.carry_over(command.is_none()).await;
            self.note(&result, waiting);
            match command {
                None => {}
                Some(Some(Command::Flush(reply))) => drop(reply.send(result)),
                Some(Some(Command::Close(reply))) => {
                    let closed = match result {
                        Ok(()) => self.remove().await,
                        Err(error) => Err(error),
                    };
                    let gone = matches!(closed, Ok(true));
                    if gone {
                        self.disconnect().await;
                        drop(reply.send(Ok(())));
                        return;
                    }
                    drop(reply.send(closed.map(|_| ())));
                }
                // The last handle is gone.
                Some(None) => {
                    if let Err(error) = self.remove().await {
                        tracing::warn!(%error, "the ledger's journal is left to the next start");
                    }
                    self.disconnect().await;
                    return;
                }
            }
        }
    }

    /// Carries over all that is in the journal now; `patient` in small pieces with pauses, so that requests that are under
    /// way hardly wait for it.
    async fn carry_over(&mut self, patient: bool) -> Result<(), StoreError> {
        self.carried = 0;
        loop {
            let before = self.reader.offset();
            let batch = self.reader.next_batch()?;
            if batch.damaged > 0 {
                tracing::error!(
                    records = batch.damaged,
                    "the ledger's journal was changed by something else"
                );
            }
            self.carried += batch.records.len();
            if !batch.records.is_empty() {
                let applied = carry::apply(&mut self.database, self.journal.owner(), &batch.records).await;
                if let Err(error) = applied {
                    self.reader.return_to(before);
                    return Err(error);
                }
            }
            if batch.last {
                break;
            }
            if patient {
                tokio::time::sleep(PAUSE).await;
            }
        }
        if self.reader.offset() >= COMPACT_AT {
            database::checkpoint(&mut self.database).await?;
            if self.journal.compact(self.reader.offset())? {
                self.reader = self.journal.reader()?;
            }
        }
        Ok(())
    }

    /// Keeps the log quiet while a failure lasts, and waits longer each time.
    fn note(&mut self, result: &Result<(), StoreError>, waiting: bool) {
        let doubled = self.failing.map_or(RETRY.0, |wait| (wait * 2).min(RETRY.1));
        match result {
            Ok(()) if !waiting => {
                if self.failing.take().is_some() {
                    tracing::info!("the ledger writes again");
                }
            }
            Ok(()) => self.failing = Some(doubled),
            Err(error) => {
                if self.failing.is_none() {
                    tracing::error!(%error, "the ledger's database cannot be written; the journal keeps the rows");
                }
                self.failing = Some(doubled);
            }
        }
    }

    async fn disconnect(self) {
        if let Err(error) = self.database.close().await {
            tracing::warn!(%error, "the ledger's database was not closed in order; nothing is lost");
        }
    }

    /// Removes the journal, if all is in the database and no request is open.
    async fn remove(&mut self) -> Result<bool, StoreError> {
        database::checkpoint(&mut self.database).await?;
        self.journal.remove(self.reader.offset())
    }
}
