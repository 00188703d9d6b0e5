//! Who gets how many rows of the coming step.

use super::Scheduler;
use crate::running::{Choice, Running};

/// An answer is held up for a prompt at most once in so many of its tokens.
const TOKENS_BETWEEN: usize = 32;

/// An answer of fewer tokens has just begun: nobody has got used to its pace.
const BEGINNING: usize = 8;

/// A prompt in progress.
struct Reading<'a> {
    choice: &'a mut Choice,
    /// Rows that it can take in this step.
    left: usize,
    /// Whether it can end in one step, and could from its beginning.
    short: bool,
}

impl Choice {
    /// Whether this answer can bear a step that takes long.
    fn bears_a_long_step(&self) -> bool {
        self.generated < BEGINNING || self.held_at.is_none_or(|at| self.generated - at >= TOKENS_BETWEEN)
    }
}

impl Scheduler<'_> {
    /// Deals out the coming step's rows: one for each answer in progress, and to prompts as many as may go beside them.
    ///
    /// Half of the prompts' part goes to the one that came first, so that it cannot starve; the other half to the
    /// shortest, so that short prompts do not wait behind long ones. Prompts that are read in one step get one at once
    /// while no answer is held up by such steps more often than it may be: their own first tokens come much sooner.
    pub(super) fn share_rows(&mut self) -> usize {
        let (most, mut answers, mut patient) = (self.rows, 0, true);
        let mut prompts: Vec<Reading<'_>> = Vec::new();
        for session in &mut self.running {
            let Running { request, choices, stats, .. } = session;
            for choice in choices {
                let left = choice.prompt_left(request);
                choice.rows = usize::from(left == 0);
                answers += choice.rows;
                patient &= left > 0 || choice.bears_a_long_step();
                if left > 0 && !choice.waits {
                    let rest = choice.sequence.next_rest().map(|rest| rest - choice.sequence.length());
                    let short = request.tokens.len() - stats.cached_tokens <= most
                        && rest.is_none_or(|rest| rest >= left);
                    prompts.push(Reading { choice, left: rest.map_or(left, |rest| rest.min(left)), short });
                }
            }
        }
        if prompts.is_empty() {
            return answers;
        }
        let room = most.saturating_sub(answers).max(1);
        if answers == 0 {
            return share(&mut prompts, room);
        }
        if patient {
            let read = at_once(&mut prompts, room);
            if read > 0 {
                self.hold_answers();
                return answers + read;
            }
        }
        answers + share(&mut prompts, room.min(self.pace.rows_beside(answers)))
    }

    /// Notes that answers are held up by the coming step.
    fn hold_answers(&mut self) {
        for session in &mut self.running {
            let Running { request, choices, .. } = session;
            for choice in choices.iter_mut().filter(|choice| choice.prompt_left(request) == 0) {
                choice.held_at = Some(choice.generated);
            }
        }
    }
}

/// Shares rows among prompts in the order in which they came. Gives the rows that were taken.
fn share(prompts: &mut [Reading<'_>], rows: usize) -> usize {
    let mut free = rows;
    if let Some(first) = prompts.first_mut() {
        first.choice.rows = first.left.min(rows.div_ceil(2));
        first.left -= first.choice.rows;
        free -= first.choice.rows;
    }
    prompts.sort_by_key(|prompt| prompt.left);
    for prompt in prompts {
        let more = prompt.left.min(free);
        prompt.choice.rows += more;
        free -= more;
    }
    rows - free
}

/// Gives all that is left to prompts that then are complete, those that came first before others.
fn at_once(prompts: &mut [Reading<'_>], rows: usize) -> usize {
    let mut free = rows;
    for prompt in prompts.iter_mut().filter(|prompt| prompt.short) {
        if prompt.left <= free {
            prompt.choice.rows = prompt.left;
            free -= prompt.left;
        }
    }
    rows - free
}
