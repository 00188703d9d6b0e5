//! The prefix cache's second tier: beginnings of conversations in files, so that they outlive the process.
//!
//! A file holds the keys and values of whole blocks and, for recurrent models, the state after the last of them. Its name
//! is a hash over the model, the numerics, the domain and all tokens, so it is found by whoever reads the same tokens in
//! the same domain and by nobody else. Files hold what was derived from prompts, and the tokens themselves: only their
//! owner may read them, and they are kept only where somebody asked for it.
//!
//! ```text
//! magic and layout version       8 bytes
//! length of the whole file       8 bytes, little-endian, as all numbers
//! tokens                         4 bytes, a multiple of 32
//! reserved                       4 bytes of zeros
//! tokens                         4 bytes each
//! keys and values                the pages of each layer, layer after layer
//! recurrent state                f32
//! SHA-256 of all of this         32 bytes
//! ```

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use super::prefix::CacheDomain;

const MAGIC: &[u8; 8] = b"NFPREFX1";
const HEAD: usize = 24;
const TRAILER: usize = 32;
/// How names of files end.
const ENDING: &str = "prefix";

/// Where beginnings of conversations are kept, and how many of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixFiles {
    /// The folder. It is made when the first file is written.
    pub folder: PathBuf,
    /// Most bytes of all files there together.
    pub bytes: u64,
    /// Least tokens of a beginning that is worth a file.
    pub least: usize,
    /// What tells the model's file from every other, such as its hash.
    pub model: String,
}

/// A file of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// When it was written or last used.
    pub used: SystemTime,
}

/// The files of a folder, the one that was used longest ago first.
///
/// # Errors
/// When the folder cannot be read. One that does not exist has no files.
pub fn prefix_files(folder: &Path) -> io::Result<Vec<PrefixFile>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        // A file may go while the folder is read.
        if path.extension().is_some_and(|ending| ending == ENDING)
            && let Ok(metadata) = fs::metadata(&path)
        {
            let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            files.push(PrefixFile { path, bytes: metadata.len(), used });
        }
    }
    files.sort_by(|one, other| (one.used, &one.path).cmp(&(other.used, &other.path)));
    Ok(files)
}

/// Whether a file is whole and holds what was written.
///
/// # Errors
/// When it cannot be read.
pub fn prefix_file_is_whole(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let Some(content) = length.checked_sub(TRAILER as u64).filter(|content| *content >= HEAD as u64) else {
        return Ok(false);
    };
    let mut hash = Sha256::new();
    io::copy(&mut (&mut file).take(content), &mut Hashing(&mut hash))?;
    let mut trailer = [0; TRAILER];
    file.read_exact(&mut trailer)?;
    Ok(hash.finalize()[..] == trailer)
}

struct Hashing<'a>(&'a mut Sha256);

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Names of the beginnings of a text, block after block.
#[derive(Clone)]
pub(super) struct Names {
    last: [u8; 32],
}

impl Names {
    /// The name of what follows a domain's start.
    fn new(model: &[u8; 32], domain: &CacheDomain) -> Option<Self> {
        let mut hash = Sha256::new();
        hash.update(model);
        hash.update(domain.name()?);
        Some(Self { last: hash.finalize().into() })
    }

    /// The name of the beginning that is a block longer.
    pub(super) fn follow(&mut self, block: &[u32]) -> Name {
        let mut hash = Sha256::new();
        hash.update(self.last);
        for token in block {
            hash.update(token.to_le_bytes());
        }
        self.last = hash.finalize().into();
        Name(self.last)
    }
}

/// The name of a beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name([u8; 32]);

impl Name {
    fn path(&self, folder: &Path) -> PathBuf {
        let text = self.0[..20].iter().fold(String::new(), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        });
        folder.join(text).with_extension(ENDING)
    }
}

/// What is to be written.
struct Job {
    path: PathBuf,
    /// All but the trailer.
    content: Vec<u8>,
}

