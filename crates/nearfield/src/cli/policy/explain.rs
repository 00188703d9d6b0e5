//! `nearfield policy explain`: where a request would go, and why one went where it went.

mod past;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use jiff::Zoned;
use nearfield_privacy::{DataClass, Treatment};
use nearfield_router::rules::{Connectivity, Day, Example, KeyTerms, Verdict};
use serde_json::json;

use super::super::options::ConfigArgs;
use super::{listed, rules};
use crate::app::App;
use crate::config::RulesFile;
use crate::failure::UsageError;
use crate::output::Stdout;

/// Say where a request would go, and why; or why one went where it went. Nothing is sent
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExplainCommand {
    /// The prompt of a request that might come
    #[arg(value_name = "TEXT", required_unless_present = "request")]
    text: Option<String>,

    /// Explain the request with this id instead: as the ledger, a reply's `id` or its x-request-id names it
    #[arg(long, value_name = "ID", conflicts_with_all = ["text", "AskedArgs", "AroundArgs"])]
    request: Option<String>,

    /// Print a JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    config: ConfigArgs,

    #[command(flatten)]
    asked: AskedArgs,

    #[command(flatten)]
    around: AroundArgs,
}

const EXAMPLES: &str = "\
Examples:
  nearfield policy explain --key desk \"Answer jo@example.org\"
  nearfield policy explain --key desk --tools --time 23:10 --day sat \"Book a table\"
  nearfield policy explain --request 019ac7f2-9c1d-7b7e-8b5a-0d7f3f1f2a11

How complex a request is nobody measures, so there is no flag for it: rules that ask for it never apply.";

/// What there is to know of the request and its caller.
#[derive(Debug, Args)]
#[command(next_help_heading = "The request")]
struct AskedArgs {
    /// The key's name or id, as in the policy file
    #[arg(long, value_name = "KEY", default_value = "cli")]
    key: String,

    /// The model
    #[arg(long, value_name = "MODEL", default_value = "")]
    model: String,

    /// The class that the caller claims: public, internal, personal, health or secret
    #[arg(long, value_name = "CLASS", value_parser = class)]
    claim: Option<DataClass>,

    /// The only backends that the caller wants, with commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    want: Option<Vec<String>>,

    /// The caller wants the answer from this machine only
    #[arg(long)]
    local_only: bool,

    /// Tokens of the prompt [default: an estimate from TEXT]
    #[arg(long, value_name = "N")]
    tokens: Option<u64>,

    /// The request brings tools
    #[arg(long)]
    tools: bool,

    /// A person's name in TEXT that the model of `[detection.names]` would find; may be given several times
    #[arg(long, value_name = "NAME")]
    person: Vec<String>,

    /// A place in TEXT that it would find; may be given several times
    #[arg(long, value_name = "NAME")]
    place: Vec<String>,

    /// Parts that cannot be looked into, such as images
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    unscannable: usize,
}

impl AskedArgs {
    /// Names and places as a model lists them; `None` where nobody has looked for them.
    fn names(&self) -> Option<String> {
        let persons = self.person.iter().map(|name| format!("person: {name}"));
        let lines: Vec<String> =
            persons.chain(self.place.iter().map(|name| format!("place: {name}"))).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }
}

/// What else rules look at.
#[derive(Debug, Args)]
#[command(next_help_heading = "The circumstances")]
struct AroundArgs {
    /// Local time, as 14:30 [default: now]
    #[arg(long, value_name = "TIME", value_parser = time)]
    time: Option<String>,

    /// Day of the week, mon to sun [default: today]
    #[arg(long, value_name = "DAY", value_enum, hide_possible_values = true)]
    day: Option<DayName>,

    /// Dollars left of the key's month, where it has a limit [default: as the ledger has it]
    #[arg(long, value_name = "DOLLARS", value_parser = number, allow_negative_numbers = true)]
    dollars_left: Option<f64>,

    /// Requests that wait for the local engine [default: 0]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    queued: u32,

    /// The share of the local engine's cache that is free, 0 to 1 [default: not known, as before a model is loaded]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    free_cache: Option<f64>,

    /// Seconds until the local engine's first token, as it predicts them [default: not known]
    #[arg(long, value_name = "SECONDS", value_parser = number)]
    first_token: Option<f64>,

    /// Whether there is a network: online or offline [default: online]
    #[arg(long, value_name = "STATE", value_enum, hide_possible_values = true)]
    connectivity: Option<ConnectivityName>,
}

/// Days as the policy file writes them.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum DayName {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

/// The network as the policy file writes it.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ConnectivityName {
    Online,
    Offline,
}

fn class(name: &str) -> Result<DataClass, String> {
    DataClass::from_name(name)
        .ok_or_else(|| "known are public, internal, personal, health, secret".to_owned())
}

fn time(text: &str) -> Result<String, String> {
    let parts = text
        .split_once(':')
        .and_then(|(hour, minute)| Some((hour.parse::<u16>().ok()?, minute.parse::<u16>().ok()?)));
    match parts {
        Some((hour, minute)) if hour < 24 && minute < 60 => Ok(text.to_owned()),
        _ => Err("it is written as 14:30".to_owned()),
    }
}

fn number(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|number: &f64| number.is_finite())
        .ok_or_else(|| "it must be a number".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    number(text)
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "it must be a number from 0 to 1".to_owned())
}

