//! Operations along vectors on every set: all exponents, numbers that are none, lengths that no register divides.

use nearfield_kernels::vector::{self, RotaryPairs};
use nearfield_kernels::{KernelSet, QuantizedRows, ThreadPool};

use crate::products::Random;

const LENGTHS: [usize; 9] = [1, 3, 8, 15, 16, 17, 33, 257, 1000];

/// Bits with one NaN for all.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| if value.is_nan() { u32::MAX } else { value.to_bits() }).collect()
}

/// A vector and what it is like.
fn vectors(length: usize, random: &mut Random) -> Vec<(&'static str, Vec<f32>)> {
    let tame: Vec<f32> = (0..length).map(|_| random.unit() * 6.0).collect();
    let any: Vec<f32> = (0..length).map(|_| f32::from_bits(random.next() << 1 | random.next() & 1)).collect();
    let finite = any.iter().map(|value| if value.is_finite() { *value } else { 1.0 }).collect();
    let zeros = (0..length).map(|i| if i % 3 == 0 { -0.0 } else { 0.0 }).collect();
    let tiny = (0..length).map(|_| f32::from_bits(random.next() & 0x80FF_FFFF)).collect();
    let spoilt = |bad: f32, place: usize| {
        let mut values = tame.clone();
        values[place] = bad;
        values
    };
    vec![
        ("NaN", spoilt(f32::NAN, length / 2)),
        ("inf", spoilt(f32::INFINITY, length - 1)),
        ("-inf", spoilt(f32::NEG_INFINITY, 0)),
        ("largest", spoilt(f32::MAX, length / 3)),
        ("tame", tame),
        ("any bits", any),
        ("any finite", finite),
        ("zeros", zeros),
        ("tiny", tiny),
    ]
}

/// Asserts that an operation gives the same bits on every set.
fn equal_on_every_set(what: &str, operation: &dyn Fn(KernelSet) -> Vec<f32>) {
    let wanted = bits(&operation(KernelSet::Scalar));
    for set in KernelSet::available() {
        let got = bits(&operation(set));
        let first = got.iter().zip(&wanted).position(|(got, wanted)| got != wanted);
        assert_eq!(first, None, "{what} on {}", set.name());
    }
}

/// An operation that changes `x` in place.
fn in_place(x: &[f32], change: impl Fn(&mut [f32])) -> Vec<f32> {
    let mut x = x.to_vec();
    change(&mut x);
    x
}

#[test]
fn every_operation_on_every_kind_of_vector() {
    let mut random = Random(67);
    for length in LENGTHS {
        let all = vectors(length, &mut random);
        let (_, y) = &all[4];
        for (what, x) in &all {
            let at = |name: &str| format!("{name}, {what}, {length}");
            for epsilon in [0.0, 1e-6] {
                equal_on_every_set(&at("rms_norm"), &|set| {
                    in_place(y, |out| vector::rms_norm(set, x, y, epsilon, out))
                });
                equal_on_every_set(&at("rms_norm_in_place"), &|set| {
                    in_place(x, |x| vector::rms_norm_in_place(set, x, y, epsilon))
                });
            }
            equal_on_every_set(&at("add"), &|set| in_place(x, |x| vector::add(set, x, y)));
            equal_on_every_set(&at("silu"), &|set| in_place(x, |x| vector::silu_times(set, x, y)));
            equal_on_every_set(&at("gelu"), &|set| in_place(x, |x| vector::gelu_times(set, x, y)));
            equal_on_every_set(&at("silu, spoilt factor"), &|set| {
                in_place(y, |y| vector::silu_times(set, y, x))
            });
            for cap in [30.0, 1e-3] {
                equal_on_every_set(&at("soft_cap"), &|set| in_place(x, |x| vector::soft_cap(set, x, cap)));
            }
            for (shift, divisor) in [(0.0, 1.0), (2.5, 0.7), (-80.0, 1e-3), (f32::NAN, 1.0), (0.0, 0.0)] {
                equal_on_every_set(&at("exp_of_ratio"), &|set| {
                    in_place(x, |out| vector::exp_of_ratio(set, x, shift, divisor, out))
                });
            }
            equal_on_every_set(&at("largest"), &|set| vector::largest(set, x).into_iter().collect());
            let half = length / 2;
            for pairs in [RotaryPairs::Halves, RotaryPairs::Adjacent] {
                equal_on_every_set(&at("rotate"), &|set| {
                    in_place(x, |x| vector::rotate(set, x, &y[..half], &y[length - half..], pairs))
                });
            }
        }
    }
}

/// Every 4099th single, which meets every exponent with many mantissas, both signs, and the edges of `exp`.
#[test]
fn elementary_functions_over_all_exponents() {
    let mut x: Vec<f32> = (0..=u32::MAX).step_by(4099).map(f32::from_bits).collect();
    for edge in [-87.33_f32, 88.722_83, 88.73, 0.0, 127.5, -126.5] {
        x.extend((-3..=3).map(|step| f32::from_bits((i64::from(edge.to_bits()) + step).max(0) as u32)));
    }
    let ones = vec![1.0; x.len()];
    equal_on_every_set("exp", &|set| in_place(&ones, |out| vector::exp_of_ratio(set, &x, 0.0, 1.0, out)));
    equal_on_every_set("silu", &|set| in_place(&x, |x| vector::silu_times(set, x, &ones)));
    equal_on_every_set("gelu", &|set| in_place(&x, |x| vector::gelu_times(set, x, &ones)));
    equal_on_every_set("tanh", &|set| in_place(&x, |x| vector::soft_cap(set, x, 1.0)));
}

#[test]
fn activations_quantize_alike() {
    let mut random = Random(71);
    let mut pool = ThreadPool::new(2).unwrap();
    let mut quantized = |set: KernelSet, values: &[f32], rows: usize| {
        let mut result = QuantizedRows::default();
        result.quantize(set, &mut pool, values, rows, values.len() / rows);
        result
    };
    for length in LENGTHS {
        for (what, x) in vectors(length, &mut random) {
            // Ties: values halfway between codes.
            let ties: Vec<f32> = x.iter().enumerate().map(|(i, _)| (i % 255) as f32 / 2.0 - 63.5).collect();
            let values = [x.clone(), ties, x.iter().map(|x| x * 1e-37).collect(), x.clone(), x].concat();
            let wanted = quantized(KernelSet::Scalar, &values, 5);
            for set in KernelSet::available() {
                let got = quantized(set, &values, 5);
                for row in 0..5 {
                    let (got, wanted) = (got.row(row), wanted.row(row));
                    assert!(got.codes == wanted.codes && got.sums == wanted.sums, "{what} on {}", set.name());
                    assert_eq!(bits(got.scales), bits(wanted.scales), "{what} on {}", set.name());
                }
            }
        }
    }
}
