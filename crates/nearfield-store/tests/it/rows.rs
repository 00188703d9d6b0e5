//! Rows and sums.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use nearfield_api::Locality;
use nearfield_store::{Admission, End, Filter, Ledger, NanoDollars, Outcome, RowHandle, StoreError};

use crate::support::{admission, all_rows, attempt_end, complete, end, journal_files, start, usage};

#[tokio::test]
async fn a_request_becomes_one_row_with_its_attempts() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).await.unwrap();
    let mut row = ledger.admit(admission("m")).unwrap();
    let id = row.id().to_owned();

    row.attempt(start("here", Locality::Local)).unwrap();
    row.end_attempt(attempt_end(Outcome::Error("overloaded".to_owned()), Some(0)));
    row.attempt(start("cloud", Locality::Cloud)).unwrap();
    ledger.flush().await.unwrap();
    let running = ledger.rows(&Filter::default()).await.unwrap();
    assert_eq!(running.len(), 1);
    assert_eq!((running[0].outcome.as_ref(), running[0].usage), (None, None));
    assert_eq!(running[0].backend.as_deref(), Some("cloud"));

    let cost = row.finish(
        Some(attempt_end(Outcome::Done, Some(70))),
        End { reason: Some("prefer-local: the local queue is full".to_owned()), ..end(Outcome::Done) },
    );
    assert_eq!(cost, Some(NanoDollars(70)));
    ledger.close().await.unwrap();

    let rows = all_rows(folder.path()).await;
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!(row.id, id);
    assert_eq!(row.outcome, Some(Outcome::Done));
    assert_eq!((row.backend.as_deref(), row.locality.as_deref()), (Some("cloud"), Some("cloud")));
    assert_eq!(row.reason, "prefer-local: the local queue is full");
    assert_eq!(row.usage, Some(usage()));
    assert_eq!(row.ttft, Some(Duration::from_millis(12)));
    assert_eq!(row.cost, Some(NanoDollars(70)));
    assert_eq!(row.energy_joules, Some(2.5));
    assert_eq!(row.key_id.as_deref(), Some("key-1"));
    let outcomes: Vec<String> =
        row.attempts.iter().map(|attempt| attempt.outcome.as_ref().unwrap().to_string()).collect();
    assert_eq!(outcomes, ["error:overloaded", "done"]);
    let sum: NanoDollars = row.attempts.iter().map(|attempt| attempt.cost.unwrap()).sum();
    assert_eq!(Some(sum), row.cost);

    let json = serde_json::to_value(row).unwrap();
    for (field, value) in [
        ("outcome", serde_json::json!("done")),
        ("input_tokens", serde_json::json!(10)),
        ("cached_input_tokens", serde_json::json!(3)),
        ("output_tokens", serde_json::json!(7)),
        ("reasoning_tokens", serde_json::json!(2)),
        ("ttft_ms", serde_json::json!(12.0)),
        ("cost_usd", serde_json::json!(7e-8)),
        ("counterfactual_usd", serde_json::json!(5e-7)),
        ("counterfactual_price", serde_json::json!("reference")),
        ("policy_hash", serde_json::json!("0123456789abcdef")),
        ("retention", serde_json::json!("short")),
        ("reserved_usd", serde_json::json!(null)),
    ] {
        assert_eq!(json[field], value, "{field}");
    }
    assert!(json["time"].as_str().unwrap().ends_with('Z'));
    assert_eq!(json["attempts"][0]["backend"], "here");
}

#[tokio::test]
async fn an_unknown_cost_of_one_attempt_makes_the_sum_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).await.unwrap();
    let mut row = ledger.admit(admission("m")).unwrap();
    row.attempt(start("a", Locality::Cloud)).unwrap();
    row.end_attempt(attempt_end(Outcome::Error("timeout".to_owned()), None));
    row.attempt(start("b", Locality::Cloud)).unwrap();
    assert_eq!(row.finish(Some(attempt_end(Outcome::Done, Some(1))), end(Outcome::Done)), None);
}

