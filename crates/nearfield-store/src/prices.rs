//! What cloud tokens cost, and since when.

use std::collections::HashMap;

use jiff::Timestamp;
use jiff::civil::Date;
use nearfield_api::Usage;
use serde::Deserialize;

use crate::NanoDollars;

/// The price to compare with when the configuration names none: a common, cheap cloud model, so that savings are not
/// flattered.
pub const DEFAULT_REFERENCE: &str = "openai/gpt-5.4-nano";

const BUILT_IN: &str = include_str!("../prices/prices.toml");

/// A table of prices by model and date.
#[derive(Clone, Debug, Default)]
pub struct Prices {
    models: Vec<Model>,
    /// The model that each way to write a name means: the first of those that are called so.
    by_name: HashMap<String, usize>,
}

#[derive(Clone, Debug)]
struct Model {
    /// `provider/model`.
    name: String,
    aliases: Vec<String>,
    /// Ascending by `effective_from`.
    history: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    /// The day, in UTC, from which this price holds; `None` since the model appeared.
    effective_from: Option<Date>,
    rates: Rates,
    /// The prompt length above which other rates hold for the whole request, and these rates.
    long: Option<(u64, Rates)>,
}

/// Nano-dollars for a million tokens.
#[derive(Clone, Copy, Debug)]
struct Rates {
    input: u64,
    /// A provider that publishes no price for cached input charges it like input.
    cached_input: u64,
    /// Input that is also written to a cache; like input where no price is published.
    cache_write: u64,
    /// The same for a cache that lives for an hour; like the shorter one where no price is published.
    cache_write_1h: u64,
    output: u64,
}

/// A cost, with the price that it was computed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PricedCost {
    /// What the tokens cost.
    pub cost: NanoDollars,
    /// The price's name: `provider/model`, `@` and the day from which it holds where that is known, and `+long` when
    /// the prompt was long enough for the higher rates.
    pub price: String,
}

