//! From the engine's tokens to the events of an answer.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use nearfield_api::{Error, ErrorKind, Event, FinishReason, TokenLogprob, Usage, Work};
use nearfield_engine::{Session, SessionStats, Step};
use nearfield_model::detokenizer::Detokenizer;
use nearfield_model::output::{OutputEvent, OutputParser};
use nearfield_model::stop::{StopMatcher, StopOutcome};
use nearfield_model::tokenizer::Special;
use tokio::time::Instant;

use super::energy::{Meter, Reading};
use super::errors::engine_error;
use super::logprobs::{HeldLogprobs, entry};
use super::models::Lease;
use super::tools::AnswerForm;

/// One running answer. Dropping it cancels the engine's work.
pub(super) struct Answering {
    session: Session,
    lease: Lease,
    choices: Vec<Choice>,
    form: AnswerForm,
    /// Tokens of thoughts.
    reasoning: u64,
    /// Events that are ready to be handed out.
    ready: VecDeque<Event>,
    meter: Arc<Meter>,
    /// When the answer began, and what the counters showed then.
    began: (Instant, Option<Reading>),
    ended: bool,
}

/// One of the answers to a request.
struct Choice {
    detokenizer: Detokenizer,
    stop: StopMatcher,
    parser: OutputParser,
    logprobs: HeldLogprobs,
    finished: bool,
}

impl Answering {
    pub(super) fn new(
        lease: Lease,
        session: Session,
        started: Event,
        choices: u32,
        form: AnswerForm,
        stop: &StopMatcher,
        meter: Arc<Meter>,
    ) -> Self {
        let choice = || Choice {
            detokenizer: Detokenizer::new(Special::AsText).showing(Arc::clone(&form.shown)),
            stop: stop.clone(),
            parser: form.parser(),
            logprobs: HeldLogprobs::default(),
            finished: false,
        };
        Self {
            session,
            choices: (0..choices).map(|_| choice()).collect(),
            form,
            reasoning: 0,
            ready: VecDeque::from([started]),
            began: (Instant::now(), meter.read()),
            lease,
            meter,
            ended: false,
        }
    }

    /// Takes the engine's next step in.
    fn take(&mut self, step: Step) -> Result<(), Error> {
        match step {
            Step::Token { choice, token, logprob, alternatives } => {
                self.token(choice, token, logprob, &alternatives)
            }
            Step::Finished { choice, reason } => {
                let reason = match reason {
                    nearfield_engine::FinishReason::Stop => FinishReason::Stop,
                    nearfield_engine::FinishReason::Length => FinishReason::Length,
                };
                self.finish(choice, reason)
            }
            Step::Done { stats } => {
                self.done(&stats);
                Ok(())
            }
        }
    }

    fn token(
        &mut self,
        index: u32,
        token: u32,
        logprob: Option<f32>,
        alternatives: &[(u32, f32)],
    ) -> Result<(), Error> {
        let tokenizer = self.lease.text().tokenizer();
        let choice = running(&mut self.choices, index)?;
        let mut text = String::new();
        choice.detokenizer.push(tokenizer, token, &mut text).map_err(|error| {
            Error::new(ErrorKind::Internal, format!("the model produced what is no token: {error}"))
        })?;
        let told = logprob.map(|logprob| entry(tokenizer, token, logprob, alternatives));
        choice.logprobs.push(told, text.len());
        let mut shown = String::new();
        let outcome = choice.stop.push(&text, &mut shown);
        let logprobs = choice.logprobs.show(shown.len());
        let mut events = Vec::new();
        let thinks = choice.parser.in_thought();
        choice.parser.push(&shown, &mut events);
        self.reasoning += u64::from(thinks || choice.parser.in_thought());
        let stopped = matches!(outcome, StopOutcome::Stopped(_));
        if stopped {
            choice.parser.finish(&mut events);
        }
        let called = choice.parser.calls() > 0;
        let ends = stopped || called && self.form.one_call;
        choice.finished = ends;
        self.tell(index, events, logprobs, true);
        if ends {
            self.session.end_choice(index);
            let reason = if called { FinishReason::ToolCalls } else { FinishReason::Stop };
            self.ready.push_back(Event::Finished { choice: index, reason });
        }
        Ok(())
    }

