//! When a rule applies.

use nearfield_privacy::DataClass;
use serde::{Deserialize, Serialize};

use super::{Facts, RulesError};

/// Whether the configured clouds can be reached, as far as this machine can tell without asking anybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Connectivity {
    /// A network is there.
    #[default]
    Online,
    /// None is.
    Offline,
}

/// Conditions of a rule; what is absent always holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct When {
    /// Names or ids of keys.
    pub key: Option<Vec<String>>,
    /// Purposes of keys.
    pub purpose: Option<Vec<String>>,
    /// Classes, one of which is the request's: the highest of its key's floor, its caller's claim and detection. Absent:
    /// `public` and `internal`.
    pub class: Option<Vec<DataClass>>,
    /// Models, `*` standing for anything.
    pub model: Option<Vec<String>>,
    /// At least so many tokens in the prompt.
    pub tokens_from: Option<u64>,
    /// At most so many tokens in the prompt.
    pub tokens_to: Option<u64>,
    /// Whether the request brings tools.
    pub tools: Option<bool>,
    /// At least so complex, from 0 to 1.
    pub complexity_from: Option<f64>,
    /// At most so complex.
    pub complexity_to: Option<f64>,
    /// Local hours, `08:00-18:00`; may pass midnight.
    pub hours: Option<String>,
    /// Days of the week: `mon` to `sun`.
    pub days: Option<Vec<Day>>,
    /// At least so many dollars left of the key's month. A key without a limit has any sum left.
    pub dollars_left: Option<f64>,
    /// At least so many requests waiting for the local engine.
    pub queue_from: Option<u32>,
    /// At most so many requests waiting for the local engine.
    pub queue_to: Option<u32>,
    /// At least this share of the local engine's cache of keys and values free, 0 to 1.
    pub free_cache_from: Option<f64>,
    /// At most this share of it free.
    pub free_cache_to: Option<f64>,
    /// At least so many seconds until the local engine's first token, as it predicts.
    pub first_token_from: Option<f64>,
    /// At most so many seconds until it.
    pub first_token_to: Option<f64>,
    /// Whether there is a network.
    pub connectivity: Option<Connectivity>,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "days need no words")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Day {
    /// The day of a number, Monday being 0.
    pub const fn from_monday(days: u8) -> Self {
        match days % 7 {
            0 => Self::Mon,
            1 => Self::Tue,
            2 => Self::Wed,
            3 => Self::Thu,
            4 => Self::Fri,
            5 => Self::Sat,
            _ => Self::Sun,
        }
    }
}

/// The classes of a rule that names none.
const USUAL: [DataClass; 2] = [DataClass::Public, DataClass::Internal];

impl When {
    /// The classes that the rule is for.
    pub fn classes(&self) -> &[DataClass] {
        self.class.as_deref().unwrap_or(&USUAL)
    }

