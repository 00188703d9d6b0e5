//! Reading rows and sums.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use nearfield_api::Usage;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqlitePool};

use crate::row::{AttemptRow, Counterfactual, Filter, Outcome, Row, Summary, SummaryLine};
use crate::{NanoDollars, StoreError};

/// The condition that every query shares; its parameters are $1 to $7, bound by [`bind`].
macro_rules! matching {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            " WHERE ($1 IS NULL OR time >= $1) AND ($2 IS NULL OR time < $2) AND ($3 IS NULL OR id = $3) \
             AND ($4 IS NULL OR key_id = $4) AND ($5 IS NULL OR model = $5) AND ($6 IS NULL OR backend = $6) \
             AND ($7 IS NULL OR outcome = $7) ",
            $after
        )
    };
}

type Query<'a> = sqlx::query::Query<'a, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

fn bind<'a>(query: Query<'a>, filter: &'a Filter) -> Query<'a> {
    query
        .bind(filter.since.map(Timestamp::as_microsecond))
        .bind(filter.until.map(Timestamp::as_microsecond))
        .bind(&filter.id)
        .bind(&filter.key_id)
        .bind(&filter.model)
        .bind(&filter.backend)
        .bind(filter.outcome.as_ref().map(ToString::to_string))
}

/// The rows that match, oldest first.
pub(crate) async fn rows(pool: &SqlitePool, filter: &Filter) -> Result<Vec<Row>, StoreError> {
    let limit = filter.limit.map_or(-1, i64::from);
    let statement = matching!("SELECT * FROM requests", "ORDER BY time DESC, id DESC LIMIT $8");
    // One transaction, so that attempts and requests are of the same moment.
    let mut transaction = pool.begin().await?;
    let found = bind(sqlx::query(statement), filter).bind(limit).fetch_all(&mut *transaction).await?;
    let mut rows = found.iter().rev().map(request).collect::<Result<Vec<_>, _>>()?;

    let statement = matching!(
        "SELECT * FROM attempts WHERE request_id IN (SELECT id FROM requests",
        "ORDER BY time DESC, id DESC LIMIT $8) ORDER BY position"
    );
    let found = bind(sqlx::query(statement), filter).bind(limit).fetch_all(&mut *transaction).await?;
    transaction.commit().await?;
    let mut attempts: HashMap<String, Vec<AttemptRow>> = HashMap::new();
    for row in &found {
        attempts.entry(row.try_get("request_id")?).or_default().push(attempt(row)?);
    }
    for row in &mut rows {
        row.attempts = attempts.remove(&row.id).unwrap_or_default();
    }
    Ok(rows)
}

/// The costs of a key's rows. Where the cost is not known it is what was set aside, unless nothing has left the machine.
pub(crate) async fn spent(
    pool: &SqlitePool,
    key_id: &str,
    since: Timestamp,
) -> Result<NanoDollars, StoreError> {
    let statement = "SELECT COALESCE(SUM(CASE WHEN cost IS NOT NULL THEN cost \
                     WHEN outcome IS NULL OR EXISTS (SELECT 1 FROM attempts WHERE request_id = requests.id \
                     AND locality = 'cloud') THEN COALESCE(reserved, 0) ELSE 0 END), 0) \
                     FROM requests WHERE key_id = $1 AND time >= $2";
    let sum: i64 =
        sqlx::query_scalar(statement).bind(key_id).bind(since.as_microsecond()).fetch_one(pool).await?;
    Ok(NanoDollars(sum))
}

