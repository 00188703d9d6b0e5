//! How many 8-bit products this machine adds up in a second: the limit of prefill.

use std::time::Duration;

use crate::{KernelSet, ThreadPool};

/// Operations (a product and its sum are two) a second that the pool's threads do with the 512-bit dot product of bytes,
/// all in registers: the median over short loops, repeated for `time` and at least three times. `None` where `set` has no
/// such instruction.
pub fn integer_peak(pool: &mut ThreadPool, set: KernelSet, time: Duration) -> Option<f64> {
    match set {
        #[cfg(target_arch = "x86_64")]
        KernelSet::Avx512 => Some(avx512::peak(pool, time)),
        _ => {
            let _ = (pool, time);
            None
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512i, _mm512_add_epi32, _mm512_dpbusd_epi32, _mm512_reduce_add_epi32, _mm512_set1_epi32,
    };
    use std::hint::black_box;
    use std::time::{Duration, Instant};

    use crate::ThreadPool;

    /// Sums that do not wait for each other: more than the instruction's latency times the units that run it.
    const SUMS: usize = 16;
    /// Turns of a loop: a millisecond or so.
    const TURNS: usize = 200_000;
    /// 64 products and as many sums.
    const OPERATIONS: usize = 128;

    pub(super) fn peak(pool: &mut ThreadPool, time: Duration) -> f64 {
        let mut passes = Vec::new();
        let began = Instant::now();
        while passes.len() < 3 || began.elapsed() < time {
            let start = Instant::now();
            pool.run(&|worker| {
                // SAFETY: the set is only offered by processors that have AVX-512 F and VNNI.
                black_box(unsafe { dots(worker as i32) });
            });
            passes.push(start.elapsed());
        }
        passes.sort_unstable();
        let median = passes.get(passes.len() / 2).copied().unwrap_or_default();
        (pool.threads() * TURNS * SUMS * OPERATIONS) as f64 / median.as_secs_f64().max(1e-9)
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn dots(seed: i32) -> i32 {
        let (codes, values) = (black_box(_mm512_set1_epi32(seed)), black_box(_mm512_set1_epi32(0x0101_0101)));
        let mut sums: [__m512i; SUMS] = [codes; SUMS];
        for _ in 0..TURNS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, codes, values);
            }
        }
        let all = sums.into_iter().fold(codes, |a, b| _mm512_add_epi32(a, b));
        _mm512_reduce_add_epi32(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_measured_where_the_instruction_is() {
        let mut pool = ThreadPool::new(1).unwrap();
        assert_eq!(integer_peak(&mut pool, KernelSet::Scalar, Duration::ZERO), None);
        #[cfg(target_arch = "x86_64")]
        if KernelSet::available().contains(&KernelSet::Avx512) {
            let peak = integer_peak(&mut pool, KernelSet::Avx512, Duration::ZERO).unwrap();
            // Between a machine that is very busy and two units of 6 GHz.
            assert!((1e9..2e12).contains(&peak), "{peak}");
        }
    }
}
