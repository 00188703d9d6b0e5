//! How far one way of computing a model is from another: the Kullback-Leibler divergence of what they predict.
//!
//! Both are fed the same windows side by side, so nothing is stored and nothing rounded in between. Windows and scored
//! positions are those of [`perplexity`](crate::perplexity()).

use nearfield_engine::{Chunk, Logits, LogitsWanted, Runner, Sequence};
use nearfield_kernels::math;

use crate::perplexity::{Odds, PerplexityError, PerplexityOptions, Score, Windows, feed, halves, open};

/// What was measured, over all scored positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    /// Mean of `sum over tokens of p ln(p / q)`, with p the teacher's probabilities and q the student's, in nats.
    pub mean: f64,
    /// The standard error of the mean.
    pub standard_error: f64,
    /// Half of the positions diverge no more than this.
    pub median: f64,
    /// 90 of 100 positions diverge no more than this.
    pub percentile_90: f64,
    /// 99 of 100 positions diverge no more than this.
    pub percentile_99: f64,
    /// The largest divergence of a position.
    pub largest: f64,
    /// Share of positions at which both find the same token likeliest.
    pub same_choice: f64,
    /// Perplexity of the teacher.
    pub teacher_perplexity: f64,
    /// Perplexity of the student.
    pub student_perplexity: f64,
    /// The standard error of the logarithm of the ratio of the two perplexities; small, since the text is the same.
    pub log_ratio_error: f64,
    /// Windows that were fed.
    pub windows: usize,
    /// Positions that were compared.
    pub scored: usize,
}

/// How far a comparison is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DivergenceProgress {
    /// Windows that are done.
    pub done: usize,
    /// Windows in all.
    pub windows: usize,
    /// Mean divergence of what is done.
    pub mean: f64,
}

/// Compares what `student` predicts with what `teacher` does. `progress` is called after every window; when it returns
/// `false` the comparison ends there with what it has.
///
/// # Errors
/// As [`perplexity`](crate::perplexity()), and when the two have vocabularies of different sizes.
pub fn divergence(
    teacher: &mut Runner<'_>,
    student: &mut Runner<'_>,
    tokens: &[u32],
    options: &PerplexityOptions,
    mut progress: impl FnMut(DivergenceProgress) -> bool,
) -> Result<Divergence, PerplexityError> {
    let windows = Windows::new(tokens, options)?;
    let mut comparison = Comparison::default();
    let mut fed = 0;
    for text in windows.iter() {
        let mut sequence = open(teacher, text.len())?;
        let result = match open(student, text.len()) {
            Ok(mut other) => {
                let pair = (&mut sequence, &mut other);
                let result = compare_window(teacher, student, pair, &text, &mut comparison);
                student.close(other);
                result
            }
            Err(error) => Err(error),
        };
        teacher.close(sequence);
        result?;
        fed += 1;
        let mean = comparison.divergence.mean();
        if !progress(DivergenceProgress { done: fed, windows: windows.count, mean }) {
            break;
        }
    }
    Ok(comparison.finish(fed))
}

/// Feeds one window to both.
fn compare_window(
    teacher: &mut Runner<'_>,
    student: &mut Runner<'_>,
    (left, right): (&mut Sequence, &mut Sequence),
    text: &[u32],
    comparison: &mut Comparison,
) -> Result<(), PerplexityError> {
    let (context, scored) = halves(text);
    feed(teacher, left, context)?;
    feed(student, right, context)?;
    for (tokens, targets) in scored {
        let all = LogitsWanted::All;
        let wanted = teacher.step(&mut [Chunk { sequence: &mut *left, tokens, logits: all }])?;
        let found = student.step(&mut [Chunk { sequence: &mut *right, tokens, logits: all }])?;
        comparison.rows(wanted, found, targets)?;
    }
    Ok(())
}

/// Sums over the positions so far.
#[derive(Default)]
struct Comparison {
    divergence: Score,
    all: Vec<f64>,
    same: usize,
    teacher: Score,
    student: Score,
    /// Differences of the negative log-likelihoods.
    difference: Score,
}

impl Comparison {
    fn rows(
        &mut self,
        teacher: Logits<'_>,
        student: Logits<'_>,
        targets: &[u32],
    ) -> Result<(), PerplexityError> {
        for (row, &target) in targets.iter().enumerate() {
            let (wanted, found) = (teacher.row(row), student.row(row));
            same_vocabulary(wanted.len(), found.len())?;
            self.position(wanted, found, target as usize);
        }
        Ok(())
    }

    fn position(&mut self, teacher: &[f32], student: &[f32], target: usize) {
        let (wanted, found) = (Odds::new(teacher), Odds::new(student));
        let value = divergence_of(teacher, wanted, student, found);
        self.divergence.take(value);
        self.all.push(value);
        self.same += usize::from(likeliest(teacher) == likeliest(student));
        let own = |logits: &[f32]| logits.get(target).copied().unwrap_or(f32::NEG_INFINITY);
        let (left, right) = (wanted.negative_log(own(teacher)), found.negative_log(own(student)));
        self.teacher.take(left);
        self.student.take(right);
        self.difference.take(right - left);
    }