#[tokio::test]
async fn a_dropped_handle_closes_its_row_once() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).await.unwrap();
    let mut row = ledger.admit(admission("dropped")).unwrap();
    row.attempt(start("here", Locality::Local)).unwrap();
    drop(row);
    let panicking = ledger.clone();
    let thread = std::thread::spawn(move || {
        let _row = panicking.admit(admission("panicked")).unwrap();
        panic!("on purpose");
    });
    assert!(thread.join().is_err());
    ledger.flush().await.unwrap();
    let rows = ledger.rows(&Filter::default()).await.unwrap();
    let outcomes: Vec<String> = rows.iter().map(|row| row.outcome.as_ref().unwrap().to_string()).collect();
    assert_eq!(outcomes, ["cancelled", "error:internal"]);
    assert_eq!(rows[0].attempts[0].outcome, Some(Outcome::Cancelled));
}

#[tokio::test]
async fn an_admission_goes_with_what_is_recorded_first() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).await.unwrap();
    let mut attempted = ledger.admit_with_attempt(admission("attempted"));
    ledger.flush().await.unwrap();
    assert_eq!(ledger.rows(&Filter::default()).await.unwrap(), [], "nothing was recorded yet");
    attempted.attempt(start("here", Locality::Local)).unwrap();
    ledger.flush().await.unwrap();
    let running = ledger.rows(&Filter::default()).await.unwrap();
    assert_eq!((running.len(), running[0].backend.as_deref()), (1, Some("here")));
    assert!(attempted.is_admitted());
    attempted.finish(Some(attempt_end(Outcome::Done, Some(70))), end(Outcome::Done));
    // Nothing could be asked, or the caller is gone: there is a row all the same.
    ledger.admit_with_attempt(admission("ended")).finish(None, end(Outcome::Done));
    drop(ledger.admit_with_attempt(admission("dropped")));
    ledger.close().await.unwrap();
    let rows = all_rows(folder.path()).await;
    let seen: Vec<_> = rows.iter().map(|row| (row.model.as_str(), row.outcome.clone().unwrap())).collect();
    let expected = [("attempted", Outcome::Done), ("ended", Outcome::Done), ("dropped", Outcome::Cancelled)];
    assert_eq!(seen, expected);
    assert_eq!(journal_files(folder.path()), 0);
}

#[tokio::test]
async fn a_request_whose_admission_cannot_be_recorded_has_no_row() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).await.unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let mut row = ledger.admit_with_attempt(admission("m"));
    let hears = Arc::clone(&told);
    row.on_close(move |cost| hears.lock().unwrap().push(cost));
    let mut attempt = start("cloud", Locality::Cloud);
    attempt.why = "w".repeat(1 << 20);
    assert!(matches!(row.attempt(attempt), Err(StoreError::RecordTooLarge { .. })));
    assert!(!row.is_admitted());
    drop(row);
    assert_eq!(*told.lock().unwrap(), [Some(NanoDollars::ZERO)]);
    ledger.close().await.unwrap();
    assert_eq!(all_rows(folder.path()).await, []);
}

