//! What a crash leaves behind, and how the next start puts it right.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nearfield_api::Locality;
use nearfield_store::{End, Filter, Ledger, Outcome};

use crate::support::{admission, all_rows, attempt_end, complete, end, journal_files, start};

const FOLDER: &str = "NEARFIELD_TEST_CRASH_FOLDER";

/// The process that is killed: this test binary again, with the folder in its environment. Without it, as in a normal
/// run of the tests, there is nothing to do.
#[tokio::test]
async fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let ledger = Ledger::open(&folder).await.unwrap();
    complete(&ledger, "whole", "here", Locality::Local, Some(1));
    let mut row = ledger.admit(admission("cut")).unwrap();
    row.attempt(start("cloud", Locality::Cloud)).unwrap();
    journalled(Path::new(&folder), "ended").await;
    println!("ready");
    std::future::pending::<()>().await;
}

/// Waits until a text stands in this process's journal, which takes a moment where nobody asks for it.
async fn journalled(folder: &Path, text: &str) {
    let own = format!("{}-", std::process::id());
    let stands = || {
        let mut files = std::fs::read_dir(folder.join("journal")).unwrap().map(Result::unwrap);
        files.any(|file| {
            file.file_name().to_string_lossy().starts_with(&own)
                && std::fs::read_to_string(file.path()).is_ok_and(|lines| lines.contains(text))
        })
    };
    while !stands() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

fn spawn(folder: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines.map_while(Result::ok).any(|line| line.ends_with("ready"));
    assert!(ready, "the child ended early");
    child
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn rows_survive_a_kill_and_are_closed_as_unknown_once() {
    let folder = tempfile::tempdir().unwrap();
    let first = spawn(folder.path());
    let second = spawn(folder.path());

    // Company that comes later leaves the living alone.
    let ledger = Ledger::open(folder.path()).await.unwrap();
    assert_eq!(ledger.recovery().journals, 0);
    kill(first);

    let later = Ledger::open(folder.path()).await.unwrap();
    assert_eq!((later.recovery().journals, later.recovery().unknown), (1, 1));
    let rows = later.rows(&Filter { outcome: Some(Outcome::Unknown), ..Filter::default() }).await.unwrap();
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((row.model.as_str(), row.backend.as_deref()), ("cut", Some("cloud")));
    assert_eq!((row.usage, row.cost), (None, None));
    assert_eq!(row.attempts[0].outcome, Some(Outcome::Unknown));
    assert_eq!(row.attempts[0].bytes_out, 5);

    kill(second);
    let last = Ledger::open(folder.path()).await.unwrap();
    assert_eq!((last.recovery().journals, last.recovery().unknown), (1, 1));
    for ledger in [ledger, later, last] {
        ledger.close().await.unwrap();
    }
    let rows = all_rows(folder.path()).await;
    let count = |outcome: Outcome| rows.iter().filter(|row| row.outcome.as_ref() == Some(&outcome)).count();
    assert_eq!((rows.len(), count(Outcome::Done), count(Outcome::Unknown)), (4, 2, 2));
    assert_eq!(journal_files(folder.path()), 0);
}

#[tokio::test]
async fn ends_that_never_reached_the_database_come_from_the_journal() {
    let living = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(living.path()).await.unwrap();
    complete(&ledger, "whole", "here", Locality::Local, Some(1));
    let mut row = ledger.admit(admission("cut")).unwrap();
    row.attempt(start("cloud", Locality::Cloud)).unwrap();
    row.end_attempt(attempt_end(Outcome::Error("upstream".to_owned()), Some(3)));
    journalled(living.path(), "upstream").await;

    // What a process leaves that died before its writer did anything: no database, and a lock that nobody holds.
    let folder = tempfile::tempdir().unwrap();
    let left = folder.path().join("journal");
    std::fs::create_dir(&left).unwrap();
    for entry in std::fs::read_dir(living.path().join("journal")).unwrap() {
        let path = entry.unwrap().path();
        let copy = left.join(path.file_name().unwrap());
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("lock") => drop(std::fs::File::create(copy).unwrap()),
            _ => drop(std::fs::copy(&path, copy).unwrap()),
        }
    }
    let rows = all_rows(folder.path()).await;
    let outcomes: Vec<String> = rows.iter().map(|row| row.outcome.as_ref().unwrap().to_string()).collect();
    assert_eq!(outcomes, ["done", "unknown"]);
    assert_eq!(rows[1].attempts[0].outcome, Some(Outcome::Error("upstream".to_owned())));
}

#[tokio::test]
async fn torn_and_damaged_journals_are_told_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    kill(spawn(folder.path()));
    let journal = std::fs::read_dir(folder.path().join("journal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "journal"))
        .unwrap();
    let mut bytes = std::fs::read(&journal).unwrap();
    bytes.extend_from_slice(b"deadbeef {}\n0123");
    std::fs::write(&journal, bytes).unwrap();

    let ledger = Ledger::open(folder.path()).await.unwrap();
    let recovery = ledger.recovery();
    assert_eq!((recovery.journals, recovery.unknown, recovery.torn, recovery.damaged), (1, 1, 1, 1));
    assert!(journal.with_extension("damaged").exists());
    ledger.close().await.unwrap();
    // Said once, not at every start.
    let ledger = Ledger::open(folder.path()).await.unwrap();
    assert_eq!(*ledger.recovery(), nearfield_store::Recovery::default());
}

#[tokio::test]
async fn a_deleted_journal_leaves_no_row_running_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).await.unwrap();
    let row = ledger.admit(admission("m")).unwrap();
    ledger.flush().await.unwrap();
    std::fs::remove_dir_all(folder.path().join("journal")).unwrap();
    let later = Ledger::open(folder.path()).await.unwrap();
    assert_eq!(later.recovery().unknown, 1);
    // The first end counts.
    row.finish(None, End { reason: None, ..end(Outcome::Done) });
    ledger.flush().await.unwrap();
    let rows = later.rows(&Filter::default()).await.unwrap();
    assert_eq!((rows.len(), rows[0].outcome.clone()), (1, Some(Outcome::Unknown)));
}
