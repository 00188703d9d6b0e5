//! What an answer cost, and what it would have cost elsewhere.

use jiff::Timestamp;
use nearfield_api::{Locality, Usage, Work};
use nearfield_store::{Counterfactual, NanoDollars, Prices, Tariff};

/// The prices that all answers share.
pub(super) struct Pricing {
    pub(super) prices: Prices,
    pub(super) tariff: Tariff,
    pub(super) reference: String,
}

/// Whose prices hold for an answer.
#[derive(Clone, Debug)]
pub(super) struct Seller {
    pub(super) locality: Locality,
    /// The provider's name in the price table.
    pub(super) provider: Option<String>,
}

impl Pricing {
    /// The cost of an answer and the name of its price; `None` when it is unknown, which is not nothing.
    pub(super) fn cost(
        &self,
        seller: &Seller,
        model: &str,
        usage: &Usage,
        work: Option<&Work>,
    ) -> Option<(NanoDollars, String)> {
        match seller.locality {
            Locality::Local => work.and_then(|work| self.tariff.cost(work.energy_joules, work.busy)),
            Locality::Cloud => {
                let name = format!("{}/{model}", seller.provider.as_ref()?);
                let priced = self.prices.cost(&name, usage, Timestamp::now())?;
                Some((priced.cost, priced.price))
            }
        }
    }

    /// The cost of the same tokens at the reference price.
    pub(super) fn counterfactual(&self, usage: &Usage) -> Option<Counterfactual> {
        let priced = self.prices.cost(&self.reference, usage, Timestamp::now())?;
        Some(Counterfactual { price: priced.price, cost: priced.cost })
    }
}
