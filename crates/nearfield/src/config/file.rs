//! The layout of `nearfield.toml`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use jiff::civil::Date;
use nearfield_engine::{Arithmetic, Drafting, EngineOptions, KeyValueType, Speculation};
use nearfield_privacy::DataClass;
use nearfield_router::attempts::Resilience;
use nearfield_router::{Policy, PolicyMode};
use nearfield_store::Tariff;
use serde::Deserialize;
use serde::de::IgnoredAny;
use toml::Spanned;

use super::sizes::{Bytes, PrefixCache};

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileConfig {
    pub(super) policy: PolicySection,
    pub(super) attempts: Resilience,
    pub(super) local: LocalSection,
    pub(super) server: ServerSection,
    pub(super) cost: CostSection,
    /// Read apart; here for the names that are suggested.
    #[serde(rename = "backend")]
    _backend: Option<IgnoredAny>,
    pub(super) prices: BTreeMap<String, PriceSection>,
}

/// `[policy]`: a mode, or a policy file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PolicySection {
    mode: Option<PolicyMode>,
    cloud: Vec<String>,
    /// The highest class of data that may leave by the mode.
    leaves: Option<DataClass>,
    /// The policy file; with it there is no mode.
    file: Option<PathBuf>,
}

impl PolicySection {
    /// The mode, and the policy file as a path from `folder`.
    pub(super) fn split(self, folder: &Path) -> Result<(Policy, Option<PathBuf>), &'static str> {
        let Self { mode, cloud, leaves, file } = self;
        if file.is_some() && (mode.is_some() || !cloud.is_empty() || leaves.is_some()) {
            return Err("`policy.file` takes the place of `mode`, `cloud` and `leaves`; remove those or it");
        }
        Ok((Policy { mode: mode.unwrap_or_default(), cloud, leaves }, file.map(|file| folder.join(file))))
    }
}

/// `[local]`: this machine's engine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LocalSection {
    /// Whether this machine answers at all.
    pub(crate) enabled: bool,
    /// Threads; all processors when absent.
    pub(crate) threads: Option<NonZeroUsize>,
    /// Positions that one request may reach.
    pub(crate) context: Option<NonZeroUsize>,
    /// Element type of cached keys and values.
    pub(crate) kv: Option<KeyValueName>,
    /// Which arithmetic.
    pub(crate) arithmetic: Option<ArithmeticName>,
    /// Whether tokens are guessed ahead.
    pub(crate) speculation: Option<SpeculationName>,
    /// Requests that run at once.
    pub(crate) slots: Option<NonZeroUsize>,
    /// Requests that may wait for a slot.
    pub(crate) queue: Option<usize>,
    /// Memory for the beginnings of earlier requests.
    pub(crate) prefix_cache: Option<PrefixCache>,
    /// Most bytes of files that keep them over restarts; none without it.
    pub(crate) prefix_cache_files: Option<Bytes>,
    /// Keys, by id, that share them, under names of their own.
    pub(crate) cache_domains: BTreeMap<String, Vec<String>>,
    /// Memory that all loaded models together may take.
    pub(crate) memory: Option<Bytes>,
}

impl Default for LocalSection {
    fn default() -> Self {
        Self {
            enabled: true,
            threads: None,
            context: None,
            kv: None,
            arithmetic: None,
            speculation: None,
            slots: None,
            queue: None,
            prefix_cache: None,
            prefix_cache_files: None,
            cache_domains: BTreeMap::new(),
            memory: None,
        }
    }
}

/// The element types of cached keys and values, as flags and the file name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KeyValueName {
    /// 32 bits
    F32,
    /// 16 bits
    F16,
    /// 16 bits with the range of 32
    Bf16,
    /// 8 bits with a scale for each position and head
    Q8,
    /// 8 bits, FP8, with the scales of the checkpoint where it has them
    Fp8,
}

impl From<KeyValueName> for KeyValueType {
    fn from(name: KeyValueName) -> Self {
        match name {
            KeyValueName::F32 => Self::F32,
            KeyValueName::F16 => Self::F16,
            KeyValueName::Bf16 => Self::Bf16,
            KeyValueName::Q8 => Self::Q8,
            KeyValueName::Fp8 => Self::F8,
        }
    }
}

