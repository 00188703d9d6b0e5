//! Operations along vectors: norms, activations, rotations.

use crate::math;
use crate::set::multiversion;

/// Lanes of every reduction along a vector: element i belongs to lane i mod 16.
pub(crate) const LANES: usize = 16;

/// Adds the lanes in one fixed tree: 8, 4, 2, 1.
#[inline(always)]
pub(crate) fn reduce_tree(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

multiversion! {
    /// RMS norm: `out[i] = (x[i] * (1 / sqrt(mean(x^2) + epsilon))) * weight[i]`. The squares are summed by fused
    /// multiply-adds in 16 lanes and the tree.
    pub fn rms_norm / rms_norm_avx2 / rms_norm_avx512(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32])
        = rms_norm_body;
}

#[inline(always)]
fn rms_norm_body(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    let scale = rms_scale(x, epsilon);
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = (x * scale) * weight;
    }
}

#[inline(always)]
fn rms_scale(x: &[f32], epsilon: f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = value.mul_add(*value, *lane);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane = value.mul_add(*value, *lane);
    }
    1.0 / (reduce_tree(lanes) / x.len() as f32 + epsilon).sqrt()
}

multiversion! {
    /// RMS norm in place, as [`rms_norm`].
    pub fn rms_norm_in_place / rms_norm_in_place_avx2 / rms_norm_in_place_avx512(
        x: &mut [f32], weight: &[f32], epsilon: f32,
    ) = rms_norm_in_place_body;
}

#[inline(always)]
fn rms_norm_in_place_body(x: &mut [f32], weight: &[f32], epsilon: f32) {
    let scale = rms_scale(x, epsilon);
    for (x, weight) in x.iter_mut().zip(weight) {
        *x = (*x * scale) * weight;
    }
}

multiversion! {
    /// `x[i] += y[i]`.
    pub fn add / add_avx2 / add_avx512(x: &mut [f32], y: &[f32]) = add_body;
}

#[inline(always)]
fn add_body(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// `x[i] *= factor`.
pub fn scale(x: &mut [f32], factor: f32) {
    for x in x {
        *x *= factor;
    }
}

multiversion! {
    /// `gate[i] = silu(gate[i]) * up[i]`.
    pub fn silu_times / silu_times_avx2 / silu_times_avx512(gate: &mut [f32], up: &[f32]) = silu_times_body;
}

#[inline(always)]
fn silu_times_body(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = math::silu(*gate) * up;
    }
}

multiversion! {
    /// `gate[i] = gelu_tanh(gate[i]) * up[i]`.
    pub fn gelu_times / gelu_times_avx2 / gelu_times_avx512(gate: &mut [f32], up: &[f32]) = gelu_times_body;
}

#[inline(always)]
fn gelu_times_body(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = math::gelu_tanh(*gate) * up;
    }
}

multiversion! {
    /// `x[i] = cap * tanh(x[i] / cap)`.
    pub fn soft_cap / soft_cap_avx2 / soft_cap_avx512(x: &mut [f32], cap: f32) = soft_cap_body;
}

#[inline(always)]
pub(crate) fn soft_cap_body(x: &mut [f32], cap: f32) {
    for x in x {
        *x = cap * math::tanh(*x / cap);
    }
}

multiversion! {
    /// The largest element, or `None` if there is none or any element is not finite.
    pub fn largest / largest_avx2 / largest_avx512(x: &[f32]) -> Option<f32> = largest_body;
}

#[inline(always)]
fn largest_body(x: &[f32]) -> Option<f32> {
    let (mut lanes, mut bits) = ([f32::NEG_INFINITY; LANES], [0_u32; LANES]);
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for ((lane, bits), value) in lanes.iter_mut().zip(&mut bits).zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
            *bits = (*bits).max(value.to_bits() & 0x7FFF_FFFF);
        }
    }
    for ((lane, bits), value) in lanes.iter_mut().zip(&mut bits).zip(rest) {
        *lane = if *value > *lane { *value } else { *lane };
        *bits = (*bits).max(value.to_bits() & 0x7FFF_FFFF);
    }
    // Magnitudes compare as integers, and every NaN or infinity is at least the bits of infinity.
    let finite = !x.is_empty() && bits.iter().all(|bits| *bits < 0x7F80_0000);
    finite.then(|| lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max))
}

multiversion! {
    /// `out[i] = e^((x[i] - shift) / divisor)`.
    pub fn exp_of_ratio / exp_of_ratio_avx2 / exp_of_ratio_avx512(
        x: &[f32], shift: f32, divisor: f32, out: &mut [f32],
    ) = exp_of_ratio_body;
}

#[inline(always)]
fn exp_of_ratio_body(x: &[f32], shift: f32, divisor: f32, out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = math::exp((x - shift) / divisor);
    }
}

