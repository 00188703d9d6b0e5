//! How much of the strong model's lead a router keeps for how many of its calls: PGR, CPT and APGR as the RouteLLM paper
//! (arXiv 2406.18665) defines them, over five folds, with thresholds from the training folds only.

use std::collections::BTreeMap;

use super::features::features;
use super::ridge;

/// A question with who answers it rightly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The prompt.
    pub prompt: String,
    /// Its subject.
    pub subject: String,
    /// Whether the weak model is right.
    pub weak: bool,
    /// Whether the strong one is.
    pub strong: bool,
}

/// What gives the scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouterKind {
    /// A number drawn by lot.
    Random,
    /// The prompt's length.
    Length,
    /// How much the strong model leads on the subject, learnt from other questions of the same subjects.
    Subject,
    /// The prompt's features.
    Features,
}

impl RouterKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Random, Self::Length, Self::Subject, Self::Features];

    /// The name in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Length => "prompt length",
            Self::Subject => "subject prior",
            Self::Features => "prompt features",
        }
    }
}

/// The shares of strong calls at which the curve is taken.
const LEVELS: usize = 10;
const FOLDS: usize = 5;
const RESAMPLES: usize = 1000;

/// What a router keeps of the lead (PGR) at each share of strong calls.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// Points (share of strong calls, PGR), from (0, 0) to (1, 1).
    pub points: Vec<(f64, f64)>,
}

impl Curve {
    /// The area under the curve.
    pub fn apgr(&self) -> f64 {
        let pairs = self.points.iter().zip(self.points.iter().skip(1));
        pairs.map(|(from, to)| (to.0 - from.0) * f64::midpoint(from.1, to.1)).sum()
    }

    /// The least share of strong calls that keeps `part` of the lead.
    pub fn cpt(&self, part: f64) -> f64 {
        for (from, to) in self.points.iter().zip(self.points.iter().skip(1)) {
            if to.1 >= part {
                let rise = to.1 - from.1;
                let way = if rise > 0.0 { ((part - from.1) / rise).clamp(0.0, 1.0) } else { 1.0 };
                return from.0 + way * (to.0 - from.0);
            }
        }
        1.0
    }
}

/// One router beside another, over the same questions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// The difference of their APGR.
    pub difference: f64,
    /// Its 95% interval by paired bootstrap.
    pub interval: (f64, f64),
}

/// The result on one set of questions.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// How many questions.
    pub questions: usize,
    /// The share that the weak model answers rightly.
    pub weak: f64,
    /// The share that the strong one does.
    pub strong: f64,
    /// Each router's curve.
    pub curves: BTreeMap<RouterKind, Curve>,
    /// The features beside prompt length.
    pub over_length: Comparison,
}

impl Evaluation {
    /// Whether routing by features is certainly better than by length.
    pub fn features_win(&self) -> bool {
        self.over_length.interval.0 > 0.0
    }
}

/// Judges every router. With `by_subject` a subject lies in one fold only, so that nothing can be learnt of it; the
/// subject prior is then judged over folds of questions, and is a figure of its own kind.
pub fn evaluate(questions: &[Question], by_subject: bool) -> Evaluation {
    let vectors: Vec<Vec<f64>> = questions.iter().map(|question| features(&question.prompt)).collect();
    let by_question: Vec<usize> = questions.iter().map(|question| fold(&question.prompt)).collect();
    let folds = if by_subject { subject_folds(questions) } else { by_question.clone() };
    let mut levels: BTreeMap<RouterKind, Vec<usize>> = BTreeMap::new();
    for kind in RouterKind::ALL {
        let own = if kind == RouterKind::Subject { &by_question } else { &folds };
        levels.insert(kind, all_levels(kind, questions, &vectors, own));
    }
    let everyone: Vec<usize> = (0..questions.len()).collect();
    let curves = levels.iter().map(|(&kind, levels)| (kind, curve(questions, levels, &everyone))).collect();
    let share = |right: &dyn Fn(&Question) -> bool| {
        questions.iter().filter(|question| right(question)).count() as f64 / questions.len().max(1) as f64
    };
    Evaluation {
        questions: questions.len(),
        weak: share(&|question| question.weak),
        strong: share(&|question| question.strong),
        over_length: compare(questions, &levels[&RouterKind::Features], &levels[&RouterKind::Length]),
        curves,
    }
}