/// The two arithmetics, as flags and the file name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ArithmeticName {
    /// 8-bit activations for integer weights: fast
    Default,
    /// 32-bit activations: slow, closest to the reference
    Exact,
}

impl From<ArithmeticName> for Arithmetic {
    fn from(name: ArithmeticName) -> Self {
        match name {
            ArithmeticName::Default => Self::Default,
            ArithmeticName::Exact => Self::Exact,
        }
    }
}

/// Whether tokens are guessed ahead and from what, as flags and the file name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SpeculationName {
    /// Where it is faster
    On,
    /// Never
    Off,
    /// From the text only
    LookUp,
    /// By the model's own draft head only
    Mtp,
}

impl SpeculationName {
    /// Sets both options that the name stands for.
    pub(crate) fn set(self, options: &mut EngineOptions) {
        (options.speculation, options.drafting) = match self {
            Self::On => (Speculation::Adaptive, Drafting::Automatic),
            Self::Off => (Speculation::Off, Drafting::Automatic),
            Self::LookUp => (Speculation::Adaptive, Drafting::LookUp),
            Self::Mtp => (Speculation::Adaptive, Drafting::Head),
        };
    }
}

/// `[server]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServerSection {
    /// Name or address to listen on.
    pub(crate) host: Option<String>,
    /// Port to listen on.
    pub(crate) port: Option<u16>,
    /// The certificate's file, PEM.
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's key, PEM.
    pub(crate) tls_key: Option<PathBuf>,
    /// Whether to serve without TLS beyond this machine.
    pub(crate) plaintext: bool,
    /// Further names under which the server may be called.
    pub(crate) allowed_hosts: Vec<String>,
    /// Origins whose web pages may call the server.
    pub(crate) cors_origins: Vec<String>,
}

impl ServerSection {
    /// Paths in the file start from the file's folder.
    pub(super) fn relative_to(mut self, folder: &Path) -> Self {
        for path in [&mut self.tls_cert, &mut self.tls_key].into_iter().flatten() {
            *path = folder.join(&*path);
        }
        self
    }
}

/// `[cost]`: what this machine costs, and what to compare it with.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct CostSection {
    watts: Option<Positive>,
    dollars_per_kwh: Option<Positive>,
    pub(super) reference: Option<Spanned<String>>,
}

impl CostSection {
    pub(super) fn tariff(&self) -> Tariff {
        Tariff {
            watts: self.watts.map(|number| number.0),
            dollars_per_kwh: self.dollars_per_kwh.map(|number| number.0),
        }
    }
}

/// A finite number that is not negative; whole ones may be written without a point.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "f64")]
pub(super) struct Positive(f64);

impl TryFrom<f64> for Positive {
    type Error = &'static str;

    fn try_from(number: f64) -> Result<Self, Self::Error> {
        let usable = number.is_finite() && (0.0..=1e6).contains(&number);
        usable.then_some(Self(number)).ok_or("expected a number from 0 to 1000000")
    }
}

/// `[prices."provider/model"]`: dollars for a million tokens.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PriceSection {
    input: Positive,
    cached_input: Option<Positive>,
    output: Positive,
    effective_from: Option<Date>,
}

/// The prices in the layout that the price book reads.
pub(super) fn price_table(sections: &BTreeMap<String, PriceSection>) -> String {
    let mut table = String::new();
    for (name, price) in sections {
        let name = toml::Value::String(name.clone());
        let mut write = |line: std::fmt::Arguments<'_>| {
            // Writing to a String cannot fail.
            let _ = writeln!(table, "{line}");
        };
        write(format_args!("[[model]]\nname = {name}\n[[model.price]]"));
        write(format_args!("input = {:?}\noutput = {:?}", price.input.0, price.output.0));
        if let Some(cached) = price.cached_input {
            write(format_args!("cached_input = {:?}", cached.0));
        }
        if let Some(from) = price.effective_from {
            write(format_args!("effective_from = \"{from}\""));
        }
    }
    table
}
