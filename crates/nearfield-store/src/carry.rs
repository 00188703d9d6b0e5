//! Carrying records over into the database. Every statement may be repeated without effect, so a journal can be carried
//! over again after a crash, in other portions than before.
//!
//! Most requests are over when their records are carried over. Their rows, and those of their attempts, are written
//! whole, many to a statement; records of a request whose beginning is in the database already are applied one by one.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, Connection, Sqlite, SqliteConnection, Transaction};

use crate::StoreError;
use crate::record::{Admitted, AttemptEnded, AttemptStarted, Ended, Record, Tokens};

/// Rows of one statement: few forms, so that each is prepared once.
const PORTIONS: [usize; 4] = [64, 16, 4, 1];

/// A request whose admission is among the records.
struct Whole<'a> {
    admitted: &'a Admitted,
    attempts: Vec<(&'a AttemptStarted, Option<&'a AttemptEnded>)>,
    ended: Option<&'a Ended>,
}

impl Whole<'_> {
    /// The attempt that answered, or began last.
    fn answering(&self) -> Option<&AttemptStarted> {
        let named = self.ended.and_then(|ended| ended.answered);
        let named = named.and_then(|at| self.attempts.iter().find(|(started, _)| started.position == at));
        named.or(self.attempts.last()).map(|(started, _)| *started)
    }
}

/// Carries records over in one transaction.
pub(crate) async fn apply(
    writer: &mut SqliteConnection,
    owner: &str,
    records: &[Record],
) -> Result<(), StoreError> {
    let (whole, rest) = gather(records);
    // Taken at once: a transaction that starts by reading cannot wait for a writer when it comes to write.
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
    insert(&mut transaction, &REQUESTS, &whole, |one, query| bind_request(owner, one, query)).await?;
    let attempts: Vec<_> = whole.iter().flat_map(|one| one.attempts.iter()).collect();
    insert(&mut transaction, &ATTEMPTS, &attempts, |one, query| bind_attempt(one, query)).await?;
    for record in rest {
        match record {
            Record::Admitted(_) => {}
            Record::AttemptStarted(started) => start_attempt(&mut transaction, started).await?,
            Record::AttemptEnded(ended) => end_attempt(&mut transaction, ended).await?,
            Record::Ended(ended) => end_request(&mut transaction, ended).await?,
        }
    }
    transaction.commit().await?;
    Ok(())
}

/// Requests that begin among the records, with all that follows of them; and the records of others.
fn gather(records: &[Record]) -> (Vec<Whole<'_>>, Vec<&Record>) {
    let mut whole: Vec<Whole<'_>> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut rest = Vec::new();
    for record in records {
        if let Record::Admitted(admitted) = record {
            places.insert(&admitted.id, whole.len());
            whole.push(Whole { admitted, attempts: Vec::new(), ended: None });
            continue;
        }
        let Some(own) = places.get(record.id()).and_then(|&at| whole.get_mut(at)) else {
            rest.push(record);
            continue;
        };
        match record {
            Record::AttemptStarted(started) => own.attempts.push((started, None)),
            Record::AttemptEnded(ended) => {
                let of = |(started, _): &&mut (&AttemptStarted, _)| started.position == ended.position;
                if let Some((_, end)) = own.attempts.iter_mut().find(of) {
                    *end = Some(ended);
                }
            }
            Record::Ended(ended) => own.ended = Some(ended),
            Record::Admitted(_) => {}
        }
    }
    (whole, rest)
}

/// The columns of usage, which both tables have, last of all.
const USAGE: [&str; 8] = [
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "measured",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "unattributed_tokens",
];

/// A table and what its rows are known by.
struct Table {
    name: &'static str,
    key: &'static str,
    /// What is written once.
    fixed: &'static [&'static str],
    /// What is written as long as the outcome is not known, before the usage.
    open: &'static [&'static str],
}

/// What writes rows of a table whole: for each portion, its statement.
type Statements = LazyLock<[(usize, String); PORTIONS.len()]>;

static REQUESTS: Statements = LazyLock::new(|| {
    let table = Table {
        name: "requests",
        key: "id",
        fixed: &["id", "owner", "time", "key_id", "model", "policy_hash", "retention", "reserved"],
        open: &[
            "reason",
            "backend",
            "locality",
            "outcome",
            "ttft",
            "duration",
            "cost",
            "counterfactual_cost",
            "counterfactual_price",
            "energy_joules",
            "numerics",
        ],
    };
    table.statements()
});

static ATTEMPTS: Statements = LazyLock::new(|| {
    let table = Table {
        name: "attempts",
        key: "request_id, position",
        fixed: &["request_id", "position", "backend", "locality", "why", "bytes_out"],
        open: &["outcome", "cost", "price", "duration"],
    };
    table.statements()
});

impl Table {
    fn statements(&self) -> [(usize, String); PORTIONS.len()] {
        PORTIONS.map(|rows| (rows, self.statement(rows)))
    }

