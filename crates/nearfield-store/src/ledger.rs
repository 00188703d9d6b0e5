//! The ledger as a whole: opening it, admitting requests, asking what it holds.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use jiff::Timestamp;
use sqlx::{SqliteConnection, SqlitePool};
use tokio::runtime;
use tokio::sync::{mpsc, oneshot};

use crate::database::{self, Database};
use crate::handle::RowHandle;
use crate::journal::Journal;
use crate::orphan::{Orphan, has_files};
use crate::row::{Admission, Filter, Row, Summary};
use crate::writer::{Command, Writer, journal_ends};
use crate::{NanoDollars, StoreError, carry, query};

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

impl Ledger {
    /// Opens or creates the ledger in `folder`: carries over the journals of processes that died, closes what they
    /// left open as `unknown`, and starts the writer's thread.
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
        let task = Writer::new(Arc::clone(&journal), reader, writer, received);
        start(task, Arc::clone(&journal))?;
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

    /// The same for a request whose first attempt follows at once: both are journalled in one write, so that whoever calls
    /// this must do nothing that anybody can notice before the attempt is recorded.
    pub fn admit_with_attempt(&self, admission: Admission) -> RowHandle {
        RowHandle::hold(self.clone(), admission)
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

/// Runs the writer on a thread of its own: what waits for the database's thread so often would wake others each time. While
/// it waits, the same thread journals ends.
fn start(writer: Writer, journal: Arc<Journal>) -> Result<(), StoreError> {
    let runtime = runtime::Builder::new_current_thread().enable_time().build().map_err(StoreError::Thread)?;
    let work = async move {
        tokio::select! {
            () = writer.run() => {}
            () = journal_ends(journal) => {}
        }
    };
    let thread = thread::Builder::new().name("ledger".to_owned());
    thread.spawn(move || runtime.block_on(work)).map_err(StoreError::Thread)?;
    Ok(())
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