    fn finish(mut self, windows: usize) -> Divergence {
        self.all.sort_by(f64::total_cmp);
        // The least value that so many of 100 do not pass.
        let percentile = |percent: usize| {
            let rank = (self.all.len() * percent).div_ceil(100).max(1);
            self.all.get(rank - 1).copied().unwrap_or(0.0)
        };
        Divergence {
            mean: self.divergence.mean(),
            standard_error: self.divergence.error_of_mean(),
            median: percentile(50),
            percentile_90: percentile(90),
            percentile_99: percentile(99),
            largest: percentile(100),
            same_choice: self.same as f64 / self.all.len().max(1) as f64,
            teacher_perplexity: self.teacher.perplexity(),
            student_perplexity: self.student.perplexity(),
            log_ratio_error: self.difference.error_of_mean(),
            windows,
            scored: self.all.len(),
        }
    }
}

fn same_vocabulary(teacher: usize, student: usize) -> Result<(), PerplexityError> {
    if teacher == student { Ok(()) } else { Err(PerplexityError::DifferentVocabularies { teacher, student }) }
}

/// `sum p (ln p - ln q)`. A token that the teacher rules out adds nothing; one that only the student rules out makes it
/// infinite.
fn divergence_of(teacher: &[f32], wanted: Odds, student: &[f32], found: Odds) -> f64 {
    let term = |(&left, &right): (&f32, &f32)| {
        let weight = f64::from(math::exp(left - wanted.largest));
        if weight == 0.0 {
            return 0.0;
        }
        weight * (found.negative_log(right) - wanted.negative_log(left))
    };
    let sum: f64 = teacher.iter().zip(student).map(term).sum();
    // Rounding may leave a negative crumb where both are the same.
    (sum / wanted.sum).max(0.0)
}

/// The first of the likeliest tokens.
fn likeliest(logits: &[f32]) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, &logit) in logits.iter().enumerate() {
        if logit > best.1 {
            best = (token, logit);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(teacher: &[f32], student: &[f32]) -> f64 {
        divergence_of(teacher, Odds::new(teacher), student, Odds::new(student))
    }

    /// The formula from probabilities.
    fn expected(p: &[f64], q: &[f64]) -> f64 {
        p.iter().zip(q).filter(|(p, _)| **p > 0.0).map(|(p, q)| p * math::ln_f64(p / q)).sum()
    }

    fn logits(odds: &[f64], shift: f64) -> Vec<f32> {
        odds.iter().map(|odds| (math::ln_f64(*odds) + shift) as f32).collect()
    }

    #[test]
    fn divergences_are_those_of_the_formula() {
        let (p, q) = ([0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]);
        // Logits are probabilities up to a factor, which changes nothing.
        let (left, right) = (logits(&p, 3.0), logits(&q, -7.0));
        assert!((of(&left, &right) - expected(&p, &q)).abs() < 1e-6);
        assert!((of(&right, &left) - expected(&q, &p)).abs() < 1e-6, "it is not symmetric");
        assert!((expected(&p, &q) - expected(&q, &p)).abs() > 0.01);
        assert_eq!(of(&left, &left), 0.0);
    }

    #[test]
    fn what_is_ruled_out_counts_on_one_side_only() {
        let (sure, even) = ([0.0, f32::NEG_INFINITY], [0.0, 0.0]);
        assert!((of(&sure, &even) - std::f64::consts::LN_2).abs() < 1e-6);
        assert_eq!(of(&even, &sure), f64::INFINITY);
        assert_eq!(of(&sure, &sure), 0.0);
    }

    #[test]
    fn models_without_a_common_vocabulary_are_refused() {
        assert!(same_vocabulary(5, 5).is_ok());
        let error = same_vocabulary(5, 6).unwrap_err();
        assert!(error.to_string().contains("models of 5 and 6 tokens"), "{error}");
    }

    #[test]
    fn positions_are_summed_up() {
        let mut comparison = Comparison::default();
        for _ in 0..98 {
            comparison.position(&[1.0, 0.0], &[1.0, 0.0], 0);
        }
        comparison.position(&[1.0, 0.0], &[0.0, 0.0], 0);
        comparison.position(&[1.0, 0.0], &[0.0, 1.0], 0);
        let found = comparison.finish(7);
        let (half, turned) = (of(&[1.0, 0.0], &[0.0, 0.0]), of(&[1.0, 0.0], &[0.0, 1.0]));
        assert!(0.0 < half && half < turned);
        assert_eq!((found.median, found.percentile_90), (0.0, 0.0));
        assert_eq!((found.percentile_99, found.largest), (half, turned));
        assert!((found.mean - (half + turned) / 100.0).abs() < 1e-12);
        // Equal logits are decided for the lower id.
        assert_eq!((found.same_choice, found.windows, found.scored), (0.99, 7, 100));
        assert!(found.student_perplexity > found.teacher_perplexity);
        assert!(found.standard_error > 0.0 && found.log_ratio_error > 0.0);
    }
}
