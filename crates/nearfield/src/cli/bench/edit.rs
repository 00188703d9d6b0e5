//! `nearfield bench --edit`: how much faster an answer comes that mostly repeats its prompt.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use nearfield_engine::{Engine, EngineOptions, Generate, SessionStats, Speculation, Step};
use nearfield_model::{ChatMessage, ChatOptions, Model, Text};
use serde_json::{Value, json};

use super::Spread;

/// What is to be edited.
const SOURCE: &str = include_str!("stock.py.txt");
/// The change.
const TASK: &str = "Rename the method `total_value` to `stock_value` wherever it occurs in this file, and change nothing \
                    else. Answer with the whole file in one code block.";
/// Tokens of the answer unless said otherwise: more than the file has.
const GENERATE: u32 = 768;

/// The task for one model, with an engine that guesses ahead and one that does not.
pub(super) struct EditBench {
    plain: Engine,
    speculating: Engine,
    request: Generate,
}

/// Decode speeds of a pair of runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    plain: f64,
    speculating: f64,
}

impl std::fmt::Display for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "plain {:.2}, speculation {:.2} tok/s", self.plain, self.speculating)
    }
}

/// Tokens and times of an answer.
#[derive(Debug, Default)]
struct Answer {
    tokens: Vec<u32>,
    stats: SessionStats,
}

impl EditBench {
    /// Starts both engines over the same weights.
    pub(super) fn start(
        path: &Path,
        model: &Arc<Model>,
        options: &EngineOptions,
        max_tokens: Option<u32>,
    ) -> Result<Self> {
        let text = Text::open(path)?;
        let request = Generate {
            tokens: prompt(&text)?,
            max_tokens: Some(max_tokens.unwrap_or(GENERATE) as usize),
            stop_tokens: text.stop_tokens().ids().to_vec(),
            ..Generate::default()
        };
        let room = request.tokens.len() + request.max_tokens.unwrap_or(0);
        let start = |speculation| {
            let context = options.context.or(Some(room));
            Engine::start(Arc::clone(model), &EngineOptions { speculation, context, ..options.clone() })
        };
        Ok(Self { plain: start(Speculation::Off)?, speculating: start(Speculation::Adaptive)?, request })
    }

    /// Runs the task both ways, and makes sure that the answers are the same.
    pub(super) fn measure(&self) -> Result<(Pair, SessionStats)> {
        let plain = answer(&self.plain, &self.request)?;
        let speculating = answer(&self.speculating, &self.request)?;
        if plain.tokens != speculating.tokens {
            bail!(
                "the answers with and without speculation differ; this is a fault of ours, please report it"
            );
        }
        let rate = |stats: &SessionStats| {
            stats.generated_tokens.saturating_sub(1) as f64 / stats.decode.as_secs_f64().max(1e-9)
        };
        let pair = Pair { plain: rate(&plain.stats), speculating: rate(&speculating.stats) };
        Ok((pair, speculating.stats))
    }
}

/// The prompt; a model without a chat template is shown the file, the task as a comment, and the beginning of the file.
fn prompt(text: &Text) -> Result<Vec<u32>> {
    if text.chat_template().is_some() {
        let content = format!("{TASK}\n\n```python\n{SOURCE}```\n");
        let message = ChatMessage::new("user", content);
        return Ok(text.encode_chat(&[message], &ChatOptions::default())?);
    }
    let beginning = SOURCE.lines().next().unwrap_or_default();
    Ok(text.encode_completion(&format!("{SOURCE}\n\n# {TASK}\n\n{beginning}\n"), None)?)
}

fn answer(engine: &Engine, request: &Generate) -> Result<Answer> {
    let mut session = engine.submit(request.clone())?;
    let mut answer = Answer::default();
    while let Some(step) = session.next_blocking() {
        match step? {
            Step::Token { token, .. } => answer.tokens.push(token),
            Step::Finished { .. } => {}
            Step::Done { stats } => answer.stats = stats,
        }
    }
    Ok(answer)
}

/// All pairs together.
pub(super) struct EditReport {
    plain: Spread,
    speculating: Spread,
    ratio: Spread,
    stats: SessionStats,
}

impl EditReport {
    pub(super) fn new(pairs: &[Pair], stats: SessionStats) -> Self {
        let all = |of: fn(&Pair) -> f64| Spread::new(pairs.iter().map(of).collect());
        Self {
            plain: all(|pair| pair.plain),
            speculating: all(|pair| pair.speculating),
            ratio: all(|pair| pair.speculating / pair.plain.max(1e-9)),
            stats,
        }
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "prompt_tokens": self.stats.prompt_tokens,
            "tokens": self.stats.generated_tokens,
            "drafted": self.stats.drafted,
            "accepted": self.stats.accepted,
            "plain_tokens_per_second": self.plain.json(),
            "speculating_tokens_per_second": self.speculating.json(),
            "ratio": self.ratio.json(),
        })
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let stats = &self.stats;
        let Spread { median, least, most } = self.ratio;
        vec![
            format!(
                "edit, {} tokens of prompt, {} of answer, the same both ways",
                stats.prompt_tokens, stats.generated_tokens
            ),
            format!("plain        {}", self.plain.text(2)),
            format!(
                "speculation  {}  {} of {} guesses right",
                self.speculating.text(2),
                stats.accepted,
                stats.drafted
            ),
            format!("ratio        {median:>8.2}        ({least:.2} to {most:.2})"),
        ]
    }
}
