//! The task that carries the journal over into the database.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::{Connection, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use crate::journal::{Journal, Reader};
use crate::record::Record;
use crate::{StoreError, carry, database};

/// How long the writer lets records gather before it carries them over together: a moment where there are few, and where
/// there are many long enough that most requests are over by then, and are written whole.
const GROUP: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(200));
/// How soon what has happened is journalled.
const SOON: Duration = Duration::from_millis(10);
/// How often nothing must have happened until whoever makes something happen has to wake the thread, which takes longer than
/// to look now and then.
const LOOKS: u32 = 100;
/// Records from which on they are many.
const MANY: usize = 64;
/// The pause between two pieces that are carried over.
const PAUSE: Duration = Duration::from_millis(4);
/// The first and the longest wait after a failure of the database.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// The carried-over bytes at which the journal is compacted.
const COMPACT_AT: u64 = 4 * 1024 * 1024;
/// How long the records of a request that is under way are held back at most, so that its row is written once.
const HOLD: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) enum Command {
    /// Carry over all that is journalled.
    Flush(oneshot::Sender<Result<(), StoreError>>),
    /// The same, and remove the journal where no request is open.
    Close(oneshot::Sender<Result<(), StoreError>>),
}

/// The one task of this process that writes to the database.
pub(crate) struct Writer {
    journal: Arc<Journal>,
    reader: Reader,
    database: SqliteConnection,
    commands: mpsc::UnboundedReceiver<Command>,
    /// How long to wait before the next try, while the database or the journal fails.
    failing: Option<Duration>,
    /// Records that were read last.
    read: usize,
    held: Held,
}