    /// The first condition that does not hold, in words; `None` when all do.
    pub(crate) fn fails(&self, facts: &Facts<'_>) -> Option<&'static str> {
        let one_of = |names: &Option<Vec<String>>, own: &[Option<&str>]| {
            names
                .as_ref()
                .is_none_or(|names| own.iter().flatten().any(|own| names.iter().any(|name| name == own)))
        };
        let purpose = facts.terms.and_then(|terms| terms.purpose.as_deref());
        let from = |least: Option<f64>, own: Option<f64>| {
            least.is_none_or(|least| own.is_some_and(|own| own >= least))
        };
        let to =
            |most: Option<f64>, own: Option<f64>| most.is_none_or(|most| own.is_some_and(|own| own <= most));
        let tokens = Some(facts.tokens as f64);
        let queue = Some(f64::from(facts.queued));
        let checks: [(&'static str, bool); 15] = [
            ("class", self.classes().contains(&facts.class())),
            ("key", one_of(&self.key, &[Some(facts.key), facts.key_name])),
            ("purpose", one_of(&self.purpose, &[purpose])),
            (
                "model",
                self.model
                    .as_ref()
                    .is_none_or(|models| models.iter().any(|model| matches(model, facts.model))),
            ),
            ("tokens_from", from(self.tokens_from.map(|least| least as f64), tokens)),
            ("tokens_to", to(self.tokens_to.map(|most| most as f64), tokens)),
            ("tools", self.tools.is_none_or(|wanted| wanted == facts.tools)),
            (
                "complexity",
                from(self.complexity_from, facts.complexity) && to(self.complexity_to, facts.complexity),
            ),
            (
                "hours",
                self.hours
                    .as_ref()
                    .is_none_or(|hours| span(hours).is_some_and(|span| inside(span, facts.minute))),
            ),
            ("days", self.days.as_ref().is_none_or(|days| days.contains(&facts.day))),
            ("dollars_left", self.dollars_left.is_none_or(|least| facts.has_left(least))),
            ("queue", from(self.queue_from.map(f64::from), queue) && to(self.queue_to.map(f64::from), queue)),
            (
                "free_cache",
                from(self.free_cache_from, facts.free_cache) && to(self.free_cache_to, facts.free_cache),
            ),
            (
                "first_token",
                from(self.first_token_from, facts.first_token) && to(self.first_token_to, facts.first_token),
            ),
            ("connectivity", self.connectivity.is_none_or(|wanted| wanted == facts.connectivity)),
        ];
        checks.into_iter().find(|(_, holds)| !holds).map(|(name, _)| name)
    }

    pub(crate) fn check(&self, place: &str) -> Result<(), RulesError> {
        let wrong = |why: &str| Err(RulesError::Wrong { place: place.to_owned(), why: why.to_owned() });
        if self.class.as_ref().is_some_and(Vec::is_empty) {
            return wrong("an empty `class` never holds; name the classes or leave it out");
        }
        if self.hours.as_ref().is_some_and(|hours| span(hours).is_none()) {
            return wrong("`hours` are written as 08:00-18:00");
        }
        let numbers = [
            self.complexity_from,
            self.complexity_to,
            self.dollars_left,
            self.free_cache_from,
            self.free_cache_to,
            self.first_token_from,
            self.first_token_to,
        ];
        if numbers.into_iter().flatten().any(|number| !number.is_finite()) {
            return wrong("a number in `when` must be finite");
        }
        Ok(())
    }
}

/// Whether a name matches a pattern in which `*` stands for anything. Linear in the name for each star.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(first) = parts.next() else { return false };
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        if let Some(before) = last.replace(part) {
            let Some(at) = rest.find(before) else { return false };
            rest = &rest[at + before.len()..];
        }
    }
    match last {
        None => rest.is_empty(),
        Some(last) => rest.ends_with(last),
    }
}

/// Minutes of the day from and to.
fn span(hours: &str) -> Option<(u16, u16)> {
    let minute = |text: &str| {
        let (hour, minute) = text.trim().split_once(':')?;
        let (hour, minute) = (hour.parse::<u16>().ok()?, minute.parse::<u16>().ok()?);
        (hour <= 24 && minute < 60 && hour * 60 + minute <= 1440).then_some(hour * 60 + minute)
    };
    let (from, to) = hours.split_once('-')?;
    Some((minute(from)?, minute(to)?))
}

const fn inside((from, to): (u16, u16), minute: u16) -> bool {
    if from <= to { from <= minute && minute < to } else { minute >= from || minute < to }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, name, fits) in [
            ("gpt-5", "gpt-5", true),
            ("gpt-5", "gpt-5.1", false),
            ("gpt-*", "gpt-", true),
            ("*mini", "gpt-5-mini", true),
            ("*a*b*", "xaxxbx", true),
            ("*a*b*", "xbxxax", false),
            ("a*a", "a", false),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn hours_may_pass_midnight() {
        assert_eq!(span("08:00-18:30"), Some((480, 1110)));
        assert!(inside((480, 1110), 480) && !inside((480, 1110), 1110));
        assert!(inside((1320, 360), 1400) && inside((1320, 360), 10) && !inside((1320, 360), 720));
        for wrong in ["8-18", "25:00-26:00", "08:00", "08:60-09:00", "24:30-01:00"] {
            assert_eq!(span(wrong), None, "{wrong}");
        }
    }
}