fn hash(text: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^ hash >> 29
}

fn fold(text: &str) -> usize {
    (hash(text) % FOLDS as u64) as usize
}

/// Subjects dealt out so that folds hold about as many questions.
fn subject_folds(questions: &[Question]) -> Vec<usize> {
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for question in questions {
        *sizes.entry(&question.subject).or_default() += 1;
    }
    let mut order: Vec<(&str, usize)> = sizes.into_iter().collect();
    order.sort_by_key(|&(name, size)| (std::cmp::Reverse(size), name));
    let mut load = [0usize; FOLDS];
    let mut of: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, size) in order {
        let least = (0..FOLDS).min_by_key(|&at| load[at]).unwrap_or(0);
        load[least] += size;
        of.insert(name, least);
    }
    questions.iter().map(|question| of.get(question.subject.as_str()).copied().unwrap_or(0)).collect()
}

/// For each question, at how many of the levels it goes to the strong model.
fn all_levels(kind: RouterKind, questions: &[Question], vectors: &[Vec<f64>], folds: &[usize]) -> Vec<usize> {
    let mut levels = vec![0; questions.len()];
    for held in 0..FOLDS {
        let train: Vec<usize> = (0..questions.len()).filter(|&at| folds[at] != held).collect();
        let scorer = Scorer::fit(kind, questions, vectors, &train);
        let mut known: Vec<f64> =
            train.iter().map(|&at| scorer.score(&questions[at], &vectors[at])).collect();
        known.sort_by(f64::total_cmp);
        let thresholds: Vec<f64> = (1..LEVELS)
            .map(|level| {
                known.get(known.len() - known.len() * level / LEVELS).copied().unwrap_or(f64::INFINITY)
            })
            .collect();
        for at in (0..questions.len()).filter(|&at| folds[at] == held) {
            let score = scorer.score(&questions[at], &vectors[at]);
            levels[at] = thresholds.iter().filter(|&&threshold| score >= threshold).count();
        }
    }
    levels
}

enum Scorer {
    Random,
    Length,
    Subject(BTreeMap<String, f64>),
    Features { weights: Vec<f64>, scale: Vec<(f64, f64)> },
}

impl Scorer {
    fn fit(kind: RouterKind, questions: &[Question], vectors: &[Vec<f64>], train: &[usize]) -> Self {
        let gain = |at: usize| f64::from(questions[at].strong) - f64::from(questions[at].weak);
        match kind {
            RouterKind::Random => Self::Random,
            RouterKind::Length => Self::Length,
            RouterKind::Subject => {
                let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
                for &at in train {
                    let sum = sums.entry(questions[at].subject.clone()).or_default();
                    *sum = (sum.0 + gain(at), sum.1 + 1.0);
                }
                Self::Subject(sums.into_iter().map(|(name, (sum, count))| (name, sum / count)).collect())
            }
            RouterKind::Features => {
                let rows: Vec<&[f64]> = train.iter().map(|&at| vectors[at].as_slice()).collect();
                let scale = ridge::scale(&rows);
                let scaled: Vec<Vec<f64>> = rows.iter().map(|row| standard(row, &scale)).collect();
                let with: Vec<(&[f64], f64)> =
                    scaled.iter().zip(train).map(|(row, &at)| (row.as_slice(), gain(at))).collect();
                let penalty = 0.5 * train.len() as f64;
                Self::Features { weights: ridge::fit(&with, penalty).unwrap_or_default(), scale }
            }
        }
    }