impl Writer {
    pub(crate) fn new(
        journal: Arc<Journal>,
        reader: Reader,
        database: SqliteConnection,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> Self {
        Self { journal, reader, database, commands, failing: None, read: 0, held: Held::default() }
    }

    pub(crate) async fn run(mut self) {
        let journal = Arc::clone(&self.journal);
        loop {
            let sleeps = self.failing.is_some() || self.held.any();
            let mut command = tokio::select! {
                command = self.commands.recv() => Some(command),
                () = journal.appended.notified(), if self.failing.is_none() => None,
                () = tokio::time::sleep(self.failing.unwrap_or(HOLD)), if sleeps => None,
            };
            if command.is_none() && self.failing.is_none() {
                // A moment for more records to come, unless somebody waits for these.
                command = tokio::select! {
                    command = self.commands.recv() => Some(command),
                    () = tokio::time::sleep(if self.read < MANY { GROUP.0 } else { GROUP.1 }) => None,
                };
            }
            if command.is_some() {
                // What cannot be written now is tried again, and told, by those who journal ends.
                let _ = journal.write_waiting();
            }
            let result = self.carry_over(command.is_none()).await;
            self.note(&result);
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

    /// Carries over what is in the journal now. `patient` in small pieces with pauses, so that requests that are under way
    /// hardly wait for it, and where there are many without those that have hardly begun; otherwise all.
    async fn carry_over(&mut self, patient: bool) -> Result<(), StoreError> {
        self.read = 0;
        loop {
            let before = self.reader.offset();
            let batch = match self.journal.recent(before) {
                Some(batch) => batch,
                None => self.reader.next_batch()?,
            };
            self.reader.go_to(batch.end);
            if batch.damaged > 0 {
                tracing::error!(
                    records = batch.damaged,
                    "the ledger's journal was changed by something else"
                );
            }
            self.read += batch.records.len();
            // Where there are few, what is under way shows at once.
            let holds = patient && self.read >= MANY;
            let (records, from) = self.held.sort(batch.records, before, holds.then(Timestamp::now));
            self.apply(&records, from).await?;
            if batch.last {
                break;
            }
            if patient {
                tokio::time::sleep(PAUSE).await;
            }
        }
        if self.reader.offset() >= COMPACT_AT {
            let (rest, from) = self.held.sort(Vec::new(), self.reader.offset(), None);
            self.apply(&rest, from).await?;
            database::checkpoint(&mut self.database).await?;
            if self.journal.compact(self.reader.offset())? {
                self.reader = self.journal.reader()?;
            }
        }
        Ok(())
    }

    /// Writes records. After a failure the journal is read again from where the first of them stands.
    async fn apply(&mut self, records: &[Record], from: u64) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        let applied = carry::apply(&mut self.database, self.journal.owner(), records).await;
        if applied.is_err() {
            self.held = Held::default();
            self.reader.go_to(from);
        }
        applied
    }

    /// Keeps the log quiet while a failure lasts, and waits longer each time.
    fn note(&mut self, result: &Result<(), StoreError>) {
        match result {
            Ok(()) => {
                if self.failing.take().is_some() {
                    tracing::info!("the ledger writes again");
                }
            }
            Err(error) => {
                if self.failing.is_none() {
                    tracing::error!(%error, "the ledger's database cannot be written; the journal keeps the rows");
                }
                self.failing = Some(self.failing.map_or(RETRY.0, |wait| (wait * 2).min(RETRY.1)));
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

/// Journals what has happened, all of [`SOON`] in one write. What cannot be written is tried again for as long as it takes.
pub(crate) async fn journal_ends(journal: Arc<Journal>) {
    let mut wait = SOON;
    let mut idle = 0;
    loop {
        tokio::time::sleep(wait).await;
        match journal.write_waiting() {
            Ok(written) => {
                if wait > SOON {
                    tracing::info!("the ends of requests are journalled again");
                }
                wait = SOON;
                idle = if written { 0 } else { idle + 1 };
            }
            Err(error) => {
                if wait == SOON {
                    tracing::error!(%error, "the ends of requests wait to be journalled");
                }
                wait = (wait * 2).min(RETRY.1);
            }
        }
        if idle >= LOOKS && journal.is_quiet() {
            journal.happened.notified().await;
            idle = 0;
        }
    }
}

/// Records of requests that have begun and are not over.
#[derive(Default)]
struct Held {
    records: Vec<Record>,
    /// The start of the batch that the first of them, or one before it, came in.
    from: Option<u64>,
}

impl Held {
    fn any(&self) -> bool {
        !self.records.is_empty()
    }

    /// Takes the records of a batch that began at an offset, and gives back those to write: of requests that are over, that
    /// were written in part before, or that began more than [`HOLD`] before `now`; without `now` all. With them the offset
    /// from which the journal holds them and all that stays held.
    fn sort(&mut self, batch: Vec<Record>, offset: u64, now: Option<Timestamp>) -> (Vec<Record>, u64) {
        let mut records = std::mem::take(&mut self.records);
        let from = self.from.take().unwrap_or(offset);
        records.extend(batch);
        let Some(now) = now else { return (records, from) };
        let hold = i64::try_from(HOLD.as_micros()).unwrap_or(i64::MAX);
        let mut young: HashMap<&str, bool> = HashMap::new();
        for record in &records {
            match record {
                Record::Admitted(admitted) => {
                    let age = now.as_microsecond().saturating_sub(admitted.time);
                    young.insert(&admitted.id, (0..hold).contains(&age));
                }
                Record::Ended(ended) => drop(young.remove(ended.id.as_str())),
                Record::AttemptStarted(_) | Record::AttemptEnded(_) => {}
            }
        }
        let later: Vec<bool> =
            records.iter().map(|record| young.get(record.id()).copied().unwrap_or(false)).collect();
        let mut later = later.into_iter();
        (self.records, records) = records.into_iter().partition(|_| later.next().unwrap_or(false));
        self.from = (!self.records.is_empty()).then_some(from);
        (records, from)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::samples::{admitted, attempt_started, ended};

    /// One record of request `id`, which was admitted at second `id`: its admission, an attempt, its end.
    fn record(id: u8, step: u8) -> Record {
        let name = id.to_string();
        match step {
            0 => admitted(&name, i64::from(id) * 1_000_000),
            1 => attempt_started(&name, 0),
            _ => ended(&name),
        }
    }

    fn at(second: i64) -> Option<Timestamp> {
        Timestamp::from_second(second).ok()
    }

    #[test]
    fn what_is_under_way_is_held_until_it_is_over_or_old() {
        let mut held = Held::default();
        let first = vec![record(5, 0), record(5, 1), record(6, 0), record(6, 1), record(6, 2)];
        let (now, from) = held.sort(first, 0, at(5));
        assert_eq!((now, from), (vec![record(6, 0), record(6, 1), record(6, 2)], 0));
        assert!(held.any());
        // What was written in part before is written on.
        let (now, from) = held.sort(vec![record(4, 2)], 100, at(5));
        assert_eq!((now, from), (vec![record(4, 2)], 0));
        // A second later the first is written as far as it is known.
        let (now, from) = held.sort(Vec::new(), 200, at(6));
        assert_eq!((now, from), (vec![record(5, 0), record(5, 1)], 0));
        assert!(!held.any());
        let (now, from) = held.sort(vec![record(5, 2)], 300, at(6));
        assert_eq!((now, from), (vec![record(5, 2)], 300));
        // A clock that was put back holds nothing.
        let (now, _) = held.sort(vec![record(9, 0)], 400, at(6));
        assert_eq!(now, vec![record(9, 0)]);
        // Who asks for all gets all.
        drop(held.sort(vec![record(7, 0)], 500, at(7)));
        assert_eq!(held.sort(vec![record(7, 1)], 600, None), (vec![record(7, 0), record(7, 1)], 500));
        assert!(!held.any());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_overtaken(
            steps in prop::collection::vec((0_u8..8, 1_usize..6, -1_i64..4, any::<bool>()), 1..40),
        ) {
            let mut held = Held::default();
            let mut next = [0_u8; 8];
            let (mut journal, mut given) = (Vec::new(), Vec::new());
            for (id, count, second, all) in steps {
                let before = journal.len();
                let mut batch = Vec::new();
                for other in 0..count as u8 {
                    let id = (id + other) % 8;
                    if let Some(step) = next.get_mut(usize::from(id)).filter(|step| **step < 3) {
                        batch.push(record(id, *step));
                        *step += 1;
                    }
                }
                journal.extend(batch.iter().cloned());
                let missing = journal.iter().take(before).position(|record| !given.contains(record));
                let (now, from) = held.sort(batch, before as u64, at(second).filter(|_| !all));
                // Reading again from there brings back whatever was not given before.
                prop_assert!(missing.is_none_or(|at| from <= at as u64));
                prop_assert!(from <= before as u64);
                given.extend(now);
            }
            given.extend(held.sort(Vec::new(), journal.len() as u64, None).0);
            prop_assert_eq!(given.len(), journal.len());
            for id in 0..8_u8 {
                let of = |records: &[Record]| -> Vec<Record> {
                    records.iter().filter(|record| record.id() == id.to_string()).cloned().collect()
                };
                prop_assert_eq!(of(&given), of(&journal));
            }
        }
    }
}