/// A price table that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PriceError {
    /// Not TOML, or not the layout of a price table.
    #[error("the price table cannot be read: {0}")]
    Syntax(#[from] toml::de::Error),
    /// A price is negative, not a number or absurd.
    #[error(
        "the price table gives `{model}` a price of {value}; expected dollars for a million tokens, 0 to 1000000"
    )]
    Value {
        /// The model.
        model: String,
        /// The price as it stands there.
        value: f64,
    },
    /// The dates of a model's prices do not ascend, or a model has no price.
    #[error(
        "the prices of `{model}` in the price table must be at least one, in ascending order of effective_from"
    )]
    Order {
        /// The model.
        model: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTable {
    #[serde(rename = "source")]
    _source: Option<String>,
    #[serde(rename = "as_of")]
    _as_of: Option<String>,
    #[serde(default)]
    model: Vec<FileModel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileModel {
    name: String,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    price: Vec<FilePrice>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePrice {
    effective_from: Option<Date>,
    input: f64,
    cached_input: Option<f64>,
    cache_write: Option<f64>,
    cache_write_1h: Option<f64>,
    output: f64,
    long: Option<FileLong>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileLong {
    above_prompt_tokens: u64,
    input: f64,
    cached_input: Option<f64>,
    cache_write: Option<f64>,
    cache_write_1h: Option<f64>,
    output: f64,
}

impl Prices {
    /// The table that Nearfield carries.
    pub fn built_in() -> Result<Self, PriceError> {
        Self::from_toml(BUILT_IN)
    }

    /// Reads a table in the layout of the built-in one: `[[model]]` with `name` and optional `aliases`, each with one
    /// or more `[[model.price]]` of `input`, `cached_input`, `cache_write`, `cache_write_1h`, `output` (dollars
    /// for a million tokens), an optional `effective_from`, and optional `long` rates.
    pub fn from_toml(text: &str) -> Result<Self, PriceError> {
        let file: FileTable = toml::from_str(text)?;
        let models = file.model.into_iter().map(Model::from_file).collect::<Result<_, _>>()?;
        Ok(Self::of(models))
    }

    fn of(models: Vec<Model>) -> Self {
        let mut by_name = HashMap::new();
        for (at, model) in models.iter().enumerate() {
            for name in model.spellings() {
                by_name.entry(name).or_insert(at);
            }
        }
        Self { models, by_name }
    }

    /// Adds a table whose models replace those of the same name.
    pub fn extend(&mut self, other: Self) {
        let mut models = std::mem::take(&mut self.models);
        models.retain(|model| !other.models.iter().any(|new| new.name == model.name));
        models.extend(other.models);
        *self = Self::of(models);
    }

    /// The names of all models, as `provider/model`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.models.iter().map(|model| model.name.as_str())
    }

    /// What `usage` of a model costs at a time; `None` when the table does not know the model at that time. The model
    /// may be written with or without its provider, and with the date of a snapshot behind it.
    pub fn cost(&self, model: &str, usage: &Usage, at: Timestamp) -> Option<PricedCost> {
        let model = self.find(model)?;
        let day = at.to_zoned(jiff::tz::TimeZone::UTC).date();
        let entry =
            model.history.iter().rev().find(|entry| entry.effective_from.is_none_or(|from| from <= day))?;
        let mut price = model.name.clone();
        if let Some(from) = entry.effective_from {
            price = format!("{price}@{from}");
        }
        let rates = match entry.long {
            Some((above, long)) if usage.prompt_tokens() > above => {
                price.push_str("+long");
                long
            }
            _ => entry.rates,
        };
        Some(PricedCost { cost: rates.cost(usage), price })
    }

    fn find(&self, name: &str) -> Option<&Model> {
        let exact = |name: &str| self.by_name.get(name).and_then(|at| self.models.get(*at));
        exact(name).or_else(|| exact(without_date(name)?))
    }
}

impl Model {
    fn from_file(file: FileModel) -> Result<Self, PriceError> {
        let rates = |input: f64, cached: Option<f64>, write: [Option<f64>; 2], output: f64| {
            let nanos = |value: f64| {
                if (0.0..=1e6).contains(&value) {
                    Ok((value * 1e9).round() as u64)
                } else {
                    Err(PriceError::Value { model: file.name.clone(), value })
                }
            };
            Ok::<_, PriceError>(Rates {
                input: nanos(input)?,
                cached_input: nanos(cached.unwrap_or(input))?,
                cache_write: nanos(write[0].unwrap_or(input))?,
                cache_write_1h: nanos(write[1].or(write[0]).unwrap_or(input))?,
                output: nanos(output)?,
            })
        };
        let mut history: Vec<Entry> = Vec::with_capacity(file.price.len());
        for price in &file.price {
            let ascends = history.last().is_none_or(|last| last.effective_from < price.effective_from);
            if !ascends {
                return Err(PriceError::Order { model: file.name });
            }
            let long = match &price.long {
                Some(long) => {
                    let write = [long.cache_write, long.cache_write_1h];
                    Some((
                        long.above_prompt_tokens,
                        rates(long.input, long.cached_input, write, long.output)?,
                    ))
                }
                None => None,
            };
            history.push(Entry {
                effective_from: price.effective_from,
                rates: rates(
                    price.input,
                    price.cached_input,
                    [price.cache_write, price.cache_write_1h],
                    price.output,
                )?,
                long,
            });
        }
        if history.is_empty() {
            return Err(PriceError::Order { model: file.name });
        }
        Ok(Self { name: file.name, aliases: file.aliases, history })
    }

    /// Every way to write its name: `provider/model`, or the model or an alias alone.
    fn spellings(&self) -> Vec<String> {
        let (provider, own) = self.name.split_once('/').unwrap_or(("", &self.name));
        let aliases = self.aliases.iter().map(String::as_str);
        // A name with a slash in it alone would be taken for one of another provider.
        let alone = std::iter::once(own).chain(aliases.clone()).filter(|name| !name.contains('/'));
        let whole = aliases.map(|alias| format!("{provider}/{alias}"));
        std::iter::once(self.name.clone()).chain(whole).chain(alone.map(str::to_owned)).collect()
    }
}

impl Rates {
    /// Rounded once, half up, for the whole request.
    fn cost(&self, usage: &Usage) -> NanoDollars {
        let part = |tokens: u64, rate: u64| u128::from(tokens) * u128::from(rate);
        let millionths = part(usage.input, self.input)
            .saturating_add(part(usage.cached_input, self.cached_input))
            .saturating_add(part(usage.cache_write, self.cache_write))
            .saturating_add(part(usage.cache_write_1h, self.cache_write_1h))
            .saturating_add(part(usage.output, self.output))
            .saturating_add(part(usage.reasoning, self.output))
            // What nobody names is charged at the highest rate, so that no budget is overrun unseen.
            .saturating_add(part(usage.unattributed, self.output));
        NanoDollars(i64::try_from(millionths.saturating_add(500_000) / 1_000_000).unwrap_or(i64::MAX))
    }
}

/// `name` without a snapshot's date behind it (`-2026-03-17` or `-20260317`).
fn without_date(name: &str) -> Option<&str> {
    let digits =
        |text: &str, count: usize| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    let (rest, last) = name.rsplit_once('-')?;
    if digits(last, 8) {
        return Some(rest);
    }
    let (rest, month) = rest.rsplit_once('-')?;
    let (rest, year) = rest.rsplit_once('-')?;
    (digits(last, 2) && digits(month, 2) && digits(year, 4)).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    fn usage(input: u64, cached_input: u64, output: u64, reasoning: u64) -> Usage {
        Usage { input, cached_input, output, reasoning, measured: true, ..Usage::default() }
    }

    fn nanos(model: &str, usage: Usage, time: &str) -> Option<i64> {
        Prices::built_in().unwrap().cost(model, &usage, at(time)).map(|priced| priced.cost.0)
    }

    const NOW: &str = "2026-11-22T12:00:00Z";

    #[test]
    fn built_in_table_holds_the_reference() {
        let prices = Prices::built_in().unwrap();
        assert!(prices.names().any(|name| name == DEFAULT_REFERENCE));
        assert!(prices.names().count() >= 12);
    }

    #[test]
    fn each_bucket_has_its_price() {
        assert_eq!(nanos("gpt-5.4-mini", usage(1000, 0, 0, 0), NOW), Some(750_000));
        assert_eq!(nanos("gpt-5.4-mini", usage(0, 1000, 0, 0), NOW), Some(75_000));
        assert_eq!(nanos("gpt-5.4-mini", usage(0, 0, 1000, 0), NOW), Some(4_500_000));
        assert_eq!(nanos("gpt-5.4-mini", usage(0, 0, 0, 1000), NOW), Some(4_500_000));
        // 3 x 35 nano-dollars and 1 x 8.75, rounded once.
        assert_eq!(nanos("amazon.nova-micro-v1:0", usage(3, 1, 0, 0), NOW), Some(114));
        // No price for cached input: it costs what input costs.
        assert_eq!(nanos("meta.llama3-1-8b-instruct-v1:0", usage(0, 100, 0, 0), NOW), Some(22_000));
    }

    #[test]
    fn the_day_decides() {
        let luna = |time| {
            let prices = Prices::built_in().unwrap();
            prices.cost("gpt-5.6-luna", &usage(1_000_000, 0, 0, 0), at(time)).unwrap()
        };
        assert_eq!(luna("2026-07-29T23:59:59Z").cost, NanoDollars(2_000_000_000));
        assert_eq!(luna("2026-07-29T23:59:59Z").price, "openai/gpt-5.6-luna+long");
        assert_eq!(nanos("gpt-5.6-luna", usage(1000, 0, 0, 0), "2026-07-29T23:59:59Z"), Some(1_000_000));
        assert_eq!(nanos("gpt-5.6-luna", usage(1000, 0, 0, 0), "2026-07-30T00:00:00Z"), Some(200_000));
        assert_eq!(luna(NOW).price, "openai/gpt-5.6-luna@2026-07-30+long");
    }

    #[test]
    fn long_prompts_cost_more_as_a_whole() {
        let sol = |prompt| nanos("gpt-5.6-sol", usage(prompt, 0, 1000, 0), NOW).unwrap();
        assert_eq!(sol(272_000), 272_000 * 5_000 + 1000 * 30_000);
        assert_eq!(sol(272_001), 272_001 * 10_000 + 1000 * 45_000);
    }

    #[test]
    fn names_are_found_with_provider_date_and_alias_and_never_guessed() {
        let one = usage(1000, 0, 0, 0);
        for name in [
            "openai/gpt-5.4-mini",
            "gpt-5.4-mini",
            "gpt-5.4-mini-2026-03-17",
            "openai/gpt-5.4-mini-2026-03-17",
            "gpt-5-4-mini",
        ] {
            assert_eq!(nanos(name, one, NOW), Some(750_000), "{name}");
        }
        assert_eq!(nanos("claude-haiku-4-5-20251001", one, NOW), Some(1_000_000));
        for name in
            ["gpt-5.4-minimal", "azure/gpt-5.4-mini", "gpt-5.4-mini-latest", "smollm2:135m", "", "/", "-"]
        {
            assert_eq!(nanos(name, one, NOW), None, "{name}");
        }
    }

    #[test]
    fn own_prices_replace_built_in_ones() {
        let mut prices = Prices::built_in().unwrap();
        let own = "[[model]]\nname = 'openai/gpt-5.4-mini'\n[[model.price]]\neffective_from = '2026-11-01'\n\
                   input = 9\noutput = 9\n";
        prices.extend(Prices::from_toml(own).unwrap());
        let one = usage(1000, 0, 0, 0);
        assert_eq!(prices.cost("gpt-5.4-mini", &one, at(NOW)).unwrap().cost, NanoDollars(9_000_000));
        // Before its first day a price is unknown, not the nearest one.
        assert_eq!(prices.cost("gpt-5.4-mini", &one, at("2026-10-31T00:00:00Z")), None);
    }

    #[test]
    fn bad_tables_are_refused() {
        let table = |prices: &str| Prices::from_toml(&format!("[[model]]\nname = 'a/b'\n{prices}"));
        assert!(matches!(table(""), Err(PriceError::Order { .. })));
        assert!(matches!(
            table("[[model.price]]\ninput = -1\noutput = 1\n"),
            Err(PriceError::Value { value, .. }) if value == -1.0
        ));
        assert!(matches!(table("[[model.price]]\ninput = nan\noutput = 1\n"), Err(PriceError::Value { .. })));
        let twice = "[[model.price]]\ninput = 1\noutput = 1\n".repeat(2);
        assert!(matches!(table(&twice), Err(PriceError::Order { .. })));
        assert!(matches!(table("[[model.price]]\nimput = 1\noutput = 1\n"), Err(PriceError::Syntax(_))));
    }

    #[test]
    fn absurd_usage_does_not_overflow() {
        let all = usage(u64::MAX / 4, u64::MAX / 4, u64::MAX / 4, u64::MAX / 4);
        assert_eq!(nanos("gpt-5.6-sol", all, NOW), Some(i64::MAX));
    }
}