    fn score(&self, question: &Question, vector: &[f64]) -> f64 {
        // Equal scores would all fall on one side of a threshold; a trace of chance parts them.
        let trace = (hash(&question.prompt) >> 11) as f64 / (1u64 << 53) as f64;
        match self {
            Self::Random => trace,
            Self::Length => question.prompt.len() as f64 + trace * 1e-3,
            Self::Subject(means) => means.get(&question.subject).copied().unwrap_or(0.0) + trace * 1e-6,
            Self::Features { weights, scale } => {
                standard(vector, scale).iter().zip(weights).map(|(value, weight)| value * weight).sum::<f64>()
                    + trace * 1e-9
            }
        }
    }
}

fn standard(row: &[f64], scale: &[(f64, f64)]) -> Vec<f64> {
    row.iter().zip(scale).map(|(value, (mean, deviation))| (value - mean) / deviation).collect()
}

/// The curve over some questions, which may stand in the list several times.
fn curve(questions: &[Question], levels: &[usize], who: &[usize]) -> Curve {
    // Of the questions that are strong from a level on: how many, and by how much more of them are right.
    let mut calls = [0usize; LEVELS];
    let mut gained = [0i64; LEVELS];
    let mut lead = 0i64;
    for &at in who {
        let gain = i64::from(questions[at].strong) - i64::from(questions[at].weak);
        lead += gain;
        calls[levels[at]] += 1;
        gained[levels[at]] += gain;
    }
    let mut points = vec![(0.0, 0.0)];
    let (mut called, mut kept) = (0, 0);
    for level in (1..LEVELS).rev() {
        called += calls[level];
        kept += gained[level];
        points.push((
            called as f64 / who.len().max(1) as f64,
            if lead == 0 { 0.0 } else { kept as f64 / lead as f64 },
        ));
    }
    points.push((1.0, 1.0));
    Curve { points }
}

fn compare(questions: &[Question], own: &[usize], other: &[usize]) -> Comparison {
    let everyone: Vec<usize> = (0..questions.len()).collect();
    let difference = |who: &[usize]| curve(questions, own, who).apgr() - curve(questions, other, who).apgr();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut drawn: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let who: Vec<usize> = everyone
                .iter()
                .map(|_| {
                    state ^= state >> 12;
                    state ^= state << 25;
                    state ^= state >> 27;
                    (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) as usize % everyone.len().max(1)
                })
                .collect();
            difference(&who)
        })
        .collect();
    drawn.sort_by(f64::total_cmp);
    let at = |share: usize| drawn.get(RESAMPLES * share / 1000).copied().unwrap_or(0.0);
    Comparison { difference: difference(&everyone), interval: (at(25), at(974)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_and_shares_are_those_of_the_curve() {
        let straight = Curve { points: vec![(0.0, 0.0), (1.0, 1.0)] };
        assert!((straight.apgr() - 0.5).abs() < 1e-12 && (straight.cpt(0.8) - 0.8).abs() < 1e-12);
        let perfect = Curve { points: vec![(0.0, 0.0), (0.2, 1.0), (1.0, 1.0)] };
        assert!((perfect.apgr() - 0.9).abs() < 1e-12 && (perfect.cpt(0.5) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn a_router_that_sees_what_matters_wins_and_chance_does_not() {
        let questions: Vec<Question> = (0..2000)
            .map(|at| {
                let hard = at % 4 == 0;
                let word = if hard { "integral" } else { "capital" };
                let filler = "of something ".repeat(1 + (at * 7919) % 13);
                Question {
                    prompt: format!("What is the {word} {filler}{at}?"),
                    subject: "s".to_owned(),
                    weak: !hard,
                    strong: true,
                }
            })
            .collect();
        let result = evaluate(&questions, false);
        let apgr = |kind| result.curves[&kind].apgr();
        assert!(apgr(RouterKind::Features) > 0.8, "{result:?}");
        assert!((apgr(RouterKind::Random) - 0.5).abs() < 0.06, "{result:?}");
        assert!(result.features_win());
    }
}
