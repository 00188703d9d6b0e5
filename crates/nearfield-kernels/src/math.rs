//! Elementary functions of our own, so that every machine computes the same bits.
//!
//! The `f32` ones are written without branches, so that a loop over them vectorizes; fused multiply-adds are explicit
//! and nothing else may be fused, so a vector lane computes what the scalar code does. The `f64` ones serve tables
//! (RoPE) and the sampler, where speed does not matter.

/// `2^n` for -126 <= n <= 127.
#[inline(always)]
fn exp2_integer(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) << 23) as u32)
}

/// e^x. Error below 1.2 units in the last place; exactly 1 at 0, 0 below -87.33 (results that would be subnormal are
/// 0) and at -inf, inf above 88.72, NaN for NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let clamped = x.clamp(-87.33, 88.73);
    let n = (clamped * std::f32::consts::LOG2_E).round_ties_even();
    // ln 2 in two parts: the first has so few bits that its product with n is exact.
    let r = n.mul_add(-0.693_359_4, clamped);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4_f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 0.5);
    let y = p.mul_add(r * r, r) + 1.0;
    // n reaches 128, so the power of two is applied in two halves.
    // Added to 1.5 * 2^23, a small whole number stands in the lowest bits; `as` would be tested and done lane by lane.
    let n = ((n + 12_582_912.0).to_bits() as i32).wrapping_sub(0x4B40_0000);
    let half = n >> 1;
    let y = y * exp2_integer(half) * exp2_integer(n.wrapping_sub(half));
    let y = if x < -87.33 { 0.0 } else { y };
    let y = if x > 88.722_83 { f32::INFINITY } else { y };
    if x.is_nan() { x } else { y }
}

/// The hyperbolic tangent, `1 - 2 / (e^2|x| + 1)` with the sign of x. Absolute error below 2e-7.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let y = 1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0);
    y.copysign(x)
}

/// x / (1 + e^-x).
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// GELU in its tanh form: `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    let inner = 0.797_884_6 * (0.044_715 * x * x).mul_add(x, x);
    0.5 * x * (1.0 + tanh(inner))
}

/// e^x in double precision, relative error below 1e-15 for |x| < 700.
pub fn exp_f64(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x > 709.0 {
        return f64::INFINITY;
    }
    if x < -708.0 {
        return 0.0;
    }
    let n = (x * std::f64::consts::LOG2_E).round_ties_even();
    // ln 2 split so that n times the first part is exact.
    let r = n.mul_add(-1.908_214_929_270_587_7e-10, n.mul_add(-0.693_147_180_369_123_8, x));
    let mut term = 1.0;
    let mut sum = 1.0;
    for i in 1..=16 {
        term *= r / f64::from(i);
        sum += term;
    }
    sum * f64::from_bits(((n as i64 + 1023) as u64) << 52)
}

/// The natural logarithm in double precision, relative error below 1e-15; NaN below 0, -inf at 0.
pub fn ln_f64(x: f64) -> f64 {
    if x.is_nan() || x < 0.0 {
        return f64::NAN;
    }
    if x == 0.0 {
        return f64::NEG_INFINITY;
    }
    if x.is_infinite() {
        return x;
    }
    let (x, bias) = if x < f64::MIN_POSITIVE { (x * 18_014_398_509_481_984.0, 54) } else { (x, 0) };
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) as i64) - 1023 - bias;
    let mut mantissa = f64::from_bits((bits & 0x000F_FFFF_FFFF_FFFF) | 0x3FF0_0000_0000_0000);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    // ln m = 2 atanh((m - 1) / (m + 1)), whose argument stays below 0.172.
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let square = t * t;
    let mut sum = 0.0;
    let mut k = 23;
    while k > 0 {
        sum = sum * square + 1.0 / f64::from(k);
        k -= 2;
    }
    let exponent = exponent as f64;
    exponent.mul_add(0.693_147_180_369_123_8, exponent.mul_add(1.908_214_929_270_587_7e-10, 2.0 * t * sum))
}

