use super::*;
use crate::record::samples::{self, ended};

fn admitted(id: &str) -> Record {
    samples::admitted(id, 0)
}

fn read_all(journal: &Journal) -> (Vec<Record>, u64, u64) {
    let mut reader = journal.reader().unwrap();
    let (mut records, mut damaged) = (Vec::new(), 0);
    loop {
        let batch = reader.next_batch().unwrap();
        records.extend(batch.records);
        damaged += batch.damaged;
        if batch.last {
            return (records, damaged, batch.torn);
        }
    }
}

#[test]
fn a_torn_last_record_is_told_and_the_rest_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::create(folder.path()).unwrap();
    journal.append(vec![admitted("a")]).unwrap();
    journal.append(vec![admitted("b")]).unwrap();
    let bytes = fs::read(&journal.path).unwrap();
    for cut in 1..20 {
        fs::write(&journal.path, &bytes[..bytes.len() - cut]).unwrap();
        let (records, damaged, torn) = read_all(&journal);
        assert_eq!(records, [admitted("a")]);
        assert_eq!((damaged, torn), (0, (bytes.len() / 2 - cut) as u64));
    }
}

#[test]
fn damage_in_the_middle_costs_one_record() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::create(folder.path()).unwrap();
    for id in ["a", "b", "c"] {
        journal.append(vec![admitted(id)]).unwrap();
    }
    let mut bytes = fs::read(&journal.path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&journal.path, &bytes).unwrap();
    assert_eq!(read_all(&journal), (vec![admitted("a"), admitted("c")], 1, 0));

    fs::write(&journal.path, vec![b'x'; 3 * BATCH as usize]).unwrap();
    let (records, damaged, _) = read_all(&journal);
    assert!(records.is_empty() && damaged > 0);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_admits_nothing_and_keeps_ends() {
    let folder = tempfile::tempdir().unwrap();
    let good = Journal::create(folder.path()).unwrap();
    let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
    let lock = File::open(folder.path().join(format!("{}.lock", good.owner))).unwrap();
    let (owner, path, lock_path) = (good.owner.clone(), good.path.clone(), good.lock_path.clone());
    let journal = Journal::over(owner, path, lock_path, full, lock);

    let error = journal.append(vec![admitted("a")]).unwrap_err();
    assert!(error.to_string().contains("free disk space"), "{error}");
    journal.note(vec![ended("b")]);
    journal.note(vec![ended("c")]);
    assert!(journal.write_waiting().is_err());
    assert!(journal.append(vec![admitted("a")]).is_err());

    // Space again: the ends that were kept come first.
    let file = OpenOptions::new().append(true).open(&good.path).unwrap();
    {
        let mut state = journal.state();
        state.file = file;
    }
    journal.append(vec![admitted("d")]).unwrap();
    let all = [ended("b"), ended("c"), admitted("d")];
    assert_eq!(read_all(&good).0, all);
    let recent = journal.recent(0).unwrap();
    assert_eq!((recent.records, recent.last), (all.to_vec(), true));
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn what_has_happened_is_journalled_soon_after_a_fault_and_after_quiet() {
    let folder = tempfile::tempdir().unwrap();
    let good = Journal::create(folder.path()).unwrap();
    let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
    let lock = File::open(folder.path().join(format!("{}.lock", good.owner))).unwrap();
    let (owner, path, lock_path) = (good.owner.clone(), good.path.clone(), good.lock_path.clone());
    let journal = std::sync::Arc::new(Journal::over(owner, path, lock_path, full, lock));
    let until = async |done: &dyn Fn() -> bool| {
        while !done() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };

    journal.note(vec![ended("a")]);
    let writing = tokio::spawn(crate::writer::journal_ends(std::sync::Arc::clone(&journal)));
    until(&|| journal.state().stuck).await;
    assert!(read_all(&good).0.is_empty());
    journal.state().file = OpenOptions::new().append(true).open(&good.path).unwrap();
    until(&|| !journal.state().stuck).await;
    assert_eq!(read_all(&good).0, [ended("a")]);

    until(&|| journal.state().quiet).await;
    journal.note(vec![ended("b")]);
    until(&|| journal.state().waiting.is_empty()).await;
    assert_eq!(read_all(&good).0, [ended("a"), ended("b")]);
    writing.abort();
}

#[test]
fn compaction_keeps_what_is_not_applied() {
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::create(folder.path()).unwrap();
    journal.append(vec![admitted("a")]).unwrap();
    let mut reader = journal.reader().unwrap();
    reader.next_batch().unwrap();
    journal.append(vec![admitted("b")]).unwrap();
    assert!(journal.compact(reader.offset()).unwrap());
    journal.append(vec![admitted("c")]).unwrap();
    assert_eq!(read_all(&journal).0, [admitted("b"), admitted("c")]);
}

#[test]
#[cfg(unix)]
fn files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let journal = Journal::create(folder.path()).unwrap();
    journal.append(vec![admitted("a")]).unwrap();
    journal.compact(0).unwrap();
    for entry in fs::read_dir(folder.path()).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
