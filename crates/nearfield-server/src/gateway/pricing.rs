//! What an answer cost, and what it would have cost elsewhere.

use jiff::Timestamp;
use nearfield_api::{Locality, Usage, Work};
use nearfield_store::{Counterfactual, NanoDollars, Prices, Tariff};

/// Tokens of an answer whose length nobody bounds, when its price is estimated beforehand.
const LIKELY_ANSWER: u64 = 1024;

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

    /// What a request may cost at a cloud backend, from the size of its prompt and the most tokens of its answer.
    pub(super) fn estimate(
        &self,
        seller: &Seller,
        model: &str,
        prompt_tokens: u64,
        max_tokens: Option<u32>,
    ) -> Option<NanoDollars> {
        let output = max_tokens.map_or(LIKELY_ANSWER, u64::from);
        let usage = Usage { input: prompt_tokens, output, ..Usage::NONE };
        self.cost(seller, model, &usage, None).map(|(cost, _)| cost)
    }

    /// The cost of the same tokens at the reference price.
    pub(super) fn counterfactual(&self, usage: &Usage) -> Option<Counterfactual> {
        let priced = self.prices.cost(&self.reference, usage, Timestamp::now())?;
        Some(Counterfactual { price: priced.price, cost: priced.cost })
    }
}
