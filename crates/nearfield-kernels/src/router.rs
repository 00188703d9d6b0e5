//! The choice of experts, and the gates and sums around them.

use crate::math;
use crate::set::{KernelSet, multiversion};
use crate::vector::{LANES, exp_of_ratio, reduce_tree};

/// An expert that a token goes through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chosen {
    /// The expert.
    pub expert: usize,
    /// Factor on its output.
    pub weight: f32,
}

/// Chooses `used` experts by their scores: a softmax over all, the largest of it (of equal ones the lower expert), and
/// these divided by their sum. They come in ascending order of experts, which is also the order of that sum.
///
/// # Panics
/// If `used` is more than there are scores.
pub fn choose_experts(set: KernelSet, scores: &[f32], used: usize, chosen: &mut Vec<Chosen>) {
    assert!(used <= scores.len(), "no more experts than there are");
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
    let mut parts = vec![0.0; scores.len()];
    exp_of_ratio(set, scores, largest, 1.0, &mut parts);
    let total = sum(&parts);
    for part in &mut parts {
        *part /= total;
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    // A part that is not a number counts as the smallest; the outputs that it leads to are not numbers either.
    let key = |expert: usize| if parts[expert].is_nan() { -1.0 } else { parts[expert] };
    order.sort_by(|one, other| key(*other).total_cmp(&key(*one)).then(one.cmp(other)));
    order.truncate(used);
    order.sort_unstable();
    let total = order.iter().fold(0.0_f32, |total, expert| total + parts[*expert]);
    chosen.clear();
    chosen.extend(order.into_iter().map(|expert| Chosen { expert, weight: parts[expert] / total }));
}

/// The sum in 16 lanes and the tree.
fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    for chunk in x.chunks(LANES) {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    reduce_tree(lanes)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + math::exp(-x))
}

multiversion! {
    /// `x[i] = y[i] * factor + x[i]`, each by one fused multiply-add.
    pub fn add_scaled / add_scaled_avx2 / add_scaled_avx512(x: &mut [f32], y: &[f32], factor: f32)
        = add_scaled_body;
}

#[inline(always)]
fn add_scaled_body(x: &mut [f32], y: &[f32], factor: f32) {
    for (x, y) in x.iter_mut().zip(y) {
        *x = y.mul_add(factor, *x);
    }
}

multiversion! {
    /// `x[i] *= sigmoid(gates[i])`.
    pub fn times_sigmoid / times_sigmoid_avx2 / times_sigmoid_avx512(x: &mut [f32], gates: &[f32])
        = times_sigmoid_body;
}

#[inline(always)]
fn times_sigmoid_body(x: &mut [f32], gates: &[f32]) {
    for (x, gate) in x.iter_mut().zip(gates) {
        *x *= sigmoid(*gate);
    }
}

multiversion! {
    /// `x[i] *= silu(gates[i])`.
    pub fn times_silu / times_silu_avx2 / times_silu_avx512(x: &mut [f32], gates: &[f32]) = times_silu_body;
}

#[inline(always)]
fn times_silu_body(x: &mut [f32], gates: &[f32]) {
    for (x, gate) in x.iter_mut().zip(gates) {
        *x *= math::silu(*gate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(scores: &[f32], used: usize) -> Vec<Chosen> {
        let mut chosen = Vec::new();
        choose_experts(KernelSet::Scalar, scores, used, &mut chosen);
        for set in KernelSet::available() {
            let mut other = Vec::new();
            choose_experts(set, scores, used, &mut other);
            assert_eq!(chosen, other, "{}", set.name());
        }
        chosen
    }

    #[test]
    fn the_largest_are_chosen_and_their_weights_add_up_to_one() {
        let scores: Vec<f32> = (0..40).map(|i| ((i * 17) % 40) as f32 / 8.0).collect();
        let chosen = choose(&scores, 3);
        let experts: Vec<usize> = chosen.iter().map(|chosen| chosen.expert).collect();
        let mut wanted: Vec<usize> = (0..40).filter(|i| (i * 17) % 40 >= 37).collect();
        wanted.sort_unstable();
        assert_eq!(experts, wanted);
        let total: f32 = chosen.iter().map(|chosen| chosen.weight).sum();
        assert!((total - 1.0).abs() < 1e-6);
        let ratio = chosen[0].weight / chosen[1].weight;
        let wanted = math::exp(scores[chosen[0].expert] - scores[chosen[1].expert]);
        assert!((ratio / wanted - 1.0).abs() < 1e-5);
    }

    #[test]
    fn of_equal_scores_the_lower_experts_are_chosen() {
        let experts = |chosen: Vec<Chosen>| chosen.iter().map(|chosen| chosen.expert).collect::<Vec<_>>();
        assert_eq!(experts(choose(&[1.0; 20], 4)), [0, 1, 2, 3]);
        assert_eq!(experts(choose(&[0.0, 2.0, 2.0, 1.0, 2.0], 2)), [1, 2]);
    }

    #[test]
    fn a_score_that_is_no_number_does_not_pass_unnoticed() {
        let mut chosen = Vec::new();
        choose_experts(KernelSet::Scalar, &[f32::NAN, 1.0, 2.0], 2, &mut chosen);
        assert!(chosen.len() == 2 && chosen.iter().all(|chosen| chosen.weight.is_nan()));
    }

    #[test]
    fn gates_compute_the_same_bits_on_every_set() {
        let x: Vec<f32> = (0..77).map(|i| i as f32 / 7.0 - 5.0).collect();
        let y: Vec<f32> = x.iter().rev().copied().collect();
        let run = |set: KernelSet| {
            let mut z = x.clone();
            times_sigmoid(set, &mut z, &y);
            times_silu(set, &mut z, &y);
            add_scaled(set, &mut z, &y, 0.3);
            z.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
        };
        for set in KernelSet::available() {
            assert!(run(set) == run(KernelSet::Scalar), "{}", set.name());
        }
        assert!((f64::from(sigmoid(1.0)) - 0.731_058_578_630_004_9).abs() < 1e-7);
    }
}