#[tokio::test]
async fn filters_and_sums() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).await.unwrap();
    complete(&ledger, "small", "here", Locality::Local, Some(100));
    complete(&ledger, "small", "here", Locality::Local, None);
    complete(&ledger, "big", "cloud", Locality::Cloud, Some(900));
    drop(ledger.admit(admission("big")).unwrap());
    ledger.flush().await.unwrap();

    let count = async |filter: Filter| ledger.rows(&filter).await.unwrap().len();
    assert_eq!(count(Filter::default()).await, 4);
    assert_eq!(count(Filter { model: Some("big".to_owned()), ..Filter::default() }).await, 2);
    assert_eq!(count(Filter { backend: Some("here".to_owned()), ..Filter::default() }).await, 2);
    assert_eq!(count(Filter { outcome: Some(Outcome::Cancelled), ..Filter::default() }).await, 1);
    assert_eq!(count(Filter { key_id: Some("other".to_owned()), ..Filter::default() }).await, 0);
    let rows = ledger.rows(&Filter::default()).await.unwrap();
    assert_eq!(count(Filter { since: Some(rows[2].time), ..Filter::default() }).await, 2);
    assert_eq!(count(Filter { until: Some(rows[2].time), ..Filter::default() }).await, 2);
    assert_eq!(count(Filter { id: Some(rows[1].id.clone()), ..Filter::default() }).await, 1);
    let newest = ledger.rows(&Filter { limit: Some(2), ..Filter::default() }).await.unwrap();
    assert_eq!(newest, rows[2..]);
    assert_eq!(newest[0].attempts.len(), 1);

    let summary = ledger.summary(&Filter::default()).await.unwrap();
    let names: Vec<_> =
        summary.lines.iter().map(|line| (line.backend.as_deref(), line.model.as_deref())).collect();
    assert_eq!(names, [(None, Some("big")), (Some("cloud"), Some("big")), (Some("here"), Some("small"))]);
    let here = &summary.lines[2];
    assert_eq!((here.requests, here.done, here.unpriced), (2, 2, 1));
    assert_eq!((here.input_tokens, here.cached_input_tokens, here.output_tokens), (20, 6, 14));
    assert_eq!((here.cost, here.counterfactual), (NanoDollars(100), NanoDollars(1000)));
    // Only the row whose cost is known counts, and the cloud row saves nothing.
    assert_eq!(here.saved, Some(NanoDollars(400)));
    assert_eq!(summary.lines[1].saved, None);
    assert_eq!((summary.total.requests, summary.total.cost), (4, NanoDollars(1000)));
    assert_eq!(summary.total.saved, Some(NanoDollars(400)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_and_two_ledgers_over_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let one = Ledger::open(folder.path()).await.unwrap();
    let two = Ledger::open(folder.path()).await.unwrap();
    assert_eq!(two.recovery().journals, 0, "the first still lives");
    let tasks: Vec<_> = (0..200)
        .map(|at| {
            let ledger = if at % 2 == 0 { one.clone() } else { two.clone() };
            tokio::spawn(async move {
                let mut row = ledger.admit(admission("m")).unwrap();
                tokio::task::yield_now().await;
                row.attempt(start("here", Locality::Local)).unwrap();
                tokio::task::yield_now().await;
                row.finish(Some(attempt_end(Outcome::Done, Some(1))), end(Outcome::Done));
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    one.close().await.unwrap();
    two.close().await.unwrap();
    assert_eq!(journal_files(folder.path()), 0);

    let ledger = Ledger::open(folder.path()).await.unwrap();
    let summary = ledger.summary(&Filter::default()).await.unwrap();
    assert_eq!((summary.total.requests, summary.total.done), (200, 200));
    assert_eq!(summary.total.cost, NanoDollars(200));
}

#[tokio::test]
async fn nothing_is_admitted_after_close() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).await.unwrap();
    let other = ledger.clone();
    ledger.close().await.unwrap();
    assert!(matches!(other.admit(admission("m")), Err(StoreError::Closed)));
    assert!(matches!(other.flush().await, Err(StoreError::Closed)));
}

#[tokio::test]
async fn closing_leaves_open_requests_their_journal() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).await.unwrap();
    let row = ledger.admit(admission("m")).unwrap();
    ledger.close().await.unwrap();
    row.finish(None, End::bare(Outcome::Done));
    // The writer carries over the end and ends itself, for the last handle is gone.
    let mut waited = 0;
    while journal_files(folder.path()) > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        waited += 1;
        assert!(waited < 300, "the journal stays");
    }
    assert_eq!(all_rows(folder.path()).await[0].outcome, Some(Outcome::Done));
}

#[tokio::test]
async fn a_long_life_does_not_grow_the_journal_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).await.unwrap();
    let survivor = ledger.admit(admission("survivor")).unwrap();
    // About 4.5 MiB of records with long reasons.
    for _ in 0..300 {
        let reason = "r".repeat(15_000);
        let row = ledger.admit(nearfield_store::Admission { reason, ..admission("m") }).unwrap();
        row.finish(None, End::bare(Outcome::Done));
    }
    ledger.flush().await.unwrap();
    let size = |suffix: &str| -> u64 {
        std::fs::read_dir(folder.path().join("journal"))
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.file_name().to_string_lossy().ends_with(suffix))
            .map(|entry| entry.metadata().unwrap().len())
            .sum()
    };
    assert!(size(".journal") < 1024 * 1024, "{}", size(".journal"));
    complete(&ledger, "after", "here", Locality::Local, Some(1));
    survivor.finish(None, End::bare(Outcome::Done));
    ledger.close().await.unwrap();
    let rows = all_rows(folder.path()).await;
    assert_eq!(rows.len(), 302);
    assert!(rows.iter().all(|row| row.outcome == Some(Outcome::Done)));
}

