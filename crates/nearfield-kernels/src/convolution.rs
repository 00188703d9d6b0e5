//! The causal convolution of recurrent layers: each channel sees a few positions of itself.

use crate::math;
use crate::set::multiversion;

multiversion! {
    /// One position's outputs: `out[c] = silu(sum over j of weights[j][c] * inputs[j][c])`, j ascending by fused
    /// multiply-adds. `weights` is `[kernel][channels]`; `inputs` are as many rows of channels, the current one last.
    ///
    /// # Panics
    /// If a row is shorter than `out`.
    pub fn convolve / convolve_avx2 / convolve_avx512(weights: &[f32], inputs: &[&[f32]], out: &mut [f32])
        = convolve_body;
}

#[inline(always)]
fn convolve_body(weights: &[f32], inputs: &[&[f32]], out: &mut [f32]) {
    let channels = out.len();
    out.fill(0.0);
    for (j, input) in inputs.iter().enumerate() {
        let (weights, input) = (&weights[j * channels..][..channels], &input[..channels]);
        for ((out, weight), x) in out.iter_mut().zip(weights).zip(input) {
            *out = weight.mul_add(*x, *out);
        }
    }
    for out in out {
        *out = math::silu(*out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::set::KernelSet;

    #[test]
    fn the_last_weight_meets_the_current_position() {
        let weights = [1.0, 10.0, 2.0, 20.0, 3.0, 30.0];
        let (past, before, now) = ([0.1, 0.01], [0.2, 0.02], [0.3, 0.03]);
        for set in KernelSet::available() {
            let mut out = [0.0; 2];
            convolve(set, &weights, &[&past, &before, &now], &mut out);
            for value in out {
                assert!((value - math::silu(1.4)).abs() < 1e-6, "{value}");
            }
        }
    }

    #[test]
    fn every_set_computes_the_same_bits() {
        let row = |seed: usize| -> Vec<f32> {
            (0..75).map(|i| ((i * 31 + seed * 17) % 101) as f32 / 25.0 - 2.0).collect()
        };
        let weights: Vec<f32> = (0..4).flat_map(row).collect();
        let inputs: Vec<Vec<f32>> = (4..8).map(row).collect();
        let inputs: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
        let run = |set| {
            let mut out = vec![0.0; 75];
            convolve(set, &weights, &inputs, &mut out);
            out.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
        };
        for set in KernelSet::available() {
            assert!(run(set) == run(KernelSet::Scalar), "{}", set.name());
        }
    }
}
