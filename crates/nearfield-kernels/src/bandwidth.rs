//! How fast this machine's memory is read: the limit of decoding, which reads every weight once for each token.

use std::hint::black_box;
use std::time::{Duration, Instant};

use memmap2::MmapMut;

use crate::ThreadPool;

/// Threads share out whole pages.
const PAGE: usize = 4096;

/// Bytes a second that the pool's threads read from `buffer`: the median over reads of all of it, repeated for `time`
/// and at least three times. Each thread reads its own contiguous part from the first byte to the last and does nothing
/// with it but add.
///
/// For the speed of memory the buffer must be several times larger than the caches, and it must have been written
/// before, since the system gives untouched pages no memory. 0 for an empty buffer.
pub fn read_bandwidth(pool: &mut ThreadPool, buffer: &[u8], time: Duration) -> f64 {
    const LEAST: usize = 3;
    let mut passes = Vec::new();
    let began = Instant::now();
    while passes.len() < LEAST || began.elapsed() < time {
        let start = Instant::now();
        pool.split(buffer.len(), PAGE, &|_, range| {
            black_box(sum(buffer.get(range).unwrap_or_default()));
        });
        passes.push(start.elapsed());
    }
    passes.sort_unstable();
    let median = passes.get(passes.len() / 2).copied().unwrap_or_default();
    buffer.len() as f64 / median.as_secs_f64().max(1e-9)
}

/// Memory to read like weights: as many bytes, in pages of the same kind as panels have.
#[derive(Debug)]
pub struct ReadBuffer {
    map: MmapMut,
    bytes: usize,
}

impl ReadBuffer {
    /// A buffer of so many bytes, each written, so that the system has given it all of its memory.
    ///
    /// # Errors
    /// When the system has no such memory.
    pub fn new(bytes: usize) -> std::io::Result<Self> {
        let mut map = MmapMut::map_anon(bytes.max(1))?;
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        map.fill(1);
        Ok(Self { map, bytes })
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.map.get(..self.bytes).unwrap_or_default()
    }
}

/// Sum of the 64-bit words of some bytes, in eight lanes that compilers put into vectors.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let (lines, words) = words.as_chunks::<8>();
    let mut lanes = [0_u64; 8];
    for line in lines {
        for (lane, word) in lanes.iter_mut().zip(line) {
            *lane = lane.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    let tail = words.iter().map(|word| u64::from_le_bytes(*word)).chain(rest.iter().map(|&byte| byte.into()));
    lanes.into_iter().chain(tail).fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_read() {
        for length in [0, 1, 7, 8, 63, 64, 65, 4096, 10_000] {
            let mut bytes = vec![0_u8; length];
            for place in 0..length {
                bytes[place] = 1;
                assert_ne!(sum(&bytes), 0, "{place} of {length}");
                bytes[place] = 0;
            }
        }
    }

    #[test]
    fn more_bytes_take_more_time() {
        let mut pool = ThreadPool::new(2).unwrap();
        let speed = read_bandwidth(&mut pool, &vec![1; 1 << 20], Duration::from_millis(1));
        // Between a slow disk and the fastest cache.
        assert!((1e7..1e13).contains(&speed), "{speed}");
        assert_eq!(read_bandwidth(&mut pool, &[], Duration::ZERO), 0.0);
        let buffer = ReadBuffer::new(10_000).unwrap();
        assert!(buffer.bytes().len() == 10_000 && buffer.bytes().iter().all(|byte| *byte == 1));
        assert!(ReadBuffer::new(0).unwrap().bytes().is_empty());
    }
}
