//! The thread pool of the engine: every worker gets the same closure and its own number.
//!
//! A forward pass has a few hundred short parallel sections, so workers spin for a moment after each section before
//! they park. The caller is worker 0.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a worker spins for the next section before it parks.
const SPIN: Duration = Duration::from_micros(60);

type Job<'a> = dyn Fn(usize) + Sync + 'a;

/// The job of the current section: a pointer to the caller's `&Job`, valid until every worker has finished.
#[derive(Default)]
struct Shared {
    job: AtomicPtr<&'static Job<'static>>,
    /// Raised by one for each section.
    section: AtomicUsize,
    /// Workers (not the caller) that have not finished the section.
    running: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    parked: Mutex<usize>,
    wake: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a section after `seen` starts; `None` when the pool stops.
    fn next_section(&self, seen: usize) -> Option<usize> {
        let start = Instant::now();
        loop {
            for _ in 0..64 {
                let section = self.section.load(Ordering::Acquire);
                if section != seen {
                    return (!self.stop.load(Ordering::Acquire)).then_some(section);
                }
                std::hint::spin_loop();
            }
            if start.elapsed() > SPIN {
                break;
            }
        }
        let mut parked = self.lock();
        *parked += 1;
        loop {
            let section = self.section.load(Ordering::Acquire);
            if section != seen {
                *parked -= 1;
                return (!self.stop.load(Ordering::Acquire)).then_some(section);
            }
            parked = self.wake.wait(parked).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Starts a section and wakes whoever sleeps. The lock orders this with a worker that is about to park.
    fn announce(&self) {
        self.section.fetch_add(1, Ordering::AcqRel);
        if *self.lock() > 0 {
            self.wake.notify_all();
        }
    }
}

/// A fixed set of threads that run sections together.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThreadPool").field("threads", &self.threads()).finish()
    }
}

impl ThreadPool {
    /// A pool of `threads` threads in all, the caller included (at least 1).
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let mut pool = Self { shared: Arc::new(Shared::default()), workers: Vec::new() };
        for worker in 1..threads.max(1) {
            let shared = Arc::clone(&pool.shared);
            let handle = std::thread::Builder::new()
                .name(format!("nearfield-kernel-{worker}"))
                .spawn(move || work(&shared, worker))?;
            pool.workers.push(handle);
        }
        Ok(pool)
    }

    /// Threads in all.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job(0)` here and `job(1) ..` on the workers, and returns when all are done. A panic in any of them is
    /// passed on.
    ///
    /// Takes `&mut self`, so that sections never overlap.
    pub fn run(&mut self, job: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() {
            job(0);
            return;
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. Workers use the reference during this section, which ends below before
        // `job` can: also when `job(0)` panics, since the panic is caught until the workers are done.
        let mut job_static: &'static Job<'static> =
            unsafe { std::mem::transmute::<&Job<'_>, &'static Job<'static>>(job) };
        shared.job.store(&raw mut job_static, Ordering::Release);
        shared.running.store(self.workers.len(), Ordering::Release);
        shared.announce();
        let result = catch_unwind(AssertUnwindSafe(|| job(0)));
        let mut spins = 0_u32;
        while shared.running.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins < 2_000 {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        if let Err(panic) = result {
            resume_unwind(panic);
        }
        if shared.panicked.swap(false, Ordering::AcqRel) {
            resume_unwind(Box::new("a kernel thread panicked"));
        }
    }

    /// Runs `work(range)` over `0..count` in contiguous shares, one a thread, each a multiple of `quantum` but the last.
    pub fn split(
        &mut self,
        count: usize,
        quantum: usize,
        work: &(dyn Fn(usize, std::ops::Range<usize>) + Sync),
    ) {
        let share = count.div_ceil(quantum).div_ceil(self.threads()) * quantum;
        self.run(&|worker| {
            let start = (worker * share).min(count);
            work(worker, start..(start + share).min(count));
        });
    }
}

fn work(shared: &Shared, worker: usize) {
    let mut seen = 0;
    while let Some(section) = shared.next_section(seen) {
        seen = section;
        // SAFETY: `run` has stored the pointer before it raised `section`, and keeps it valid until `running` is 0.
        let job = unsafe { *shared.job.load(Ordering::Acquire) };
        if catch_unwind(AssertUnwindSafe(|| job(worker))).is_err() {
            shared.panicked.store(true, Ordering::Release);
        }
        shared.running.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.announce();
        for worker in self.workers.drain(..) {
            // A worker catches its jobs' panics, so there is nothing to learn from joining it.
            drop(worker.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_runs_every_section_once() {
        for threads in 1..=4 {
            let mut pool = ThreadPool::new(threads).unwrap();
            let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            for section in 0..2_000 {
                pool.run(&|worker| {
                    counts[worker].fetch_add(1, Ordering::Relaxed);
                });
                if section % 500 == 0 {
                    std::thread::sleep(SPIN * 4);
                }
            }
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 2_000));
        }
    }

    #[test]
    fn shares_cover_everything_once() {
        for threads in 1..=3 {
            let mut pool = ThreadPool::new(threads).unwrap();
            for count in [0, 1, 15, 16, 17, 100, 333] {
                let hits: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                pool.split(count, 16, &|_, range| {
                    assert!(range.start % 16 == 0 || range.is_empty());
                    for i in range {
                        hits[i].fetch_add(1, Ordering::Relaxed);
                    }
                });
                assert!(hits.iter().all(|hit| hit.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let mut pool = ThreadPool::new(2).unwrap();
        for culprit in 0..2 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(&|worker| assert!(worker != culprit, "on purpose"));
            }));
            assert!(result.is_err());
        }
        let done = AtomicUsize::new(0);
        pool.run(&|_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.load(Ordering::Relaxed), 2);
    }
}
