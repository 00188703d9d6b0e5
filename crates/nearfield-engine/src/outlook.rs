//! When a request that is refused now would start: what runs and what waits, played through at the present pace.

use std::time::Duration;

use crate::admission::Job;

/// Nobody is asked to wait less than this, or more.
const BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// The engine's work as it is now, as far as it foretells what comes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outlook {
    /// What each running choice gives back, and when.
    pub(crate) running: Vec<Ending>,
    /// Seconds of a step.
    pub(crate) step: f64,
    /// Seconds of a row of a prompt.
    pub(crate) prompt_row: f64,
    /// Tokens of an answer, of late; `None` before the first.
    pub(crate) answer: Option<f64>,
}

/// The end of something that runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    /// From now.
    pub(crate) seconds: f64,
    pub(crate) slots: usize,
    pub(crate) pages: usize,
}

/// What a request needs to start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    pub(crate) slots: usize,
    pub(crate) pages: usize,
    /// How long it will run.
    pub(crate) seconds: f64,
}

impl Outlook {
    /// Seconds until a choice is at its end that has given so many tokens and may give so many in all: answers are
    /// taken to be as long as they were of late.
    pub(crate) fn answer_seconds(&self, given: usize, most: usize) -> f64 {
        let (given, most) = (given as f64, most as f64);
        let expected = match self.answer {
            // One that is longer than usual may go on for as long again.
            Some(usual) if given < usual => usual - given,
            Some(_) => given,
            None => most,
        };
        expected.min(most - given).max(1.0) * self.step
    }

    /// What a job needs.
    pub(crate) fn need(&self, job: &Job) -> Need {
        let slots = job.request.choices as usize;
        let prompt = job.request.tokens.len() as f64 * self.prompt_row;
        Need { slots, pages: slots * job.pages, seconds: prompt + self.answer_seconds(0, job.max_tokens) }
    }

    /// Seconds until all of `ahead` have started and the last one of it could: first come, first served. `free` are
    /// slots and pages; `begun` has them already.
    pub(crate) fn wait(
        &self,
        free: (usize, usize),
        begun: impl Iterator<Item = Need>,
        ahead: impl Iterator<Item = Need>,
    ) -> f64 {
        let (mut slots, mut pages) = free;
        let ending = |need: Need, now: f64| Ending {
            seconds: now + need.seconds,
            slots: need.slots,
            pages: need.pages,
        };
        let mut endings = self.running.clone();
        endings.extend(begun.map(|need| ending(need, 0.0)));
        let mut now = 0.0_f64;
        for need in ahead {
            while slots < need.slots || pages < need.pages {
                let next =
                    (0..endings.len()).min_by(|a, b| endings[*a].seconds.total_cmp(&endings[*b].seconds));
                let Some(next) = next else { break };
                let ended = endings.swap_remove(next);
                now = now.max(ended.seconds);
                slots += ended.slots;
                pages += ended.pages;
            }
            slots = slots.saturating_sub(need.slots);
            pages = pages.saturating_sub(need.pages);
            endings.push(ending(need, now));
        }
        now
    }

    /// What a caller who is refused is told: the wait within bounds.
    pub(crate) fn retry_after(seconds: f64) -> Duration {
        Duration::try_from_secs_f64(seconds).unwrap_or(BOUNDS.1).clamp(BOUNDS.0, BOUNDS.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(seconds: f64) -> Need {
        Need { slots: 1, pages: 2, seconds }
    }

    fn seconds(outlook: &Outlook, free: (usize, usize), ahead: &[Need]) -> u64 {
        Outlook::retry_after(outlook.wait(free, std::iter::empty(), ahead.iter().copied())).as_secs()
    }

    fn running(seconds: &[f64]) -> Outlook {
        let running =
            seconds.iter().map(|seconds| Ending { seconds: *seconds, slots: 1, pages: 2 }).collect();
        Outlook { running, ..Outlook::default() }
    }

    #[test]
    fn the_line_is_played_through() {
        let outlook = running(&[9.0, 4.0]);
        assert_eq!(seconds(&outlook, (0, 9), &[need(1.0)]), 4);
        // The first takes the slot at 4 and ends at 7, the second from 7 to 27, the third can start at 9.
        assert_eq!(seconds(&outlook, (0, 9), &[need(3.0), need(20.0), need(1.0)]), 9);
        assert_eq!(seconds(&outlook, (0, 9), &[Need { slots: 2, ..need(1.0) }]), 9);
        // Pages are waited for as slots are.
        assert_eq!(seconds(&outlook, (5, 1), &[Need { pages: 5, ..need(1.0) }]), 9);
        let begun = std::iter::once(need(2.0));
        assert!((outlook.wait((0, 9), begun, std::iter::once(need(1.0))) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn no_wait_is_out_of_bounds() {
        assert_eq!(seconds(&running(&[0.001]), (0, 0), &[need(1.0)]), 1);
        for long in [1e6, 1e300, f64::INFINITY] {
            assert_eq!(seconds(&running(&[long]), (0, 0), &[need(1.0)]), 60);
        }
        assert_eq!(seconds(&running(&[]), (0, 0), &[need(1.0)]), 1, "nothing to wait for");
    }

    #[test]
    fn answers_are_as_long_as_they_were_of_late() {
        let outlook = Outlook { step: 0.1, answer: Some(50.0), ..Outlook::default() };
        let near = |got: f64, wanted: f64| assert!((got - wanted).abs() < 1e-9, "{got} {wanted}");
        near(outlook.answer_seconds(0, 1000), 5.0);
        near(outlook.answer_seconds(30, 1000), 2.0);
        near(outlook.answer_seconds(60, 1000), 6.0);
        near(outlook.answer_seconds(60, 70), 1.0);
        near(outlook.answer_seconds(0, 20), 2.0);
        near(Outlook { answer: None, ..outlook }.answer_seconds(0, 1000), 100.0);
    }
}
