//! How much is done for an answer: the settings of section `[attempts]`.

use std::time::Duration;

use serde::Deserialize;

/// How attempts are made. The defaults retry twice, open a circuit after five failures, and never hedge.
#[derive(Clone, Debug, PartialEq)]
pub struct Resilience {
    /// How often one backend other than this process's engine is asked again for one request.
    pub retries: u32,
    /// The wait before the first retry; it doubles with each. Half of it is by chance.
    pub backoff: Duration,
    /// The longest wait for a retry, whatever the backend asks for: beyond it the next candidate is tried.
    pub longest_wait: Duration,
    /// No attempt begins so long after the request was admitted.
    pub give_up_after: Duration,
    /// How long a backend other than this process's engine may take to its first token before it is given up. `None`: as
    /// its own section says.
    pub first_token: Option<Duration>,
    /// Failures in a row after which a backend other than this process's engine rests. 0: never.
    pub circuit_failures: u32,
    /// How long it rests before one request probes it.
    pub circuit_rest: Duration,
    /// How long to wait for a first token before the next candidate is asked beside. `None`: never.
    pub hedge_after: Option<Duration>,
    /// The most dollars that asking beside may cost by the price table, the whole answer assumed. `None`: whatever it
    /// costs, as long as that is known.
    pub hedge_dollars: Option<f64>,
    /// What becomes of a cloud's answer whose caller went away.
    pub disconnect: Disconnect,
}

/// What becomes of a cloud's answer whose caller went away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Disconnect {
    /// It is cancelled; its tokens are estimated.
    #[default]
    Cancel,
    /// It is read on to its usage, so that the ledger has the provider's own count.
    Drain {
        /// For at most so long.
        time: Duration,
        /// And at most so many more pieces.
        pieces: u64,
    },
}

impl Default for Resilience {
    fn default() -> Self {
        Self {
            retries: 2,
            backoff: Duration::from_millis(250),
            longest_wait: Duration::from_secs(5),
            give_up_after: Duration::from_mins(2),
            first_token: None,
            circuit_failures: 5,
            circuit_rest: Duration::from_secs(30),
            hedge_after: None,
            hedge_dollars: None,
            disconnect: Disconnect::Cancel,
        }
    }
}

impl Resilience {
    /// Each backend is asked once, and nothing is remembered.
    pub fn plain() -> Self {
        Self { retries: 0, circuit_failures: 0, ..Self::default() }
    }

    /// The wait before a retry; `None` when it would be too long. What the backend asks for is waited for in full,
    /// with a little more by chance, so that not all callers come back at once.
    pub(super) fn wait(&self, retries: u32, asked: Option<Duration>, chance: u64) -> Option<Duration> {
        let backoff = self.backoff.saturating_mul(1_u32 << retries.min(16)).min(self.longest_wait);
        let half = backoff / 2;
        let share = (chance >> 40) as f64 / f64::from(1_u32 << 24);
        let by_chance = half.mul_f64(share);
        match asked {
            Some(asked) if asked > self.longest_wait => None,
            Some(asked) => Some(asked.max(half) + by_chance),
            None => Some(half + by_chance),
        }
    }
}

/// A setting of `[attempts]` that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("attempts.{setting} {reason}")]
pub struct ResilienceError {
    setting: &'static str,
    reason: &'static str,
}

/// The section as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Section {
    retries: Option<u32>,
    backoff_seconds: Option<f64>,
    longest_wait_seconds: Option<f64>,
    give_up_after_seconds: Option<f64>,
    first_token_seconds: Option<f64>,
    circuit_failures: Option<u32>,
    circuit_rest_seconds: Option<f64>,
    hedge_after_seconds: Option<f64>,
    hedge_dollars: Option<f64>,
    disconnect: Option<OnDisconnect>,
    drain_seconds: Option<f64>,
    drain_pieces: Option<u64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OnDisconnect {
    Cancel,
    Drain,
}

impl<'de> Deserialize<'de> for Resilience {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(Section::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Seconds of a setting, at most a day.
fn seconds(setting: &'static str, value: Option<f64>) -> Result<Option<Duration>, ResilienceError> {
    let Some(value) = value else { return Ok(None) };
    if value.is_finite() && (0.001..=86400.0).contains(&value) {
        return Ok(Some(Duration::from_secs_f64(value)));
    }
    Err(ResilienceError { setting, reason: "must be seconds from 0.001 to 86400" })
}

impl TryFrom<Section> for Resilience {
    type Error = ResilienceError;

    fn try_from(section: Section) -> Result<Self, Self::Error> {
        let otherwise = Self::default();
        let retries = section.retries.unwrap_or(otherwise.retries);
        if retries > 10 {
            return Err(ResilienceError { setting: "retries", reason: "must be at most 10" });
        }
        if section.hedge_dollars.is_some_and(|most| !most.is_finite() || most < 0.0) {
            return Err(ResilienceError { setting: "hedge_dollars", reason: "must be 0 or more" });
        }
        let time = seconds("drain_seconds", section.drain_seconds)?.unwrap_or(Duration::from_secs(30));
        let pieces = section.drain_pieces.unwrap_or(4096);
        let disconnect = match section.disconnect {
            Some(OnDisconnect::Drain) => Disconnect::Drain { time, pieces },
            _ if section.drain_seconds.is_some() || section.drain_pieces.is_some() => {
                let reason = "must be \"drain\" where drain_seconds or drain_pieces is set";
                return Err(ResilienceError { setting: "disconnect", reason });
            }
            _ => Disconnect::Cancel,
        };
        Ok(Self {
            retries,
            backoff: seconds("backoff_seconds", section.backoff_seconds)?.unwrap_or(otherwise.backoff),
            longest_wait: seconds("longest_wait_seconds", section.longest_wait_seconds)?
                .unwrap_or(otherwise.longest_wait),
            give_up_after: seconds("give_up_after_seconds", section.give_up_after_seconds)?
                .unwrap_or(otherwise.give_up_after),
            first_token: seconds("first_token_seconds", section.first_token_seconds)?,
            circuit_failures: section.circuit_failures.unwrap_or(otherwise.circuit_failures),
            circuit_rest: seconds("circuit_rest_seconds", section.circuit_rest_seconds)?
                .unwrap_or(otherwise.circuit_rest),
            hedge_after: seconds("hedge_after_seconds", section.hedge_after_seconds)?,
            hedge_dollars: section.hedge_dollars,
            disconnect,
        })
    }
}