/// The key's money: what is left of its month, and the limit.
type Money = Option<(f64, f64)>;

impl ExplainCommand {
    pub(super) async fn run(self, app: &App, stdout: &mut Stdout) -> Result<()> {
        if let Some(id) = &self.request {
            return past::explain(app, id, self.config.load()?.rules.as_ref(), self.json, stdout).await;
        }
        let file = rules(&self.config)?;
        let terms = file.rules.key_terms(&self.asked.key, None).cloned().unwrap_or_default();
        let money = self.money(app, &terms).await?;
        self.decide(&file, &terms, money, stdout)
    }

    /// What is left of the key's month.
    async fn money(&self, app: &App, terms: &KeyTerms) -> Result<Money> {
        let key = &self.asked.key;
        let Some(limit) = terms.dollars_per_month else {
            if self.around.dollars_left.is_some() {
                let problem = format!(
                    "the key `{key}` has no `dollars_per_month` in the policy file, so rules know nothing of what is left \
                     of it; leave --dollars-left out"
                );
                return Err(UsageError(problem).into());
            }
            return Ok(None);
        };
        if let Some(left) = self.around.dollars_left {
            return Ok(Some((left, limit)));
        }
        // Rows have the key's id, also where the policy file names it.
        let known = app.keys()?.list()?.into_iter();
        let found = known.filter(|one| one.revoked.is_none()).find(|one| one.id == *key || one.name == *key);
        let id = found.map_or_else(|| key.clone(), |one| one.id);
        let began = Zoned::now().first_of_month().and_then(|day| day.start_of_day());
        let began = began.context("cannot tell when this month began")?.timestamp();
        let ledger = app.ledger().await?;
        let spent = ledger.spent(&id, began).await;
        ledger.close().await?;
        Ok(Some((limit - spent?.dollars(), limit)))
    }

    fn decide(self, file: &RulesFile, terms: &KeyTerms, money: Money, stdout: &mut Stdout) -> Result<()> {
        let json = self.json;
        let of = |what: &str, value: &Option<String>| value.as_ref().map(|value| format!(" {what} {value}"));
        let bound =
            [of("of", &terms.subject), of("for", &terms.purpose)].into_iter().flatten().collect::<String>();
        let key = format!("key: {}{bound}", self.asked.key);
        let example = self.example(money);
        let (day, time) = (example.day, example.time.clone());
        let (verdict, survey) = example.decide(&file.rules, file.backends(), &file.rules.detector()?)?;
        let Verdict { candidates, rule, class, steps, treatments, retention, .. } = &verdict;
        let masked: Vec<String> = survey
            .counts()
            .keys()
            .filter(|&&entity| treatments.of(entity, entity.class()) != Treatment::Pass)
            .map(ToString::to_string)
            .collect();
        if json {
            let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
            return stdout.json(&json!({
                "subject": terms.subject, "purpose": terms.purpose,
                "candidates": candidates, "rule": rule, "class": class, "masked": masked,
                "retention": retention, "policy_hash": file.rules.hash(), "time": time, "day": day,
                "dollars_left": money.map(|(left, _)| left), "steps": steps,
            }));
        }
        stdout.line(&key)?;
        let (day, time) = (json!(day), time.unwrap_or_default());
        stdout.line(&format!("asked at: {} {time}", day.as_str().unwrap_or_default()))?;
        if let Some((left, limit)) = money {
            stdout.line(&format!("money: ${left:.4} of ${limit:.4} a month are left"))?;
        }
        for step in steps {
            stdout.line(&step.to_string())?;
        }
        stdout.line(&format!("masked before it leaves: {}", listed(&masked)))?;
        stdout.line(&format!("candidates: {}", listed(candidates)))
    }

    /// The request and its circumstances, with the clock's time and day where none is given.
    fn example(self, money: Money) -> Example {
        let Self { text, asked, around, .. } = self;
        let now = Zoned::now();
        let today = || Day::from_monday(u8::try_from(now.weekday().to_monday_zero_offset()).unwrap_or(0));
        let connectivity = match around.connectivity {
            Some(ConnectivityName::Offline) => Connectivity::Offline,
            _ => Connectivity::Online,
        };
        Example {
            names: asked.names(),
            key: asked.key,
            model: asked.model,
            text: text.unwrap_or_default(),
            claim: asked.claim,
            want: asked.want,
            local_only: asked.local_only,
            tokens: asked.tokens,
            tools: asked.tools,
            unscannable: asked.unscannable,
            time: Some(around.time.unwrap_or_else(|| format!("{:02}:{:02}", now.hour(), now.minute()))),
            day: Some(around.day.map_or_else(today, DayName::day)),
            dollars_left: money.map(|(left, _)| left),
            queued: around.queued,
            free_cache: around.free_cache,
            first_token: around.first_token,
            connectivity,
            ..Example::default()
        }
    }
}

impl DayName {
    const fn day(self) -> Day {
        match self {
            Self::Mon => Day::Mon,
            Self::Tue => Day::Tue,
            Self::Wed => Day::Wed,
            Self::Thu => Day::Thu,
            Self::Fri => Day::Fri,
            Self::Sat => Day::Sat,
            Self::Sun => Day::Sun,
        }
    }
}
