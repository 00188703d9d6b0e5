//! The SQLite side: opening, and what a dead process left open.

use std::fs::{self, OpenOptions, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqlSafeStr, SqliteConnection, SqlitePool};

use crate::StoreError;
use crate::journal::{failed, private};
use crate::row::Outcome;

/// How long a statement waits for another process that writes.
const BUSY: Duration = Duration::from_secs(10);
/// How long opening waits for another process that opens.
const START: Duration = Duration::from_secs(30);

/// Pages that the writer keeps, in KiB as SQLite wants them. Rows come in the order of their time, so that it writes at the
/// ends of its trees, and this holds many times what it carries over at once.
const WRITER_CACHE: &str = "-512";

/// The database of one ledger: one connection that writes, some that read.
pub(crate) struct Database {
    pub(crate) writer: SqliteConnection,
    pub(crate) readers: SqlitePool,
}

/// Opens or creates `ledger.db` in `folder` and brings its layout up to date. `start.lock` keeps a second process
/// from doing the same at the same time.
pub(crate) async fn open(folder: &Path) -> Result<Database, StoreError> {
    let lock_path = folder.join("start.lock");
    let lock = private(OpenOptions::new().create(true).truncate(false).write(true)).open(&lock_path);
    let lock = lock.map_err(failed("create", &lock_path))?;
    let waiting = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if waiting.elapsed() < START => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Busy { path: lock_path, seconds: START.as_secs() });
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock", &lock_path)(error)),
        }
    }
    let path = folder.join("ledger.db");
    // SQLite gives its log and index files the permissions of the database, so this makes all of them private.
    let file = private(OpenOptions::new().create(true).truncate(false).write(true)).open(&path);
    file.map_err(failed("create", &path))?;
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(false)
        .busy_timeout(BUSY)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .disable_statement_logging();
    let mut writer = options.clone().pragma("cache_size", WRITER_CACHE).connect().await?;
    migrations().run_direct(None, &mut writer, false).await?;
    let readers =
        SqlitePoolOptions::new().max_connections(4).connect_lazy_with(options.pragma("query_only", "1"));
    Ok(Database { writer, readers })
}

fn migrations() -> Migrator {
    let files = [
        (1, "ledger", include_str!("../migrations/0001_ledger.sql")),
        (5, "cache writes", include_str!("../migrations/0005_cache_writes.sql")),
        (6, "budget", include_str!("../migrations/0006_budget.sql")),
    ];
    let migrations = files.map(|(version, name, text)| {
        Migration::new(version, name.into(), MigrationType::Simple, text.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.to_vec())
}

/// Moves the write-ahead log into the database, before the journal that could restore it goes.
pub(crate) async fn checkpoint(writer: &mut SqliteConnection) -> Result<(), StoreError> {
    sqlx::query("PRAGMA wal_checkpoint(FULL)").execute(writer).await?;
    Ok(())
}

/// Closes what a dead owner left open as `unknown`; the number of requests.
pub(crate) async fn close_owner(writer: &mut SqliteConnection, owner: &str) -> Result<u64, StoreError> {
    let unknown = Outcome::Unknown.to_string();
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
    let attempts = "UPDATE attempts SET outcome = $1 WHERE outcome IS NULL AND request_id IN \
                    (SELECT id FROM requests WHERE owner = $2 AND outcome IS NULL)";
    sqlx::query(attempts).bind(&unknown).bind(owner).execute(&mut *transaction).await?;
    let requests = "UPDATE requests SET outcome = $1 WHERE owner = $2 AND outcome IS NULL";
    let closed = sqlx::query(requests).bind(&unknown).bind(owner).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(closed.rows_affected())
}

/// The owners of requests that run, by what the database knows.
pub(crate) async fn running_owners(writer: &mut SqliteConnection) -> Result<Vec<String>, StoreError> {
    let owners = "SELECT DISTINCT owner FROM requests WHERE outcome IS NULL";
    Ok(sqlx::query_scalar(owners).fetch_all(writer).await?)
}

/// Makes the ledger's folder, which only this user may enter.
pub(crate) fn create_folder(folder: &Path) -> Result<(), StoreError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).map_err(failed("create", folder))
}
