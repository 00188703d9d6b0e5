//! Futures that wake one another inside of one task, without waking the task.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Nobody looks: whoever rings wakes the task.
const ASLEEP: u8 = 0;
/// The futures are being polled.
const AWAKE: u8 = 1;
/// Somebody rang since the poll began.
const RUNG: u8 = 2;

/// What futures that are polled together are given to wake. While they are polled it only has them polled once more.
#[derive(Default)]
pub(super) struct Bell {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(RUNG, Ordering::AcqRel) == ASLEEP {
            self.task.wake();
        }
    }
}

impl Bell {
    /// Polls until there is a result, or nobody has rung: then whoever rings next wakes the task.
    pub(super) fn poll<T>(
        &self,
        context: &mut Context<'_>,
        waker: &Waker,
        mut step: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.task.register(context.waker());
        let mut inner = Context::from_waker(waker);
        loop {
            self.state.store(AWAKE, Ordering::Release);
            if let Poll::Ready(result) = step(&mut inner) {
                // Whoever wants more polls again, and begins by looking at everything.
                return Poll::Ready(result);
            }
            let sleeps = self.state.compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire);
            if sleeps.is_ok() {
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_rings_during_a_poll_repeats_it_and_what_rings_later_wakes_the_task() {
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        let count = Arc::new(Count::default());
        let task = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&task);
        let mut polls = 0;
        let polled: Poll<()> = bell.poll(&mut context, &waker, |inner| {
            polls += 1;
            if polls < 3 {
                inner.waker().wake_by_ref();
            }
            Poll::Pending
        });
        assert_eq!((polled, polls, count.0.load(Ordering::Relaxed)), (Poll::Pending, 3, 0));
        waker.wake_by_ref();
        waker.wake_by_ref();
        assert_eq!(count.0.load(Ordering::Relaxed), 1, "once is enough");
        assert_eq!(bell.poll(&mut context, &waker, |_| Poll::Ready(7)), Poll::Ready(7));
        waker.wake_by_ref();
        assert_eq!(count.0.load(Ordering::Relaxed), 1, "nobody waits after a result");
    }
}