/// The files of one model. Writing is another thread's work.
pub(super) struct DiskTier {
    folder: PathBuf,
    least: usize,
    model: [u8; 32],
    /// Files that are whole, by path, with their sizes.
    known: Arc<Mutex<HashMap<PathBuf, u64>>>,
    jobs: Option<SyncSender<Job>>,
    writer: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for DiskTier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskTier").field("folder", &self.folder).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DiskTier {
    /// Looks what is there, and starts the thread that writes. `layout` says everything besides the model's file on which
    /// the bytes depend.
    pub(super) fn open(files: &PrefixFiles, layout: &str) -> io::Result<Self> {
        let mut hash = Sha256::new();
        for text in [layout, &files.model] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        }
        let there = prefix_files(&files.folder)?;
        let known = there.into_iter().map(|file| (file.path, file.bytes)).collect();
        let known = Arc::new(Mutex::new(known));
        // One is written while one waits: what comes meanwhile is left out.
        let (jobs, waiting) = mpsc::sync_channel::<Job>(1);
        let (folder, most, written) = (files.folder.clone(), files.bytes, Arc::clone(&known));
        let writer = std::thread::Builder::new().name("nearfield-prefix".to_owned()).spawn(move || {
            for job in waiting {
                let size = (job.content.len() + TRAILER) as u64;
                // What cannot be written is missed later, and nothing else.
                if make_room(&folder, most, size, &written).is_ok() && write(&folder, &job).is_ok() {
                    lock(&written).insert(job.path, size);
                }
            }
        })?;
        let (folder, least) = (files.folder.clone(), files.least);
        Ok(Self {
            folder,
            least,
            model: hash.finalize().into(),
            known,
            jobs: Some(jobs),
            writer: Some(writer),
        })
    }

    /// The names of a domain's beginnings; `None` for the domain of a single request.
    pub(super) fn names(&self, domain: &CacheDomain) -> Option<Names> {
        Names::new(&self.model, domain)
    }

    /// Whether a beginning of so many blocks is there.
    pub(super) fn has(&self, name: Name) -> bool {
        lock(&self.known).contains_key(&name.path(&self.folder))
    }

    /// Has a beginning written, unless it is short or there, or two others are on their way. `content` gives the `size` bytes
    /// that come after the tokens.
    pub(super) fn keep(
        &self,
        name: Name,
        tokens: &[u32],
        size: usize,
        content: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        if tokens.len() < self.least || self.has(name) {
            return false;
        }
        let Some(jobs) = &self.jobs else { return false };
        let mut bytes = Vec::with_capacity(HEAD + 4 * tokens.len() + size);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&(tokens.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        for token in tokens {
            bytes.extend_from_slice(&token.to_le_bytes());
        }
        content(&mut bytes);
        let length = ((bytes.len() + TRAILER) as u64).to_le_bytes();
        bytes[8..16].copy_from_slice(&length);
        jobs.try_send(Job { path: name.path(&self.folder), content: bytes }).is_ok()
    }

    /// Reads a beginning: `take` is given what comes after the tokens, in order, in the pieces that it asks for. What it
    /// has taken counts only if this returns true; a file that is not whole is removed.
    pub(super) fn read(
        &self,
        name: Name,
        tokens: &[u32],
        content: usize,
        take: impl FnOnce(&mut dyn FnMut(&mut [u8]) -> io::Result<()>) -> io::Result<()>,
    ) -> bool {
        let path = name.path(&self.folder);
        let result = read(&path, tokens, content, take);
        if result.is_err() {
            lock(&self.known).remove(&path);
            // It may be gone already, and is not asked for again.
            let _ = fs::remove_file(&path);
        }
        result.is_ok()
    }
}

impl Drop for DiskTier {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            // A panic has been reported by its hook.
            drop(writer.join());
        }
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not what was written")
}

fn read(
    path: &Path,
    tokens: &[u32],
    content: usize,
    take: impl FnOnce(&mut dyn FnMut(&mut [u8]) -> io::Result<()>) -> io::Result<()>,
) -> io::Result<()> {
    let file = File::open(path)?;
    let wanted = HEAD + 4 * tokens.len() + content + TRAILER;
    if file.metadata()?.len() != wanted as u64 {
        return Err(damaged());
    }
    // Used again: it stays longer. A file system that refuses only makes it go earlier.
    let _ = file.set_modified(SystemTime::now());
    let (mut reader, mut hash) = (BufReader::with_capacity(1 << 20, file), Sha256::new());
    let mut next = |out: &mut [u8]| -> io::Result<()> {
        reader.read_exact(out)?;
        hash.update(out);
        Ok(())
    };
    let mut head = [0; HEAD];
    next(&mut head)?;
    let (length, count) = ((wanted as u64).to_le_bytes(), (tokens.len() as u32).to_le_bytes());
    if head[..8] != *MAGIC || head[8..16] != length || head[16..20] != count || head[20..] != [0; 4] {
        return Err(damaged());
    }
    for token in tokens {
        let mut bytes = [0; 4];
        next(&mut bytes)?;
        if bytes != token.to_le_bytes() {
            return Err(damaged());
        }
    }
    take(&mut next)?;
    let mut trailer = [0; TRAILER];
    reader.read_exact(&mut trailer)?;
    if hash.finalize()[..] == trailer { Ok(()) } else { Err(damaged()) }
}

/// Removes files, those that were used longest ago first, until there is room for `size` bytes more.
fn make_room(folder: &Path, most: u64, size: u64, known: &Mutex<HashMap<PathBuf, u64>>) -> io::Result<()> {
    if size > most {
        return Err(io::ErrorKind::StorageFull.into());
    }
    let files = prefix_files(folder)?;
    let mut taken: u64 = files.iter().map(|file| file.bytes).sum();
    for file in files {
        if taken.saturating_add(size) <= most {
            break;
        }
        lock(known).remove(&file.path);
        fs::remove_file(&file.path)?;
        taken -= file.bytes;
    }
    Ok(())
}

/// Writes a file whole or not at all, for its owner alone.
fn write(folder: &Path, job: &Job) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        builder.mode(0o700);
        options.mode(0o600);
    }
    builder.create(folder)?;
    let partial = job.path.with_extension("part");
    let result = (|| {
        let mut file = options.open(&partial)?;
        file.write_all(&job.content)?;
        file.write_all(&Sha256::digest(&job.content))?;
        file.sync_all()?;
        fs::rename(&partial, &job.path)
    })();
    if result.is_err() {
        // Nothing is left of it, as far as the disk allows.
        let _ = fs::remove_file(&partial);
    }
    result
}