    /// Turns parts of an output into events. `always` asks for an event in any case, also where text waits: time to
    /// first token and counts hang on it.
    fn tell(&mut self, choice: u32, parts: Vec<OutputEvent>, logprobs: Vec<TokenLogprob>, always: bool) {
        let mut logprobs = logprobs;
        let before = self.ready.len();
        for part in parts {
            match part {
                OutputEvent::Text(text) => {
                    let logprobs = std::mem::take(&mut logprobs);
                    self.ready.push_back(Event::Delta { choice, text, logprobs });
                }
                OutputEvent::Reasoning(text) => {
                    self.ready.push_back(Event::Reasoning { choice, text, opaque: None });
                }
                OutputEvent::Call { index, name, arguments } => {
                    let call = |id, name, arguments| Event::ToolCall {
                        choice,
                        index,
                        id,
                        name,
                        arguments,
                        opaque: None,
                    };
                    let id = self.form.call_id(choice, index);
                    self.ready.push_back(call(Some(id), Some(name), String::new()));
                    self.ready.push_back(call(None, None, arguments));
                    if self.form.one_call {
                        break;
                    }
                }
            }
        }
        if !logprobs.is_empty() || always && self.ready.len() == before {
            self.ready.push_back(Event::Delta { choice, text: String::new(), logprobs });
        }
    }

    /// The engine has ended a choice: what was held back is part of the answer.
    fn finish(&mut self, index: u32, mut reason: FinishReason) -> Result<(), Error> {
        let choice = running(&mut self.choices, index)?;
        choice.finished = true;
        let (mut text, mut shown) = (String::new(), String::new());
        choice.detokenizer.finish(&mut text);
        let logprobs = if let StopOutcome::Stopped(_) = choice.stop.push(&text, &mut shown) {
            reason = FinishReason::Stop;
            choice.logprobs.show(shown.len())
        } else {
            choice.stop.finish(&mut shown);
            choice.logprobs.finish()
        };
        let mut events = Vec::new();
        choice.parser.push(&shown, &mut events);
        choice.parser.finish(&mut events);
        if choice.parser.calls() > 0 && reason == FinishReason::Stop {
            reason = FinishReason::ToolCalls;
        }
        self.tell(index, events, logprobs, false);
        self.ready.push_back(Event::Finished { choice: index, reason });
        Ok(())
    }

    fn done(&mut self, stats: &SessionStats) {
        let cached = stats.cached_tokens.min(stats.prompt_tokens);
        let (accepted, drafted) = (stats.accepted as u64, stats.drafted as u64);
        let predicted = u64::from(self.form.predicted);
        let usage = Usage {
            accepted_prediction: accepted * predicted,
            rejected_prediction: drafted.saturating_sub(accepted) * predicted,
            input: (stats.prompt_tokens - cached) as u64,
            cached_input: cached as u64,
            output: (stats.generated_tokens as u64).saturating_sub(self.reasoning),
            reasoning: self.reasoning.min(stats.generated_tokens as u64),
            measured: true,
            ..Usage::default()
        };
        let work = Work {
            busy: stats.busy,
            energy_joules: self.energy(stats),
            drafted,
            accepted,
            accepted_of_head: stats.head_accepted as u64,
        };
        self.ready.push_back(Event::Done { usage, work: Some(work) });
    }

    /// This answer's part of the energy since it began: by its part of the time.
    fn energy(&self, stats: &SessionStats) -> Option<f64> {
        let (began, reading) = &self.began;
        let joules = self.meter.joules_since(reading.as_ref()?)?;
        let seconds = began.elapsed().as_secs_f64();
        let share = if seconds > 0.0 { (stats.busy.as_secs_f64() / seconds).min(1.0) } else { 1.0 };
        Some(joules * share)
    }

    /// The next step's events, or the end.
    fn advance(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<(), Error>>> {
        match self.session.poll_next(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Ok(step))) => Poll::Ready(Some(self.take(step))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(engine_error(error)))),
        }
    }
}

fn running(choices: &mut [Choice], index: u32) -> Result<&mut Choice, Error> {
    choices.get_mut(index as usize).filter(|choice| !choice.finished).ok_or_else(|| {
        Error::new(
            ErrorKind::Internal,
            "the engine went on with a choice that had ended; this is a fault of ours",
        )
    })
}

impl Stream for Answering {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(event) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            match this.advance(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => this.ended = true,
                Poll::Ready(Some(Ok(()))) => {}
                Poll::Ready(Some(Err(error))) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}
