//! What an answer of this machine costs.

use std::time::Duration;

use crate::NanoDollars;

/// What the owner says of this machine's power. Without a price for a kilowatt-hour the local cost is unknown, which
/// is not nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tariff {
    /// Watts at the wall while answering, used where energy cannot be measured.
    pub watts: Option<f64>,
    /// Dollars for a kilowatt-hour.
    pub dollars_per_kwh: Option<f64>,
}

impl Tariff {
    /// The cost of an answer that took `measured` joules, or that kept the machine busy for `busy` (its share, when
    /// several ran), with words for how it was computed. Measured energy goes before the configured watts.
    pub fn cost(&self, measured: Option<f64>, busy: Duration) -> Option<(NanoDollars, String)> {
        let dollars_per_kwh = self.dollars_per_kwh?;
        let (joules, source) = match (measured, self.watts) {
            (Some(joules), _) => (joules, "measured energy".to_owned()),
            (None, Some(watts)) => (watts * busy.as_secs_f64(), format!("{watts} W")),
            (None, None) => return None,
        };
        let cost = NanoDollars::from_dollars(joules / 3.6e6 * dollars_per_kwh)?;
        Some((cost, format!("local: {source} at ${dollars_per_kwh}/kWh")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_follow_energy_and_are_unknown_without_a_price() {
        let hour = Duration::from_hours(1);
        let tariff = Tariff { watts: Some(100.0), dollars_per_kwh: Some(0.3) };
        let (cost, how) = tariff.cost(None, hour).unwrap();
        assert_eq!((cost, how.as_str()), (NanoDollars(30_000_000), "local: 100 W at $0.3/kWh"));
        let (cost, how) = tariff.cost(Some(3.6e6), hour).unwrap();
        assert_eq!(cost, NanoDollars(300_000_000));
        assert!(how.contains("measured"), "{how}");
        assert_eq!(Tariff { watts: Some(100.0), dollars_per_kwh: None }.cost(Some(1.0), hour), None);
        assert_eq!(Tariff { watts: None, dollars_per_kwh: Some(0.3) }.cost(None, hour), None);
    }
}
