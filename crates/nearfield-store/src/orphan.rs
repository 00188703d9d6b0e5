//! Journals of processes that died.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::StoreError;
use crate::journal::{Reader, failed, journal_path, lock_path};

/// The journal of a process that died, taken over.
#[derive(Debug)]
pub(crate) struct Orphan {
    pub(crate) owner: String,
    journal: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl Orphan {
    /// Takes over every journal in `folder` whose process is gone.
    pub(crate) fn find(folder: &Path) -> Result<Vec<Self>, StoreError> {
        let mut orphans = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed("list", folder))? {
            let name = entry.map_err(failed("list", folder))?.file_name();
            let Some(owner) = name.to_str().and_then(|name| name.strip_suffix(".lock")) else { continue };
            let lock_path = lock_path(folder, owner);
            let lock = match File::open(&lock_path) {
                Ok(lock) => lock,
                // Another process took it over and is done with it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed("open", &lock_path)(error)),
            };
            match lock.try_lock() {
                Ok(()) => {
                    let journal = journal_path(folder, owner);
                    orphans.push(Self { owner: owner.to_owned(), journal, lock_path, _lock: lock });
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(failed("lock", &lock_path)(error)),
            }
        }
        Ok(orphans)
    }

    /// A reader of its journal; `None` when the process died before it had one, or another has carried it over.
    pub(crate) fn reader(&self) -> Result<Option<Reader>, StoreError> {
        match Reader::open(&self.journal) {
            Ok(reader) => Ok(Some(reader)),
            Err(StoreError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes the files, once all is in the database. A journal with damage is kept as `<owner>.damaged`.
    pub(crate) fn remove(self, damaged: bool) -> Result<(), StoreError> {
        let done = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        let journal = if damaged {
            fs::rename(&self.journal, self.journal.with_extension("damaged"))
        } else {
            fs::remove_file(&self.journal)
        };
        done(journal).map_err(failed("remove", &self.journal))?;
        // Half a compaction.
        let _ = fs::remove_file(self.journal.with_extension("journal.new"));
        done(fs::remove_file(&self.lock_path)).map_err(failed("remove", &self.lock_path))
    }
}

/// Whether an owner's process may still live or its journal still wait.
pub(crate) fn has_files(folder: &Path, owner: &str) -> bool {
    lock_path(folder, owner).exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Journal;

    #[test]
    fn a_living_owner_is_no_orphan() {
        let folder = tempfile::tempdir().unwrap();
        let living = Journal::create(folder.path()).unwrap();
        let dead = Journal::create(folder.path()).unwrap();
        let name = dead.owner().to_owned();
        drop(dead);
        let orphans = Orphan::find(folder.path()).unwrap();
        assert_eq!(orphans.iter().map(|orphan| &orphan.owner).collect::<Vec<_>>(), [&name]);
        // While one process carries a journal over, another leaves it alone.
        assert!(Orphan::find(folder.path()).unwrap().is_empty());
        for orphan in orphans {
            orphan.remove(false).unwrap();
        }
        assert!(!has_files(folder.path(), &name));
        assert!(has_files(folder.path(), living.owner()));
    }
}