/// Sums over all rows that match.
pub(crate) async fn summary(pool: &SqlitePool, filter: &Filter) -> Result<Summary, StoreError> {
    let statement = matching!(
        "SELECT backend, model, COUNT(*) AS requests, SUM(outcome IS 'done') AS done, \
         SUM(input_tokens) AS input_tokens, SUM(cached_input_tokens) AS cached_input_tokens, \
         SUM(output_tokens) AS output_tokens, SUM(reasoning_tokens) AS reasoning_tokens, \
         SUM(cost) AS cost, COUNT(*) - COUNT(cost) AS unpriced, SUM(counterfactual_cost) AS counterfactual, \
         SUM(CASE WHEN locality = 'local' THEN counterfactual_cost - cost END) AS saved FROM requests",
        "GROUP BY backend, model ORDER BY backend, model"
    );
    let found = bind(sqlx::query(statement), filter).fetch_all(pool).await?;
    let mut summary = Summary::default();
    for row in &found {
        let line = SummaryLine {
            backend: row.try_get("backend")?,
            model: row.try_get("model")?,
            requests: number(row, "requests")?,
            done: number(row, "done")?,
            input_tokens: number(row, "input_tokens")?,
            cached_input_tokens: number(row, "cached_input_tokens")?,
            output_tokens: number(row, "output_tokens")?,
            reasoning_tokens: number(row, "reasoning_tokens")?,
            cost: money(row, "cost")?.unwrap_or_default(),
            unpriced: number(row, "unpriced")?,
            counterfactual: money(row, "counterfactual")?.unwrap_or_default(),
            saved: money(row, "saved")?,
        };
        summary.total.add(&line);
        summary.lines.push(line);
    }
    Ok(summary)
}

fn request(row: &SqliteRow) -> Result<Row, sqlx::Error> {
    let time: i64 = row.try_get("time")?;
    let price: Option<String> = row.try_get("counterfactual_price")?;
    let counterfactual = money(row, "counterfactual_cost")?;
    Ok(Row {
        id: row.try_get("id")?,
        time: Timestamp::from_microsecond(time).map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
        key_id: row.try_get("key_id")?,
        model: row.try_get("model")?,
        backend: row.try_get("backend")?,
        locality: row.try_get("locality")?,
        reason: row.try_get("reason")?,
        policy_hash: row.try_get("policy_hash")?,
        retention: row.try_get("retention")?,
        reserved: money(row, "reserved")?,
        usage: usage(row)?,
        ttft: length(row, "ttft")?,
        duration: length(row, "duration")?,
        cost: money(row, "cost")?,
        counterfactual: price.zip(counterfactual).map(|(price, cost)| Counterfactual { price, cost }),
        energy_joules: row.try_get("energy_joules")?,
        outcome: outcome(row)?,
        numerics: row.try_get("numerics")?,
        attempts: Vec::new(),
    })
}

fn attempt(row: &SqliteRow) -> Result<AttemptRow, sqlx::Error> {
    Ok(AttemptRow {
        backend: row.try_get("backend")?,
        locality: row.try_get("locality")?,
        why: row.try_get("why")?,
        bytes_out: number(row, "bytes_out")?,
        outcome: outcome(row)?,
        usage: usage(row)?,
        cost: money(row, "cost")?,
        price: row.try_get("price")?,
        duration: length(row, "duration")?,
    })
}

fn outcome(row: &SqliteRow) -> Result<Option<Outcome>, sqlx::Error> {
    Ok(row.try_get::<Option<String>, _>("outcome")?.map(|outcome| Outcome::parse(&outcome)))
}

fn usage(row: &SqliteRow) -> Result<Option<Usage>, sqlx::Error> {
    let Some(measured) = row.try_get("measured")? else { return Ok(None) };
    Ok(Some(Usage {
        input: number(row, "input_tokens")?,
        cached_input: number(row, "cached_input_tokens")?,
        cache_write: number(row, "cache_write_tokens")?,
        cache_write_1h: number(row, "cache_write_1h_tokens")?,
        unattributed: number(row, "unattributed_tokens")?,
        output: number(row, "output_tokens")?,
        reasoning: number(row, "reasoning_tokens")?,
        measured,
        ..Usage::default()
    }))
}

fn number(row: &SqliteRow, column: &str) -> Result<u64, sqlx::Error> {
    let value: Option<i64> = row.try_get(column)?;
    Ok(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(0))
}

fn length(row: &SqliteRow, column: &str) -> Result<Option<Duration>, sqlx::Error> {
    let value: Option<i64> = row.try_get(column)?;
    Ok(value.and_then(|value| u64::try_from(value).ok()).map(Duration::from_micros))
}

fn money(row: &SqliteRow, column: &str) -> Result<Option<NanoDollars>, sqlx::Error> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(NanoDollars))
}