/// base^exponent for a positive base.
pub fn pow_f64(base: f64, exponent: f64) -> f64 {
    if exponent == 0.0 { 1.0 } else { exp_f64(exponent * ln_f64(base)) }
}

/// (sin x, cos x) in double precision, absolute error below 1e-14 for |x| < 1e7.
pub fn sin_cos_f64(x: f64) -> (f64, f64) {
    if !x.is_finite() {
        return (f64::NAN, f64::NAN);
    }
    let n = (x * std::f64::consts::FRAC_2_PI).round_ties_even();
    // pi/2 in three parts; the first two have 33 bits each, so their products with n are exact up to 2^20.
    let r = n.mul_add(-1.570_796_326_734_125_6, x);
    let r = n.mul_add(-6.077_100_506_303_966e-11, r);
    let r = n.mul_add(-2.022_266_248_795_950_6e-21, r);
    let square = r * r;
    let (mut sine, mut cosine) = (0.0, 0.0);
    // Taylor series by Horner: at |r| <= pi/4 the first term left out is below 1e-17.
    let mut k = 19;
    while k >= 3 {
        sine = (sine + 1.0) * -square / f64::from(k * (k - 1));
        k -= 2;
    }
    let sine = r * (1.0 + sine);
    let mut k = 18;
    while k >= 2 {
        cosine = (cosine + 1.0) * -square / f64::from(k * (k - 1));
        k -= 2;
    }
    let cosine = 1.0 + cosine;
    match (n as i64).rem_euclid(4) {
        0 => (sine, cosine),
        1 => (cosine, -sine),
        2 => (-sine, -cosine),
        _ => (-cosine, sine),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the library's functions are what ours are compared with")]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_and_exact_where_it_must_be() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(-1e30), 0.0);
        assert!(exp(f32::NAN).is_nan());
        let mut x = -87.3_f32;
        while x < 88.7 {
            let wanted = f64::from(x).exp();
            let relative = (f64::from(exp(x)) - wanted).abs() / wanted;
            assert!(relative < 1.5e-7, "exp({x}) is off by {relative}");
            x += 0.00137;
        }
    }

    #[test]
    fn tanh_and_gelu_are_close() {
        let mut x = -12.0_f32;
        while x < 12.0 {
            assert!((f64::from(tanh(x)) - f64::from(x).tanh()).abs() < 2e-7, "tanh({x})");
            let wide = f64::from(x);
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (wide + 0.044715 * wide.powi(3));
            let wanted = 0.5 * wide * (1.0 + inner.tanh());
            assert!((f64::from(gelu_tanh(x)) - wanted).abs() < 1e-6 * wide.abs().max(1.0), "gelu({x})");
            x += 0.00173;
        }
    }

    #[test]
    fn double_precision_functions_are_close() {
        for i in 1..20_000 {
            let x = f64::from(i) * 0.013_7;
            assert!((ln_f64(x) - x.ln()).abs() < 1e-14 * x.ln().abs().max(1.0), "ln({x})");
            let e = x / 10.0 - 13.0;
            assert!((exp_f64(e) / e.exp() - 1.0).abs() < 2e-15, "exp({e})");
            let angle = f64::from(i) * 57.31;
            let (s, c) = sin_cos_f64(angle);
            assert!((s - angle.sin()).abs() < 1e-13 && (c - angle.cos()).abs() < 1e-13, "sin_cos({angle})");
            let (s, c) = sin_cos_f64(-angle);
            assert!((s + angle.sin()).abs() < 1e-13 && (c - angle.cos()).abs() < 1e-13);
        }
        assert!((pow_f64(1e6, -0.37) / 1e6_f64.powf(-0.37) - 1.0).abs() < 1e-14);
        assert_eq!(ln_f64(0.0), f64::NEG_INFINITY);
        assert!((ln_f64(5e-324) - 5e-324_f64.ln()).abs() < 1e-12);
    }
}
