//! Money as whole nano-dollars, so that sums are exact.

use std::fmt;
use std::iter::Sum;
use std::ops::Add;

use serde::{Deserialize, Serialize};

/// An amount of US dollars in billionths. A token of the cheapest models costs single nano-dollars, and an `i64` of
/// them reaches nine billion dollars; sums saturate there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NanoDollars(pub i64);

impl NanoDollars {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// The nearest amount to a number of dollars; `None` when it is not a number or out of range.
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        let nanos = (dollars * 1e9).round();
        (nanos.is_finite() && nanos.abs() < 9e18).then_some(Self(nanos as i64))
    }

    /// The amount in dollars, for people and JSON.
    pub fn dollars(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// The difference, saturating.
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for NanoDollars {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sum for NanoDollars {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for NanoDollars {
    /// Dollars with as many decimals as the amount needs: cents and below show two significant digits.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let nanos = self.0.unsigned_abs();
        let decimals: u32 = match nanos {
            0 | 100_000_000.. => 2,
            10_000_000.. => 3,
            1_000_000.. => 4,
            100_000.. => 5,
            10_000.. => 6,
            1_000.. => 7,
            100.. => 8,
            _ => 9,
        };
        let unit = 10_u64.pow(9 - decimals);
        let rounded = nanos.saturating_add(unit / 2) / unit;
        let scale = 10_u64.pow(decimals);
        let width = decimals as usize;
        write!(formatter, "{sign}${}.{:0width$}", rounded / scale, rounded % scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_two_significant_digits_below_a_cent() {
        let show = |nanos| NanoDollars(nanos).to_string();
        assert_eq!(show(0), "$0.00");
        assert_eq!(show(1_234_567_890), "$1.23");
        assert_eq!(show(123_456_789), "$0.12");
        assert_eq!(show(12_345_678), "$0.012");
        assert_eq!(show(123_456), "$0.00012");
        assert_eq!(show(7), "$0.000000007");
        assert_eq!(show(-123_456), "-$0.00012");
        assert_eq!(show(i64::MAX), "$9223372036.85");
    }

    #[test]
    fn sums_saturate() {
        let sum: NanoDollars = [NanoDollars(i64::MAX), NanoDollars(5)].into_iter().sum();
        assert_eq!(sum, NanoDollars(i64::MAX));
        assert_eq!(NanoDollars::from_dollars(0.1), Some(NanoDollars(100_000_000)));
        assert_eq!(NanoDollars::from_dollars(f64::NAN), None);
        assert_eq!(NanoDollars::from_dollars(1e30), None);
    }
}
