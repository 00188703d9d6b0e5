//! One answer: asked of the gateway, handed on piece by piece, ended by the model, by Ctrl-C or by an error.

use std::future::Future;

use anyhow::Result;
use futures_util::StreamExt as _;
use nearfield_api::{Error, ErrorKind, Event, FinishReason, Request};
use nearfield_server::gateway::{Caller, Gateway, ReceiptFields};
use serde_json::{Value, json};

/// The key id under which the command line's requests are recorded.
const KEY_ID: &str = "cli";

/// An answer, or as much of it as came.
#[derive(Debug)]
pub(crate) struct Answered {
    /// The text.
    pub(crate) text: String,
    /// Why the model ended it.
    pub(crate) finish: Option<FinishReason>,
    /// Where it came from and what it took; absent when nothing was produced.
    pub(crate) receipt: Option<ReceiptFields>,
    /// How it came to its end.
    pub(crate) ending: Ending,
}

/// How an answer came to its end.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The backend said so.
    Complete,
    /// The person at the keyboard did not want more.
    Stopped,
    /// It failed.
    Failed(Error),
}

/// Asks, and gives each piece of text to `on_text` as it comes. When `stop` is ready, the answer is cancelled. The
/// result is an error only when `on_text` fails.
pub(crate) async fn ask(
    gateway: &Gateway,
    request: Request,
    stop: impl Future<Output = ()>,
    mut on_text: impl FnMut(&str) -> Result<()>,
) -> Result<Answered> {
    tokio::pin!(stop);
    let nothing = |ending| Answered { text: String::new(), finish: None, receipt: None, ending };
    let caller = Caller::new(KEY_ID);
    let answer = tokio::select! {
        answer = gateway.answer(&caller, request) => match answer {
            Ok(answer) => answer,
            Err(error) => return Ok(nothing(Ending::Failed(error))),
        },
        () = &mut stop => return Ok(nothing(Ending::Stopped)),
    };
    let (mut events, receipt) = (answer.events, answer.receipt);
    let mut answered = nothing(Ending::Complete);
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = &mut stop => {
                answered.ending = Ending::Stopped;
                break;
            }
        };
        match event {
            Some(Ok(Event::Delta { text, .. })) => {
                on_text(&text)?;
                answered.text.push_str(&text);
            }
            Some(Ok(Event::Finished { reason, .. })) => answered.finish = Some(reason),
            Some(Ok(Event::Done { .. })) => break,
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                answered.ending = Ending::Failed(error);
                break;
            }
            None => {
                let message = "the answer was cut before its end; try again";
                answered.ending = Ending::Failed(Error::new(ErrorKind::Upstream, message));
                break;
            }
        }
    }
    // The receipt is complete, and the ledger's row closed, when the stream has gone.
    drop(events);
    answered.receipt = Some(receipt.fields());
    Ok(answered)
}

impl Answered {
    /// The answer for scripts.
    pub(crate) fn json(&self) -> Value {
        let usage = self.receipt.as_ref().and_then(|receipt| receipt.usage).map(|usage| {
            let (prompt, completion) = (usage.prompt_tokens(), usage.completion_tokens());
            json!({
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt.saturating_add(completion),
            })
        });
        json!({
            "text": self.text,
            "finish_reason": self.finish.map(FinishReason::as_str),
            "usage": usage,
            "receipt": self.receipt,
        })
    }
}
