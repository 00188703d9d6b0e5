//! A position in a byte slice that only moves forward and never past the end.

use super::GgufError;

#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// Bytes still unread.
    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// The next `length` bytes.
    pub(super) fn take(&mut self, length: u64, what: &'static str) -> Result<&'a [u8], GgufError> {
        let taken = usize::try_from(length)
            .ok()
            .and_then(|length| self.position.checked_add(length))
            .and_then(|end| Some((end, self.bytes.get(self.position..end)?)));
        let Some((end, bytes)) = taken else {
            return Err(GgufError::Truncated {
                what,
                offset: self.position,
                needed: length,
                available: self.remaining(),
            });
        };
        self.position = end;
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        let available = self.remaining();
        let Some(bytes) = self.bytes.get(self.position..).and_then(|rest| rest.first_chunk::<N>()) else {
            return Err(GgufError::Truncated { what, offset: self.position, needed: N as u64, available });
        };
        self.position += N;
        Ok(*bytes)
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, GgufError> {
        self.array(what).map(u8::from_le_bytes)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A string: its length as u64, then that many bytes, at most `limit`.
    pub(super) fn string(&mut self, limit: u64, what: &'static str) -> Result<&'a [u8], GgufError> {
        let length = self.u64(what)?;
        if length > limit {
            return Err(GgufError::OverLimit { what, found: length, limit });
        }
        self.take(length, what)
    }
}