#[cfg(test)]
mod tests {
    use nearfield_kernels::PAGE_POSITIONS;

    use super::*;

    fn tier(folder: &Path, bytes: u64) -> DiskTier {
        let files = PrefixFiles { folder: folder.to_owned(), bytes, least: 100, model: "m".to_owned() };
        DiskTier::open(&files, "layout").unwrap()
    }

    fn name(tier: &DiskTier, domain: &str, tokens: &[u32]) -> Name {
        let mut names = tier.names(&CacheDomain::new(domain)).unwrap();
        tokens.chunks_exact(PAGE_POSITIONS).map(|block| names.follow(block)).last().unwrap()
    }

    /// Tries until the writer has taken it.
    fn keep(tier: &DiskTier, name: Name, tokens: &[u32], content: &[u8]) {
        while !tier.keep(name, tokens, content.len(), |out| out.extend_from_slice(content)) {
            std::thread::yield_now();
        }
        while !tier.has(name) {
            std::thread::yield_now();
        }
    }

    fn read_back(tier: &DiskTier, name: Name, tokens: &[u32], length: usize) -> Option<Vec<u8>> {
        let mut out = vec![0; length];
        tier.read(name, tokens, length, |next| next(&mut out)).then_some(out)
    }

    #[test]
    fn what_was_written_comes_back_to_the_same_text_in_the_same_domain() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("deep/prefixes");
        let tokens: Vec<u32> = (0..128).collect();
        let first = tier(&folder, 1 << 20);
        let own = name(&first, "a", &tokens);
        assert!(!first.has(own));
        keep(&first, own, &tokens, b"keys and values");
        assert!(!first.keep(own, &tokens, 0, |_| ()), "it is there");
        assert!(
            !first.keep(name(&first, "a", &tokens[..64]), &tokens[..64], 0, |_| ()),
            "too short to be worth it"
        );
        drop(first);
        let later = tier(&folder, 1 << 20);
        assert!(later.has(name(&later, "a", &tokens)) && !later.has(name(&later, "b", &tokens)));
        assert_eq!(read_back(&later, own, &tokens, 15).unwrap(), b"keys and values");
        assert!(later.names(&CacheDomain::of_request(1)).is_none());
        let files = prefix_files(&folder).unwrap();
        assert_eq!((files.len(), files[0].bytes), (1, (HEAD + 4 * 128 + 15 + TRAILER) as u64));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&files[0].path), mode(&folder)), (0o600, 0o700));
        }
    }

    #[test]
    fn a_damaged_file_is_a_miss_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let tokens: Vec<u32> = (0..128).collect();
        let tier = tier(folder.path(), 1 << 20);
        let own = name(&tier, "", &tokens);
        let path = own.path(folder.path());
        let length = HEAD + 4 * 128 + 9 + TRAILER;
        for at in [0, 9, 17, 21, HEAD + 3, HEAD + 4 * 128 + 4, length - 1] {
            keep(&tier, own, &tokens, b"the bytes");
            assert!(prefix_file_is_whole(&path).unwrap());
            let mut bytes = fs::read(&path).unwrap();
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            assert!(!prefix_file_is_whole(&path).unwrap());
            assert_eq!(read_back(&tier, own, &tokens, 9), None, "byte {at}");
            assert!(!path.exists() && !tier.has(own));
        }
        keep(&tier, own, &tokens, b"the bytes");
        assert_eq!(read_back(&tier, own, &tokens, 8), None, "another length");
        keep(&tier, own, &tokens, b"the bytes");
        fs::write(&path, b"short").unwrap();
        assert!(!prefix_file_is_whole(&path).unwrap());
        assert_eq!(read_back(&tier, own, &tokens, 9), None);
    }

    #[test]
    fn all_files_together_stay_within_their_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let size = (HEAD + 4 * 128 + 1000 + TRAILER) as u64;
        let tier = tier(folder.path(), 3 * size);
        let texts: Vec<Vec<u32>> = (0..5).map(|i| (i..i + 128).collect()).collect();
        for (number, text) in texts.iter().enumerate() {
            let own = name(&tier, "", text);
            keep(&tier, own, text, &[number as u8; 1000]);
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000 + number as u64);
            File::options().write(true).open(own.path(folder.path())).unwrap().set_modified(time).unwrap();
        }
        let there: Vec<bool> = texts.iter().map(|text| tier.has(name(&tier, "", text))).collect();
        assert_eq!(there, [false, false, true, true, true]);
        assert_eq!(prefix_files(folder.path()).unwrap().len(), 3);
        let large: Vec<u32> = (7..135).collect();
        assert!(
            make_room(folder.path(), 3 * size, 3 * size + 1, &tier.known).is_err(),
            "nothing goes in vain"
        );
        assert_eq!(prefix_files(folder.path()).unwrap().len(), 3);
        assert!(!tier.has(name(&tier, "", &large)));
    }
}
