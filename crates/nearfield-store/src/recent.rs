//! The end of the journal in memory.

use std::collections::VecDeque;

use crate::record::Record;

/// The most bytes of the journal whose records are kept.
const MOST: u64 = 3 * 1024 * 1024;

/// The records of the last writes, each with where its write begins in the file. What does not follow on what is asked for
/// is read from the file instead.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    writes: VecDeque<Write>,
    bytes: u64,
}

#[derive(Debug)]
struct Write {
    start: u64,
    bytes: u64,
    records: Vec<Record>,
}

impl Recent {
    /// Keeps the records of a write. Where nobody takes them, all are let go.
    pub(crate) fn push(&mut self, start: u64, bytes: u64, records: Vec<Record>) {
        if self.bytes.saturating_add(bytes) > MOST {
            *self = Self::default();
        }
        self.bytes += bytes;
        self.writes.push_back(Write { start, bytes, records });
    }

    /// Takes the records that stand from `offset` on, of about `most` bytes, and where they end; `None` when they are not
    /// here.
    pub(crate) fn take(&mut self, offset: u64, most: u64) -> Option<(Vec<Record>, u64)> {
        // Read from the file already.
        while self.writes.front().is_some_and(|write| write.start < offset) {
            self.pop();
        }
        let (mut records, mut end) = (Vec::new(), offset);
        while end - offset < most && self.writes.front().is_some_and(|write| write.start == end) {
            let Some(write) = self.pop() else { break };
            end += write.bytes;
            records.extend(write.records);
        }
        (end > offset).then_some((records, end))
    }

    /// The file has lost its first bytes.
    pub(crate) fn cut(&mut self, bytes: u64) {
        while self.writes.front().is_some_and(|write| write.start < bytes) {
            self.pop();
        }
        for write in &mut self.writes {
            write.start -= bytes;
        }
    }

    fn pop(&mut self) -> Option<Write> {
        let write = self.writes.pop_front()?;
        self.bytes -= write.bytes;
        Some(write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::samples::attempt_started;

    fn record(position: u32) -> Record {
        attempt_started("a", position)
    }

    fn three() -> Recent {
        let mut recent = Recent::default();
        recent.push(0, 10, vec![record(0)]);
        recent.push(10, 10, vec![record(1), record(2)]);
        // Between these something was written whose records are not here.
        recent.push(30, 10, vec![record(3)]);
        recent
    }

    #[test]
    fn what_follows_is_taken_and_no_more() {
        let mut recent = three();
        assert_eq!(recent.take(0, 5), Some((vec![record(0)], 10)));
        assert_eq!(recent.take(10, 100), Some((vec![record(1), record(2)], 20)));
        assert_eq!(recent.take(20, 100), None);
        assert_eq!(recent.take(30, 100), Some((vec![record(3)], 40)));
        assert_eq!(recent.take(40, 100), None);
        assert_eq!(recent.bytes, 0);
    }

    #[test]
    fn what_the_file_was_read_for_is_let_go() {
        let mut recent = three();
        assert_eq!(recent.take(15, 100), None);
        assert_eq!(recent.take(30, 100), Some((vec![record(3)], 40)));
        let mut recent = three();
        recent.cut(30);
        assert_eq!(recent.take(0, 100), Some((vec![record(3)], 10)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut recent = Recent::default();
        for at in 0..100 {
            recent.push(at * MOST / 10, MOST / 10, vec![record(0)]);
            assert!(recent.bytes <= MOST);
        }
    }
}