    /// The statement for so many rows. A row that is there and has no outcome gets what is known by now.
    fn statement(&self, rows: usize) -> String {
        let Self { name, key, fixed, open } = self;
        let open = [*open, &USAGE].concat();
        let columns = [*fixed, &open].concat();
        let row = format!("({})", vec!["?"; columns.len()].join(", "));
        let mut text = format!("INSERT INTO {name} ({}) VALUES ", columns.join(", "));
        text.push_str(&vec![row; rows].join(", "));
        let _ = write!(text, " ON CONFLICT ({key}) DO UPDATE SET ");
        let set: Vec<String> = open.iter().map(|column| format!("{column} = excluded.{column}")).collect();
        text.push_str(&set.join(", "));
        let _ = write!(text, " WHERE {name}.outcome IS NULL");
        text
    }
}

type Query<'a> = sqlx::query::Query<'a, Sqlite, SqliteArguments>;

async fn insert<T>(
    transaction: &mut Transaction<'_, Sqlite>,
    statements: &Statements,
    rows: &[T],
    bind: impl for<'a> Fn(&T, Query<'a>) -> Query<'a>,
) -> Result<(), StoreError> {
    let mut left = rows;
    for (portion, statement) in &**statements {
        while let Some((rows, others)) = left.split_at_checked(*portion) {
            // Names of columns and question marks of our own, nothing else.
            let query = sqlx::query(AssertSqlSafe(statement.as_str()));
            rows.iter().fold(query, |query, row| bind(row, query)).execute(&mut **transaction).await?;
            left = others;
        }
    }
    Ok(())
}

fn bind_request<'a>(owner: &str, whole: &Whole<'_>, query: Query<'a>) -> Query<'a> {
    let Whole { admitted, ended, .. } = whole;
    let answering = whole.answering();
    let reason = ended.and_then(|ended| ended.reason.as_ref()).unwrap_or(&admitted.reason);
    let counterfactual = ended.and_then(|ended| ended.counterfactual.as_ref());
    let query = query
        .bind(admitted.id.clone())
        .bind(owner.to_owned())
        .bind(admitted.time)
        .bind(admitted.key_id.clone())
        .bind(admitted.model.clone())
        .bind(admitted.policy_hash.clone())
        .bind(admitted.retention.clone())
        .bind(admitted.reserved.map(|sum| sum.0))
        .bind(reason.clone())
        .bind(answering.map(|started| started.backend.clone()))
        .bind(answering.map(|started| started.locality.clone()))
        .bind(ended.map(|ended| ended.outcome.to_string()))
        .bind(ended.and_then(|ended| ended.ttft_us).map(signed))
        .bind(ended.map(|ended| signed(ended.duration_us)))
        .bind(ended.and_then(|ended| ended.cost).map(|cost| cost.0))
        .bind(counterfactual.map(|other| other.cost.0))
        .bind(counterfactual.map(|other| other.price.clone()))
        .bind(ended.and_then(|ended| ended.energy_joules))
        .bind(ended.and_then(|ended| ended.numerics.clone()));
    bind_usage(ended.and_then(|ended| ended.usage.as_ref()), query)
}

fn bind_attempt<'a>(
    (started, ended): &(&AttemptStarted, Option<&AttemptEnded>),
    query: Query<'a>,
) -> Query<'a> {
    let query = query
        .bind(started.id.clone())
        .bind(started.position)
        .bind(started.backend.clone())
        .bind(started.locality.clone())
        .bind(started.why.clone())
        .bind(signed(started.bytes_out))
        .bind(ended.map(|ended| ended.outcome.to_string()))
        .bind(ended.and_then(|ended| ended.cost).map(|cost| cost.0))
        .bind(ended.and_then(|ended| ended.price.clone()))
        .bind(ended.map(|ended| signed(ended.duration_us)));
    bind_usage(ended.and_then(|ended| ended.usage.as_ref()), query)
}

fn bind_usage<'a>(usage: Option<&Tokens>, query: Query<'a>) -> Query<'a> {
    query
        .bind(usage.map(|usage| signed(usage.input)))
        .bind(usage.map(|usage| signed(usage.cached_input)))
        .bind(usage.map(|usage| signed(usage.output)))
        .bind(usage.map(|usage| signed(usage.reasoning)))
        .bind(usage.map(|usage| usage.measured))
        .bind(usage.map(|usage| signed(usage.cache_write)))
        .bind(usage.map(|usage| signed(usage.cache_write_1h)))
        .bind(usage.map(|usage| signed(usage.unattributed)))
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
    let query = sqlx::query(statement)
        .bind(&ended.id)
        .bind(ended.position)
        .bind(ended.outcome.to_string())
        .bind(ended.cost.map(|cost| cost.0))
        .bind(&ended.price)
        .bind(signed(ended.duration_us));
    bind_usage(usage, query).execute(&mut **transaction).await?;
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
    let query = sqlx::query(statement)
        .bind(&ended.id)
        .bind(ended.outcome.to_string())
        .bind(&ended.reason)
        .bind(ended.ttft_us.map(signed))
        .bind(signed(ended.duration_us))
        .bind(ended.cost.map(|cost| cost.0))
        .bind(counterfactual.map(|other| other.cost.0))
        .bind(counterfactual.map(|other| &other.price))
        .bind(ended.energy_joules)
        .bind(&ended.numerics);
    bind_usage(usage, query).execute(&mut **transaction).await?;
    Ok(())
}

/// SQLite's integers are signed; counts beyond them do not occur.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
