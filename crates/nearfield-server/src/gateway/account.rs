//! Follows an answer to its end, and closes its row there: exactly once, whatever the end is.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use nearfield_api::{EngineFacts, Error, ErrorKind, Event, EventStream, Prompt, Request, Usage, Work};
use nearfield_router::attempts::Disconnect;
use nearfield_store::{AttemptEnd, End, Outcome, RowHandle};
use tokio::time::{Instant, timeout};

use super::circuits::Permit;
use super::opening::is_piece;
use super::pricing::{Pricing, Seller};
use super::receipt::{Receipt, ReceiptCounterfactual};

/// The books of one answer.
pub(super) struct Account {
    /// Open until the answer has ended.
    row: Option<RowHandle>,
    receipt: Receipt,
    pricing: Arc<Pricing>,
    seller: Seller,
    /// When the request was admitted.
    admitted: Instant,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    /// Pieces of the answer so far.
    deltas: u64,
    /// Size of the prompt, for an estimate where no count comes.
    prompt_tokens: u64,
    model: String,
    engine: Option<EngineFacts>,
    /// Why this backend answers, where that is not why the first candidate stood first.
    reason: Option<String>,
    permit: Permit,
    /// Whether the caller sees the answer as it comes.
    shown: bool,
    /// Whether the caller went away, and the answer is only read on to its usage.
    gone: bool,
}

/// What an account is made from.
pub(super) struct AccountParts {
    pub(super) row: RowHandle,
    pub(super) receipt: Receipt,
    pub(super) pricing: Arc<Pricing>,
    pub(super) seller: Seller,
    pub(super) admitted: Instant,
    pub(super) prompt_tokens: u64,
    pub(super) reason: Option<String>,
    pub(super) permit: Permit,
    pub(super) shown: bool,
}

impl Account {
    pub(super) fn new(parts: AccountParts) -> Self {
        let AccountParts { row, receipt, pricing, seller, admitted, prompt_tokens, reason, permit, shown } =
            parts;
        let model = receipt.fields().model;
        Self {
            row: Some(row),
            receipt,
            pricing,
            seller,
            admitted,
            first_token: None,
            last_token: None,
            deltas: 0,
            prompt_tokens,
            model,
            engine: None,
            reason,
            permit,
            shown,
            gone: false,
        }
    }

    /// Takes note of an event that came at a time.
    fn note(&mut self, event: &Event, at: Instant) {
        match event {
            Event::Started { model, engine } => {
                self.model.clone_from(model);
                self.engine.clone_from(engine);
                self.receipt.change(|fields| {
                    fields.model.clone_from(model);
                    fields.numerics = engine.as_ref().map(|engine| engine.numerics.clone());
                    fields.kernels = engine.as_ref().map(|engine| engine.kernels.clone());
                    fields.seed = engine.as_ref().map(|engine| engine.seed);
                });
            }
            Event::Delta { .. }
            | Event::Refusal { .. }
            | Event::Reasoning { .. }
            | Event::ToolCall { .. } => {
                self.deltas += 1;
                self.last_token = Some(at);
                if self.first_token.is_none() {
                    self.first_token = Some(at);
                    let ttft = milliseconds(at.duration_since(self.admitted));
                    self.receipt.change(|fields| fields.ttft_ms = Some(ttft));
                }
            }
            Event::Done { usage, work } => {
                self.permit.done();
                let outcome = if self.gone { Outcome::Cancelled } else { Outcome::Done };
                self.close(outcome, Some(*usage), work.as_ref());
            }
            _ => {}
        }
    }

    /// The answer failed. What the caller has seen a part of is truncated, whatever the reason was.
    fn fail(&mut self, kind: ErrorKind) {
        self.permit.failed(kind);
        let outcome = if self.gone || kind == ErrorKind::Cancelled {
            Outcome::Cancelled
        } else if self.shown && self.deltas > 0 {
            Outcome::Truncated
        } else {
            kind.into()
        };
        self.stop(outcome);
    }

    /// The answer ended without its end.
    fn stop(&mut self, outcome: Outcome) {
        let usage = (self.deltas > 0).then_some(Usage {
            input: self.prompt_tokens,
            output: self.deltas,
            measured: false,
            ..Usage::default()
        });
        self.close(outcome, usage, None);
    }

