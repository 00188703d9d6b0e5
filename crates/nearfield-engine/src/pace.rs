//! What steps take, learnt from those that were, and how much of a prompt a step may read beside answers.
//!
//! A stream that runs shall flow on while a prompt comes in: a step that reads some of it takes at most [`LONGER`] times
//! what it takes without. What a row of a prompt costs beside answers depends on the model, the machine and how far the
//! prompt is; so it is measured. How a prompt is cut changes no bits.

/// How much longer a step may become by what it reads of prompts. Twice is what is promised; the rest is for noise, and
/// for what a prompt costs the answers beside its own rows, as caches that it has filled.
const LONGER: f64 = 1.5;

/// After so many steps with prompts one goes without, so that what that takes stays known.
const STEPS_BETWEEN: u32 = 16;

/// Rows of a prompt beside answers before anything is known of what they cost, and the least ever: fewer cost hardly
/// less, since rows share the reading of weights and of the cache.
const LEAST_ROWS: usize = 2;

/// The part of a new measurement in what is known.
const NEW: f64 = 0.25;

/// Seconds of steps, as they have been lately.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Of a step with so many answers and nothing else.
    answering: Vec<Option<f64>>,
    /// What a row of a prompt adds to such a step.
    beside: Option<f64>,
    /// Of a row of a prompt in a step of nothing else.
    alone: Option<f64>,
    /// Steps with both since the last one of answers only.
    since: u32,
    /// Whether the last step asked about had to do without.
    stands: bool,
    /// Rows that were allowed last.
    allowed: usize,
}

/// Moves what is known towards what was measured. The machine has other work too: what is far off counts as less so.
fn learn(known: &mut Option<f64>, measured: f64) {
    *known = Some(match *known {
        Some(known) => known + NEW * (measured.clamp(known / 3.0, known * 3.0) - known),
        None => measured,
    });
}

impl Pace {
    /// Takes in a step: its answers, each with its drafts, its rows of prompts, and its seconds.
    pub(crate) fn took(&mut self, answers: usize, prompts: usize, seconds: f64) {
        if prompts == 0 {
            if self.answering.len() <= answers {
                self.answering.resize(answers + 1, None);
            }
            learn(&mut self.answering[answers], seconds);
            self.since = 0;
        } else if answers == 0 {
            learn(&mut self.alone, seconds / prompts as f64);
        } else {
            self.since += 1;
            if let Some(without) = self.answering(answers) {
                // A row is never for nothing, whatever the clock says.
                let least = without / 1000.0;
                learn(&mut self.beside, ((seconds - without) / prompts as f64).max(least));
            }
        }
    }

    /// Seconds of a step with so many answers, or the next lower number that was seen, or the next higher one.
    pub(crate) fn answering(&self, answers: usize) -> Option<f64> {
        let lower = self.answering.iter().take(answers + 1).rev().find_map(|seconds| *seconds);
        lower.or_else(|| self.answering.iter().skip(answers).find_map(|seconds| *seconds))
    }

    /// Seconds of a row of a prompt, for estimates.
    pub(crate) fn prompt_row(&self) -> f64 {
        self.alone.or(self.beside).unwrap_or(0.0)
    }

    /// What to go by where a step without was asked for and did not come: prompts never stand still for two.
    fn stood(&self) -> Option<f64> {
        self.stands.then(|| self.answering.iter().rev().find_map(|seconds| *seconds).unwrap_or(0.0))
    }

