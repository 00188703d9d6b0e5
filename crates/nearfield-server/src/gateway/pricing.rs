//! What an answer cost, and what it would have cost elsewhere.

use jiff::Timestamp;
use nearfield_api::{Function, Locality, OutputFormat, Request, Tool, Usage, Work};
use nearfield_store::{Counterfactual, NanoDollars, Prices, Tariff};
use serde_json::Value;

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

    /// The most that a request may cost at a cloud backend which calls its model `model`: of a prompt of so many tokens, the
    /// definitions that come with it, and every choice at its full length.
    pub(super) fn most(
        &self,
        seller: &Seller,
        model: &str,
        request: &Request,
        prompt_tokens: u64,
    ) -> Option<NanoDollars> {
        let thought = request.reasoning.budget_tokens.map_or(0, u64::from);
        let answer = request.max_tokens.map_or(LIKELY_ANSWER.saturating_add(thought), u64::from);
        let output = answer.saturating_mul(u64::from(request.choices.max(1)));
        let input = prompt_tokens.saturating_add(definition_bytes(request).div_ceil(4));
        let usage = Usage { input, output, ..Usage::NONE };
        self.cost(seller, model, &usage, None).map(|(cost, _)| cost)
    }

    /// The cost of the same tokens at the reference price.
    pub(super) fn counterfactual(&self, usage: &Usage) -> Option<Counterfactual> {
        let priced = self.prices.cost(&self.reference, usage, Timestamp::now())?;
        Some(Counterfactual { price: priced.price, cost: priced.cost })
    }
}

/// Bytes of what comes with a prompt and is read with it: tools, and the schema of the answer.
fn definition_bytes(request: &Request) -> u64 {
    let size = |value: &Value| value.to_string().len();
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let tools: usize = request
        .tools
        .iter()
        .map(|tool| match tool {
            Tool::Function(Function { name, description, parameters, .. }) => {
                name.len() + text(description) + parameters.as_ref().map_or(0, size)
            }
            Tool::Other(value) => size(value),
            _ => 0,
        })
        .sum();
    let format = match &request.format {
        Some(OutputFormat::JsonSchema(schema)) => {
            text(&schema.name) + text(&schema.description) + size(&schema.schema)
        }
        _ => 0,
    };
    tools.saturating_add(format) as u64
}