    /// Closes row and receipt; only the first call does anything.
    fn close(&mut self, outcome: Outcome, usage: Option<Usage>, work: Option<&Work>) {
        let Some(row) = self.row.take() else { return };
        let priced = usage.and_then(|usage| self.pricing.cost(&self.seller, &self.model, &usage, work));
        let counterfactual = usage.and_then(|usage| self.pricing.counterfactual(&usage));
        let energy_joules = work.and_then(|work| work.energy_joules);
        let (cost, price) = priced.unzip();
        let attempt = AttemptEnd { outcome: outcome.clone(), usage, cost, price: price.clone() };
        let end = End {
            outcome: outcome.clone(),
            reason: self.reason.take(),
            usage,
            ttft: self.first_token.map(|at| at.duration_since(self.admitted)),
            counterfactual: counterfactual.clone(),
            energy_joules,
            numerics: self.engine.as_ref().map(|engine| engine.numerics.clone()),
        };
        let sum = row.finish(Some(attempt), end);
        let speed = self.speed(usage);
        let duration = milliseconds(self.admitted.elapsed());
        self.receipt.change(|fields| {
            fields.outcome = Some(outcome);
            fields.usage = usage;
            fields.duration_ms = Some(duration);
            fields.tokens_per_second = speed;
            fields.energy_joules = energy_joules;
            (fields.drafted_tokens, fields.accepted_tokens) =
                work.map(|work| (work.drafted, work.accepted)).unzip();
            fields.draft_head_tokens = work.map(|work| work.accepted_of_head);
            fields.cost = sum;
            fields.price = price;
            fields.counterfactual =
                counterfactual.map(|other| ReceiptCounterfactual { price: other.price, cost: other.cost });
        });
    }

    /// Tokens after the first, by the time they took.
    fn speed(&self, usage: Option<Usage>) -> Option<f64> {
        let (first, last) = self.first_token.zip(self.last_token)?;
        let seconds = last.duration_since(first).as_secs_f64();
        let tokens = usage?.completion_tokens().saturating_sub(1);
        (tokens > 0 && seconds > 0.0).then(|| tokens as f64 / seconds)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // While panicking the row's own end says so.
        if !std::thread::panicking() {
            self.stop(Outcome::Cancelled);
        }
    }
}

/// A backend's answer whose end closes its row.
pub(super) struct Accounted(Option<Following>);

struct Following {
    events: EventStream,
    /// Events that were waited for before this backend was settled on, with the time at which they came.
    early: VecDeque<(Event, Instant)>,
    account: Account,
    disconnect: Disconnect,
}

impl Accounted {
    pub(super) fn new(
        events: EventStream,
        early: VecDeque<(Event, Instant)>,
        account: Account,
        disconnect: Disconnect,
    ) -> Self {
        Self(Some(Following { events, early, account, disconnect }))
    }
}

impl Stream for Accounted {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(following) = &mut self.0 else { return Poll::Ready(None) };
        let (event, ended) = ready!(following.poll(context));
        if ended {
            self.0 = None;
        }
        Poll::Ready(Some(event))
    }
}

impl Drop for Accounted {
    fn drop(&mut self) {
        let Some(mut following) = self.0.take() else { return };
        let Disconnect::Drain { time, pieces } = following.disconnect else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        // The caller went away in the middle of an answer that is paid for: its count is still to come.
        following.account.gone = true;
        let here = following.early.iter().filter(|(event, _)| is_piece(event)).count() as u64;
        let most = following.account.deltas.saturating_add(here).saturating_add(pieces);
        runtime.spawn(async move {
            let rest = async {
                let mut ended = false;
                while !ended && following.account.deltas < most {
                    (_, ended) = poll_fn(|context| following.poll(context)).await;
                }
            };
            // When time is up, or pieces are, the account closes with an estimate.
            drop(timeout(time, rest).await);
        });
    }
}

impl Following {
    /// The next event, and whether it is the last.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<(Result<Event, Error>, bool)> {
        let next = match self.early.pop_front() {
            Some((event, at)) => Some((Ok(event), at)),
            None => ready!(self.events.as_mut().poll_next(context)).map(|event| (event, Instant::now())),
        };
        let (event, at) = next.unwrap_or_else(|| (Err(cut()), Instant::now()));
        let ended = match &event {
            Ok(event) => {
                self.account.note(event, at);
                matches!(event, Event::Done { .. })
            }
            Err(error) => {
                self.account.fail(error.kind);
                true
            }
        };
        Poll::Ready((event, ended))
    }
}

/// The error of an answer that stops without its end.
pub(super) fn cut() -> Error {
    Error::new(ErrorKind::Upstream, "the backend's answer was cut before its end; try again")
}

/// Bytes of a request's content: what a backend elsewhere gets to see.
pub(super) fn content_bytes(request: &Request) -> u64 {
    let prompt = match &request.prompt {
        Prompt::Chat(messages) => messages
            .iter()
            .map(|message| message.bytes() + message.name.as_ref().map_or(0, String::len))
            .sum(),
        Prompt::Text { text, suffix } => text.len() + suffix.as_ref().map_or(0, String::len),
        Prompt::Tokens(tokens) => tokens.len().saturating_mul(size_of::<u32>()),
    };
    let stops: usize = request.stop.iter().map(String::len).sum();
    prompt.saturating_add(stops) as u64
}

/// Tokens of a prompt, where nobody counts them: about four bytes of text make one.
pub(super) fn estimated_tokens(request: &Request) -> u64 {
    match &request.prompt {
        Prompt::Tokens(tokens) => tokens.len() as u64,
        _ => content_bytes(request).div_ceil(4),
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}