    /// Rows of prompts that the coming step may read beside so many answers. None where it has to be seen first, or
    /// seen again, what the step takes without.
    pub(crate) fn rows_beside(&mut self, answers: usize) -> usize {
        let known = self.answering.get(answers).copied().flatten();
        let Some(without) = known.filter(|_| self.since < STEPS_BETWEEN).or_else(|| self.stood()) else {
            self.stands = true;
            return 0;
        };
        self.stands = false;
        let wanted = match self.beside {
            Some(row) => ((LONGER - 1.0) * without / row) as usize,
            None => LEAST_ROWS,
        };
        // Many rows may cost more than so many times one, so the way up is taken in steps.
        self.allowed = wanted.clamp(LEAST_ROWS, (self.allowed + self.allowed / 2).max(LEAST_ROWS));
        self.allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs steps on a machine where a step with so many answers and rows of prompts takes what `seconds` says. Gives
    /// the rows of each step.
    fn run(pace: &mut Pace, steps: usize, answers: usize, seconds: impl Fn(usize) -> f64) -> Vec<usize> {
        let step = |_| {
            let rows = pace.rows_beside(answers);
            pace.took(answers, rows, seconds(rows));
            rows
        };
        (0..steps).map(step).collect()
    }

    #[test]
    fn steps_become_as_long_as_they_may_and_no_longer() {
        for row in [0.05, 0.2, 0.9] {
            let mut pace = Pace::default();
            let rows = run(&mut pace, 60, 1, |rows| 1.0 + row * rows as f64);
            assert_eq!(rows[0], 0, "first the step without");
            let settled = *rows.last().unwrap();
            assert!(
                rows.iter().all(|rows| 1.0 + row * (*rows as f64) < 1.56 || *rows <= LEAST_ROWS),
                "{rows:?}"
            );
            assert_eq!(settled, ((0.5 / row) as usize).max(LEAST_ROWS), "{rows:?}");
        }
    }

    #[test]
    fn rows_that_become_dearer_become_fewer_and_cheaper_ones_more() {
        let mut pace = Pace::default();
        let cheap = run(&mut pace, 40, 2, |rows| 1.0 + 0.02 * rows as f64);
        let dear = run(&mut pace, 40, 2, |rows| 1.0 + 0.1 * rows as f64);
        assert!(cheap[39] > 20 && dear[39] <= 8, "{cheap:?} {dear:?}");
        // Beyond so many rows each costs more: as many as fit are found.
        let bent =
            run(&mut pace, 80, 2, |rows| 1.0 + 0.01 * rows as f64 + 0.1 * rows.saturating_sub(10) as f64);
        assert!((10..=15).contains(&bent[79]), "{bent:?}");
    }

    #[test]
    fn a_prompt_never_stands_still_and_the_step_without_is_seen_again() {
        let mut pace = Pace::default();
        let rows = run(&mut pace, 200, 3, |rows| 1.0 + 100.0 * rows as f64);
        let without = rows.iter().filter(|rows| **rows == 0).count();
        assert!((11..=13).contains(&without), "{rows:?}");
        assert_eq!(rows.iter().sum::<usize>(), (200 - without) * LEAST_ROWS);
    }

    #[test]
    fn a_prompt_goes_on_also_where_steps_are_not_what_was_asked_for() {
        let mut pace = Pace::default();
        // Answers end and begin, so that each step is another one than the one that was asked about.
        let rows: Vec<usize> = (0..40)
            .map(|number| {
                let rows = pace.rows_beside(1 + number);
                pace.took(2 + number, rows, 1.0 + 0.1 * rows as f64);
                rows
            })
            .collect();
        assert!(rows.windows(2).all(|two| two[0] + two[1] > 0), "{rows:?}");
    }

    #[test]
    fn more_answers_are_another_step() {
        let mut pace = Pace::default();
        run(&mut pace, 10, 1, |rows| 1.0 + 0.1 * rows as f64);
        assert_eq!(pace.rows_beside(2), 0);
        pace.took(2, 0, 2.0);
        assert!(pace.rows_beside(2) > 5);
        assert_eq!((pace.answering(2), pace.answering(9)), (Some(2.0), Some(2.0)));
        assert_eq!(Pace::default().answering(3), None);
    }

    #[test]
    fn one_slow_step_changes_little() {
        let mut pace = Pace::default();
        let before = run(&mut pace, 30, 1, |rows| 1.0 + 0.1 * rows as f64)[29];
        pace.took(1, before, 100.0);
        let after = pace.rows_beside(1);
        assert!(after >= before / 2, "{before} {after}");
    }
}
