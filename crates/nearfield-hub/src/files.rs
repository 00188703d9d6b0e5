//! File work that a pull rests on: locks, growing files that are hashed as they grow, atomic writes.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::digest::{Digest, Hasher};
use crate::error::HubError;

/// Pause between two looks at a lock that another process holds.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// Runs file work off the asynchronous threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HubError> + Send + 'static,
) -> Result<T, HubError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(HubError::io(Path::new("."), io::Error::from(io::ErrorKind::Interrupted))),
    }
}

/// Holds a model's lock until dropped. The lock is the operating system's, so it ends with the process.
#[derive(Debug)]
pub(crate) struct ModelLock {
    _file: File,
}

impl ModelLock {
    /// Takes the lock if it is free; `Ok(None)` if another process (or another pull of this one) holds it.
    pub(crate) fn try_acquire(path: &Path) -> Result<Option<Self>, HubError> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| HubError::io(parent, error))?;
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(|error| HubError::io(path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(HubError::io(path, error)),
        }
    }

    /// Takes the lock, waiting for it; calls `waiting` once if it is not free at first.
    pub(crate) async fn acquire(path: &Path, waiting: impl FnOnce()) -> Result<Self, HubError> {
        let mut waiting = Some(waiting);
        loop {
            if let Some(lock) = Self::try_acquire(path)? {
                return Ok(lock);
            }
            if let Some(waiting) = waiting.take() {
                waiting();
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
    }
}

/// A file that is still incomplete: it grows at its end, and its digest grows with it. It keeps the model's lock, so
/// that a write that outlives a cancelled pull cannot meet the next one.
#[derive(Debug)]
pub(crate) struct PartFile {
    path: PathBuf,
    file: File,
    hasher: Hasher,
    len: u64,
    _lock: Arc<ModelLock>,
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Hasher")
    }
}

impl PartFile {
    /// Opens or creates the file, keeps its first `keep` bytes at most, and hashes them.
    pub(crate) fn open(path: &Path, keep: u64, lock: Arc<ModelLock>) -> Result<Self, HubError> {
        let io = |error| HubError::io(path, error);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        let mut part = Self { path: path.to_owned(), file, hasher: Hasher::default(), len: 0, _lock: lock };
        part.truncate(keep)?;
        Ok(part)
    }

    /// Bytes in the file.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Drops everything after the first `keep` bytes and hashes those anew.
    pub(crate) fn truncate(&mut self, keep: u64) -> Result<(), HubError> {
        let work = |part: &mut Self| -> io::Result<()> {
            if part.file.metadata()?.len() > keep {
                part.file.set_len(keep)?;
            }
            part.file.seek(SeekFrom::Start(0))?;
            part.hasher = Hasher::default();
            part.len = part.hasher.update_from(&mut (&part.file).take(keep))?;
            Ok(())
        };
        work(self).map_err(|error| HubError::io(&self.path, error))
    }

    /// Adds bytes at the end.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(|error| HubError::io(&self.path, error))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Brings everything to the disk.
    pub(crate) fn sync(&self) -> Result<(), HubError> {
        self.file.sync_all().map_err(|error| HubError::io(&self.path, error))
    }

    /// The digest of everything in the file.
    pub(crate) fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }
}

/// Writes a file so that it is seen whole or not at all.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), HubError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || -> io::Result<()> {
        let mut builder = tempfile::Builder::new();
        // As any other file here: a service of another user may read the models.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        sync_folder(folder)
    };
    write().map_err(|error| HubError::io(path, error))
}

/// Brings a folder's own entries (a rename) to the disk.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Creates a folder with its parents.
pub(crate) fn create_folder(path: &Path) -> Result<(), HubError> {
    fs::create_dir_all(path).map_err(|error| HubError::io(path, error))
}

/// Removes a file or a folder with its content, if it is there.
pub(crate) fn remove_any(path: &Path) -> Result<(), HubError> {
    let result = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(HubError::io(path, error)),
        _ => Ok(()),
    }
}

/// Bytes of all files below `path`; 0 if it is not there. Files that vanish meanwhile do not count.
pub(crate) fn folder_bytes(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
            Ok(metadata) if metadata.is_file() => metadata.len(),
            _ => 0,
        })
        .sum()
}

/// Reads a file of at most `limit` bytes as text; `Ok(None)` if it is not there.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Option<String>, HubError> {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        File::open(path)?.take(limit + 1).read_to_string(&mut text)?;
        if text.len() as u64 > limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {limit} bytes")));
        }
        Ok(text)
    };
    match read() {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(HubError::io(path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_file_knows_its_digest_across_reopening_and_truncation() {
        let folder = tempfile::tempdir().unwrap();
        let lock = Arc::new(ModelLock::try_acquire(&folder.path().join("lock")).unwrap().unwrap());
        let path = folder.path().join("x.part");
        let mut part = PartFile::open(&path, u64::MAX, Arc::clone(&lock)).unwrap();
        part.append(b"hello ").unwrap();
        part.append(b"world").unwrap();
        assert_eq!(part.digest(), Digest::of(b"hello world"));
        drop(part);
        let mut part = PartFile::open(&path, 6, lock).unwrap();
        assert_eq!((part.len(), part.digest()), (6, Digest::of(b"hello ")));
        part.append(b"you").unwrap();
        part.truncate(3).unwrap();
        part.append(b"p").unwrap();
        assert_eq!(part.digest(), Digest::of(b"help"));
        assert_eq!(fs::read(&path).unwrap(), b"help");
    }

    #[test]
    fn a_lock_is_held_once_and_ends_with_its_holder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/lock");
        let first = ModelLock::try_acquire(&path).unwrap();
        assert!(first.is_some());
        assert!(ModelLock::try_acquire(&path).unwrap().is_none());
        drop(first);
        assert!(ModelLock::try_acquire(&path).unwrap().is_some());
    }

    #[test]
    fn files_beyond_the_limit_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        assert_eq!(read_small(&path, 4).unwrap(), None);
        fs::write(&path, "1234").unwrap();
        assert_eq!(read_small(&path, 4).unwrap().as_deref(), Some("1234"));
        assert!(read_small(&path, 3).is_err());
    }
}
