//! Tables of rotary position embeddings.

use nearfield_kernels::math;
use nearfield_kernels::vector::RotaryPairs;
use nearfield_model::{Rope, RopePairing, RopeScaling};

/// Cosines and sines of one rotation, grown as positions are reached.
#[derive(Debug)]
pub(crate) struct RopeTable {
    /// Angle per position of each pair, in double precision.
    frequencies: Vec<f64>,
    pairs: RotaryPairs,
    positions: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// The table of a rotation: `f_i = theta^(-2i / width)`, then its scaling.
    pub(crate) fn new(rope: &Rope) -> Self {
        let half = rope.dimension / 2;
        let mut frequencies: Vec<f64> =
            (0..half).map(|i| math::pow_f64(rope.theta, -2.0 * i as f64 / rope.dimension as f64)).collect();
        match &rope.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => {
                for f in &mut frequencies {
                    *f /= f64::from(*factor);
                }
            }
            RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context } => {
                let (factor, low, high) =
                    (f64::from(*factor), f64::from(*low_frequency_factor), f64::from(*high_frequency_factor));
                for f in &mut frequencies {
                    *f = llama3(*f, factor, low, high, *original_context as f64);
                }
            }
            RopeScaling::Proportional { pairs } => {
                if let Some(still) = frequencies.get_mut(*pairs..) {
                    still.fill(0.0);
                }
            }
            RopeScaling::Divisors(divisors) => {
                for (f, divisor) in frequencies.iter_mut().zip(divisors) {
                    *f /= f64::from(*divisor);
                }
            }
        }
        let pairs = match rope.pairing {
            RopePairing::Halves => RotaryPairs::Halves,
            RopePairing::Adjacent => RotaryPairs::Adjacent,
        };
        Self { frequencies, pairs, positions: 0, cos: Vec::new(), sin: Vec::new() }
    }

    /// Makes positions `0..positions` available.
    pub(crate) fn reach(&mut self, positions: usize) {
        for position in self.positions..positions {
            for f in &self.frequencies {
                let (sin, cos) = math::sin_cos_f64(position as f64 * f);
                self.cos.push(cos as f32);
                self.sin.push(sin as f32);
            }
        }
        self.positions = self.positions.max(positions);
    }

    /// Cosines and sines of a position that was reached.
    pub(crate) fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let half = self.frequencies.len();
        (&self.cos[position * half..][..half], &self.sin[position * half..][..half])
    }

    /// Bytes of the table.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        4 * (self.cos.capacity() + self.sin.capacity())
    }

    /// Which components are paired.
    pub(crate) fn pairs(&self) -> RotaryPairs {
        self.pairs
    }
}

/// Llama 3's scaling by wavelength: long waves are slowed by `factor`, short ones kept, those between are mixed.
fn llama3(f: f64, factor: f64, low: f64, high: f64, original: f64) -> f64 {
    let wavelength = 2.0 * std::f64::consts::PI / f;
    if wavelength < original / high {
        f
    } else if wavelength > original / low {
        f / factor
    } else {
        let mix = (original / wavelength - low) / (high - low);
        (1.0 - mix) * f / factor + mix * f
    }
}
