//! The SQLite side: opening, and the one writer's statements. Every statement may be repeated without effect, so a
//! journal can be carried over again after a crash.

use std::fs::{self, OpenOptions, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqlSafeStr, Sqlite, SqliteConnection, SqlitePool, Transaction};

use crate::StoreError;
use crate::journal::{failed, private};
use crate::record::{Admitted, AttemptEnded, AttemptStarted, Ended, Record, Tokens};
use crate::row::Outcome;

/// How long a statement waits for another process that writes.
const BUSY: Duration = Duration::from_secs(10);
/// How long opening waits for another process that opens.
const START: Duration = Duration::from_secs(30);

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
    let mut writer = options.clone().connect().await?;
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

/// Carries records over in one transaction.
pub(crate) async fn apply(
    writer: &mut SqliteConnection,
    owner: &str,
    records: &[Record],
) -> Result<(), StoreError> {
    // Taken at once: a transaction that starts by reading cannot wait for a writer when it comes to write.
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
    for record in records {
        match record {
            Record::Admitted(admitted) => insert_request(&mut transaction, owner, admitted).await?,
            Record::AttemptStarted(started) => start_attempt(&mut transaction, started).await?,
            Record::AttemptEnded(ended) => end_attempt(&mut transaction, ended).await?,
            Record::Ended(ended) => end_request(&mut transaction, ended).await?,
        }
    }
    transaction.commit().await?;
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

async fn insert_request(
    transaction: &mut Transaction<'_, Sqlite>,
    owner: &str,
    admitted: &Admitted,
) -> Result<(), StoreError> {
    let statement = "INSERT INTO requests (id, owner, time, key_id, model, reason, policy_hash, \
                     retention, reserved) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING";
    sqlx::query(statement)
        .bind(&admitted.id)
        .bind(owner)
        .bind(admitted.time)
        .bind(&admitted.key_id)
        .bind(&admitted.model)
        .bind(&admitted.reason)
        .bind(&admitted.policy_hash)
        .bind(&admitted.retention)
        .bind(admitted.reserved.map(|sum| sum.0))
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

async fn start_attempt(
    transaction: &mut Transaction<'_, Sqlite>,
    started: &AttemptStarted,
) -> Result<(), StoreError> {
    let statement = "INSERT INTO attempts (request_id, position, backend, locality, why, bytes_out) \
                     VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
    sqlx::query(statement)
        .bind(&started.id)
        .bind(started.position)
        .bind(&started.backend)
        .bind(&started.locality)
        .bind(&started.why)
        .bind(signed(started.bytes_out))
        .execute(&mut **transaction)
        .await?;
    let statement = "UPDATE requests SET backend = $2, locality = $3 WHERE id = $1 AND outcome IS NULL";
    sqlx::query(statement)
        .bind(&started.id)
        .bind(&started.backend)
        .bind(&started.locality)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

async fn end_attempt(
    transaction: &mut Transaction<'_, Sqlite>,
    ended: &AttemptEnded,
) -> Result<(), StoreError> {
    let statement = "UPDATE attempts SET outcome = $3, cost = $4, price = $5, duration = $6, input_tokens = $7, \
                     cached_input_tokens = $8, output_tokens = $9, reasoning_tokens = $10, measured = $11, \
                     cache_write_tokens = $12, cache_write_1h_tokens = $13, unattributed_tokens = $14 \
                     WHERE request_id = $1 AND position = $2 AND outcome IS NULL";
    let usage = ended.usage.as_ref();
    sqlx::query(statement)
        .bind(&ended.id)
        .bind(ended.position)
        .bind(ended.outcome.to_string())
        .bind(ended.cost.map(|cost| cost.0))
        .bind(&ended.price)
        .bind(signed(ended.duration_us))
        .bind(count(usage, |usage| usage.input))
        .bind(count(usage, |usage| usage.cached_input))
        .bind(count(usage, |usage| usage.output))
        .bind(count(usage, |usage| usage.reasoning))
        .bind(usage.map(|usage| usage.measured))
        .bind(count(usage, |usage| usage.cache_write))
        .bind(count(usage, |usage| usage.cache_write_1h))
        .bind(count(usage, |usage| usage.unattributed))
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

async fn end_request(transaction: &mut Transaction<'_, Sqlite>, ended: &Ended) -> Result<(), StoreError> {
    if let Some(position) = ended.answered {
        let statement = "UPDATE requests SET (backend, locality) = (SELECT backend, locality FROM attempts \
                         WHERE request_id = $1 AND position = $2) WHERE id = $1 AND outcome IS NULL";
        sqlx::query(statement).bind(&ended.id).bind(position).execute(&mut **transaction).await?;
    }
    let statement = "UPDATE requests SET outcome = $2, reason = COALESCE($3, reason), ttft = $4, duration = $5, \
                     cost = $6, counterfactual_cost = $7, counterfactual_price = $8, energy_joules = $9, \
                     numerics = $10, input_tokens = $11, cached_input_tokens = $12, output_tokens = $13, \
                     reasoning_tokens = $14, measured = $15, cache_write_tokens = $16, \
                     cache_write_1h_tokens = $17, unattributed_tokens = $18 WHERE id = $1 AND outcome IS NULL";
    let usage = ended.usage.as_ref();
    let counterfactual = ended.counterfactual.as_ref();
    sqlx::query(statement)
        .bind(&ended.id)
        .bind(ended.outcome.to_string())
        .bind(&ended.reason)
        .bind(ended.ttft_us.map(signed))
        .bind(signed(ended.duration_us))
        .bind(ended.cost.map(|cost| cost.0))
        .bind(counterfactual.map(|other| other.cost.0))
        .bind(counterfactual.map(|other| &other.price))
        .bind(ended.energy_joules)
        .bind(&ended.numerics)
        .bind(count(usage, |usage| usage.input))
        .bind(count(usage, |usage| usage.cached_input))
        .bind(count(usage, |usage| usage.output))
        .bind(count(usage, |usage| usage.reasoning))
        .bind(usage.map(|usage| usage.measured))
        .bind(count(usage, |usage| usage.cache_write))
        .bind(count(usage, |usage| usage.cache_write_1h))
        .bind(count(usage, |usage| usage.unattributed))
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

fn count(usage: Option<&Tokens>, bucket: impl Fn(&Tokens) -> u64) -> Option<i64> {
    usage.map(|usage| signed(bucket(usage)))
}

/// SQLite's integers are signed; counts beyond them do not occur.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Makes the ledger's folder, which only this user may enter.
pub(crate) fn create_folder(folder: &Path) -> Result<(), StoreError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).map_err(failed("create", folder))
}