/// Which components a rotation pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotaryPairs {
    /// i with i + width / 2.
    Halves,
    /// 2i with 2i + 1.
    Adjacent,
}

multiversion! {
    /// Rotates the first `2 * cos.len()` components of one head: `a' = a cos - b sin`, `b' = b cos + a sin`, each a
    /// product and one fused multiply-add.
    pub fn rotate / rotate_avx2 / rotate_avx512(x: &mut [f32], cos: &[f32], sin: &[f32], pairs: RotaryPairs)
        = rotate_body;
}

#[inline(always)]
fn rotate_body(x: &mut [f32], cos: &[f32], sin: &[f32], pairs: RotaryPairs) {
    match pairs {
        RotaryPairs::Halves => {
            let (first, second) = x.split_at_mut(cos.len());
            for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                (*a, *b) = rotated(*a, *b, *cos, *sin);
            }
        }
        RotaryPairs::Adjacent => {
            for (([a, b], cos), sin) in x.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
                (*a, *b) = rotated(*a, *b, *cos, *sin);
            }
        }
    }
}

#[inline(always)]
fn rotated(a: f32, b: f32, cos: f32, sin: f32) -> (f32, f32) {
    (a.mul_add(cos, -(b * sin)), b.mul_add(cos, a * sin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::set::KernelSet;

    fn numbers(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + 13) % 1009) as f32 / 250.0 - 2.0).collect()
    }

    #[test]
    fn every_set_computes_the_same_bits() {
        for count in [1, 7, 16, 33, 576, 1000] {
            let (x, y) = (numbers(count), numbers(count + 5)[5..].to_vec());
            let run = |set: KernelSet| {
                let mut all = Vec::new();
                let mut out = vec![0.0; count];
                rms_norm(set, &x, &y, 1e-6, &mut out);
                all.extend_from_slice(&out);
                let mut z = x.clone();
                rms_norm_in_place(set, &mut z, &y, 1e-6);
                assert_eq!(z, out);
                for operation in [silu_times, gelu_times] {
                    let mut z = x.clone();
                    operation(set, &mut z, &y);
                    all.extend_from_slice(&z);
                }
                let mut z = x.clone();
                soft_cap(set, &mut z, 3.0);
                add(set, &mut z, &y);
                all.extend_from_slice(&z);
                let mut z = vec![0.0; count];
                exp_of_ratio(set, &x, 1.5, 0.7, &mut z);
                all.extend_from_slice(&z);
                all.push(largest(set, &x).unwrap());
                let half = count / 2;
                for pairs in [RotaryPairs::Halves, RotaryPairs::Adjacent] {
                    let mut z = x.clone();
                    rotate(set, &mut z, &y[..half], &x[..half], pairs);
                    all.extend_from_slice(&z);
                }
                all.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
            };
            let wanted = run(KernelSet::Scalar);
            for set in KernelSet::available() {
                assert!(run(set) == wanted, "{} at {count}", set.name());
            }
        }
    }

    #[test]
    fn the_largest_is_found_and_nothing_hides() {
        for set in KernelSet::available() {
            for count in [1, 15, 16, 40, 100] {
                let mut x = numbers(count);
                for place in [0, count / 2, count - 1] {
                    let kept = x[place];
                    x[place] = 77.0;
                    assert_eq!(largest(set, &x), Some(77.0));
                    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                        x[place] = bad;
                        assert_eq!(largest(set, &x), None);
                    }
                    x[place] = kept;
                }
            }
            assert_eq!(largest(set, &[]), None);
            assert_eq!(largest(set, &[-3.0, -2.0]), Some(-2.0));
        }
    }

    #[test]
    fn norm_and_rotation_mean_what_they_say() {
        let mut out = [0.0; 4];
        rms_norm(KernelSet::Scalar, &[3.0, -4.0, 0.0, 5.0], &[1.0, 2.0, 3.0, 1.0], 0.0, &mut out);
        let root = 12.5_f32.sqrt();
        for (value, wanted) in out.iter().zip([3.0 / root, -8.0 / root, 0.0, 5.0 / root]) {
            assert!((value - wanted).abs() < 1e-6);
        }
        let mut x = [1.0, 2.0, 3.0, 4.0, 9.0];
        rotate(KernelSet::Scalar, &mut x, &[0.0, 1.0], &[1.0, 0.0], RotaryPairs::Halves);
        assert_eq!(x, [-3.0, 2.0, 1.0, 4.0, 9.0]);
        let mut x = [1.0, 2.0, 3.0, 4.0];
        rotate(KernelSet::Scalar, &mut x, &[0.0, 1.0], &[1.0, 0.0], RotaryPairs::Adjacent);
        assert_eq!(x, [-2.0, 1.0, 3.0, 4.0]);
    }
}
