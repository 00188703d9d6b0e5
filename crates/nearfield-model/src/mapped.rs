//! Read-only bytes of a model file, memory-mapped or owned.

#![expect(unsafe_code, reason = "mapping a file is the one unsafe act of this crate; see MappedFile::open")]

use std::{fs::File, io, ops::Deref, path::Path};

use memmap2::Mmap;

/// The bytes of one file, for as long as the value lives.
#[derive(Debug)]
pub(crate) struct MappedFile(Storage);

#[derive(Debug)]
enum Storage {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl MappedFile {
    /// Maps a whole file read-only. An empty file gives no bytes; anything but a regular file is an error.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        if metadata.len() == 0 {
            return Ok(Self(Storage::Owned(Vec::new())));
        }
        // SAFETY: the mapping is read-only and private to this value, and only `&[u8]` is handed out, whose every
        // bit pattern is valid. What the type system cannot rule out is another process that writes to or shortens
        // the file while it is mapped: readers here check every length against the size at the time of mapping and
        // never read the same field twice to decide about a bound, so changed content gives wrong numbers and not
        // undefined indexing; a shortened file ends the process with SIGBUS, as it does for every program that
        // maps files. Stored models are verified once and replaced by rename, never written in place.
        let map = unsafe { Mmap::map(&file) }?;
        Ok(Self(Storage::Mapped(map)))
    }
}

impl MappedFile {
    /// Takes the pages that have been read out of this process's memory. They stay in the system's cache, and reading
    /// them again brings them back.
    pub(crate) fn release_pages(&self) {
        #[cfg(unix)]
        if let Storage::Mapped(map) = &self.0 {
            // SAFETY: the map is read-only and backed by its file, so the same bytes are there at the next access.
            // A refusal only leaves the pages where they are.
            let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }
}

impl MappedFile {
    /// Asks the system to read some of the file's bytes ahead; `false` if these are not the file's.
    pub(crate) fn will_need(&self, bytes: &[u8]) -> bool {
        let (start, all) = (bytes.as_ptr().addr(), self.as_ptr_range());
        if start < all.start.addr() || start + bytes.len() > all.end.addr() {
            return false;
        }
        #[cfg(unix)]
        if let Storage::Mapped(map) = &self.0 {
            // A refusal only means that the bytes are read when they are used.
            let _ = map.advise_range(memmap2::Advice::WillNeed, start - all.start.addr(), bytes.len());
        }
        true
    }
}

impl From<Vec<u8>> for MappedFile {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Storage::Owned(bytes))
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Storage::Mapped(map) => map,
            Storage::Owned(bytes) => bytes,
        }
    }
}
