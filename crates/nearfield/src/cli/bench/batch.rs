//! `nearfield bench --batch`: several requests at once.

use std::time::Instant;

use anyhow::{Result, anyhow};
use nearfield_engine::{Engine, Generate, Session, Step};

use super::{Run, rate};

/// Runs the requests together. Prefill counts until the last of them has its first token, decode the tokens of all from
/// then until the first of them ends, while all are running.
pub(super) fn measure(engine: &Engine, requests: Vec<Generate>) -> Result<Run> {
    let prompt: usize = requests.iter().map(|request| request.tokens.len()).sum();
    let start = Instant::now();
    let sessions =
        requests.into_iter().map(|request| engine.submit(request)).collect::<Result<Vec<_>, _>>()?;
    let times = std::thread::scope(|scope| {
        let waiting: Vec<_> = sessions.into_iter().map(|session| scope.spawn(|| times(session))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Vec<Instant>>>| {
            thread
                .join()
                .map_err(|_| anyhow!("a thread that waits for an answer failed; please report it"))?
        };
        waiting.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    let began = times.iter().filter_map(|times| times.first()).max().copied().unwrap_or(start);
    let ended = times.iter().filter_map(|times| times.last()).min().copied().unwrap_or(start);
    let counts = |time: &&Instant| **time > began && **time <= ended;
    let decoded = times.iter().flatten().filter(counts).count();
    let first_token = began.saturating_duration_since(start);
    let decoding = ended.saturating_duration_since(began);
    Ok(Run { prefill: rate(prompt, first_token), decode: rate(decoded, decoding), first_token })
}

/// When each token came.
fn times(mut session: Session) -> Result<Vec<Instant>> {
    let mut times = Vec::new();
    while let Some(step) = session.next_blocking() {
        if matches!(step?, Step::Token { .. }) {
            times.push(Instant::now());
        }
    }
    Ok(times)
}