#[tokio::test]
async fn what_a_key_has_spent_counts_what_is_set_aside_until_the_cost_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).await.unwrap();
    let before = jiff::Timestamp::now();
    let reserving = |key: &str| {
        let admission = Admission { key_id: Some(key.to_owned()), ..admission("m") };
        ledger.admit(Admission { reserved: Some(NanoDollars(1000)), ..admission }).unwrap()
    };
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = |row: &mut RowHandle| {
        let told = Arc::clone(&told);
        row.on_close(move |cost| told.lock().unwrap().push(cost));
    };
    let spent = || async { ledger.spent("key-1", before).await.unwrap().0 };
    assert_eq!(spent().await, 0);

    let mut known = reserving("key-1");
    tell(&mut known);
    assert_eq!(spent().await, 1000, "under way");
    known.attempt(start("cloud", Locality::Cloud)).unwrap();
    known.finish(Some(attempt_end(Outcome::Done, Some(70))), end(Outcome::Done));
    assert_eq!(spent().await, 70);

    let mut here = reserving("key-1");
    tell(&mut here);
    here.attempt(start("here", Locality::Local)).unwrap();
    here.finish(Some(attempt_end(Outcome::Done, None)), end(Outcome::Done));
    assert_eq!(spent().await, 70, "nothing has left");

    let mut lost = reserving("key-1");
    tell(&mut lost);
    lost.attempt(start("cloud", Locality::Cloud)).unwrap();
    drop(lost);
    assert_eq!(spent().await, 1070, "nobody knows what it cost");

    reserving("key-2").finish(None, end(Outcome::Done));
    assert_eq!(spent().await, 1070);
    assert_eq!(ledger.spent("key-1", jiff::Timestamp::now()).await.unwrap(), NanoDollars::ZERO);
    assert_eq!(*told.lock().unwrap(), [Some(NanoDollars(70)), Some(NanoDollars::ZERO), None]);
}

#[tokio::test]
async fn a_long_request_shows_before_it_ends_and_short_ones_when_they_do() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).await.unwrap();
    let mut long = ledger.admit(admission("long")).unwrap();
    long.attempt(start("cloud", Locality::Cloud)).unwrap();
    for _ in 0..200 {
        complete(&ledger, "short", "here", Locality::Local, Some(0));
    }
    // Nobody asks for what is journalled to be carried over.
    let shows = async |wanted: fn(&nearfield_store::Row) -> bool, count: usize| {
        for _ in 0..500 {
            let rows = ledger.rows(&Filter::default()).await.unwrap();
            if rows.iter().filter(|row| wanted(row)).count() == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{count} rows do not show");
    };
    shows(|row| row.model == "short" && row.outcome == Some(Outcome::Done), 200).await;
    shows(|row| row.model == "long" && row.outcome.is_none() && row.backend.is_some(), 1).await;
    long.finish(Some(attempt_end(Outcome::Done, Some(70))), end(Outcome::Done));
    shows(|row| row.model == "long" && row.outcome == Some(Outcome::Done) && row.cost.is_some(), 1).await;
    ledger.close().await.unwrap();
    assert_eq!(all_rows(folder.path()).await.len(), 201);
}

#[tokio::test]
async fn a_journal_that_grows_past_its_compaction_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).await.unwrap();
    let open = ledger.admit(admission("open")).unwrap();
    let long = "m".repeat(20_000);
    for at in 0..300 {
        complete(&ledger, &format!("{at} {long}"), "here", Locality::Local, Some(1));
        if at % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
    drop(open);
    ledger.close().await.unwrap();
    let rows = all_rows(folder.path()).await;
    assert_eq!(rows.len(), 301);
    assert!(rows.iter().all(|row| row.outcome.is_some()), "each is closed");
}
