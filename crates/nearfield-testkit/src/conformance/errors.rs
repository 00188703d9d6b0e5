//! Errors, answers that nobody wants any more, and what is told without asking a model.

use std::time::Duration;

use futures_util::StreamExt as _;
use nearfield_api::{BackendLoad, Error, ErrorKind, Event, Message, Request, Role};
use tokio::time::{Instant, sleep};

use super::answer::{Ended, ask};
use super::said::{chat, hello, hello_of, says};
use super::{Check, Held, Subject, ensure, same};
use crate::plays::{HELLO, SMALL_CONTEXT};

/// How long the far side may take to notice something.
const NOTICE: Duration = Duration::from_secs(10);

pub(super) fn endless(subject: &Subject) -> Request {
    Request { max_tokens: None, ..hello_of(subject, &subject.models.endless) }
}

pub(super) fn too_long(subject: &Subject) -> Request {
    let text = "many words ".repeat(SMALL_CONTEXT / 5);
    let message = Message::new(Role::User, text);
    chat(subject, &subject.models.small, vec![message])
}

pub(super) fn empty(subject: &Subject) -> Request {
    chat(subject, &subject.models.plain, Vec::new())
}

pub(super) fn unknown_field(subject: &Subject) -> Request {
    let mut request = hello(subject);
    request.extra.insert("frobnicate".to_owned(), 1.into());
    request
}

/// The error of a check's request, which must come before anything else.
async fn error(subject: &Subject, check: Check) -> Result<Error, String> {
    match ask(subject, check.request(subject)).await? {
        Ended::Badly(answer, error) => {
            let shown = answer.choices.iter().any(|choice| choice.pieces > 0);
            ensure(!shown, || format!("text came before the error: {error:?}"))?;
            ensure(!error.message.is_empty(), || "the error says nothing".to_owned())?;
            Ok(error)
        }
        Ended::Well(answer) => Err(format!("there is an answer instead of an error: {answer:?}")),
    }
}

/// The documented error for what a backend does not do. Nothing is sent where that can be seen.
pub(super) async fn refused(
    subject: &Subject,
    check: Check,
    kind: ErrorKind,
    param: Option<&'static str>,
) -> Held {
    let before = subject.far.requests();
    let error = if check == Check::List {
        match subject.backend.models().await {
            Err(error) => error,
            Ok(models) => return Err(format!("it lists its models: {models:?}")),
        }
    } else {
        error(subject, check).await?
    };
    same("the error's kind", error.kind, kind)?;
    same("the field", error.param.as_deref(), param)?;
    same("what the far side got", subject.far.requests(), before)
}

/// An error that the far side tells, which names the backend.
pub(super) async fn of_far_side(subject: &Subject, check: Check, kind: ErrorKind) -> Held {
    let error = error(subject, check).await?;
    same("the error's kind", error.kind, kind)?;
    let name = format!("`{}`", subject.backend.name());
    ensure(!subject.is_named_in_errors || error.message.contains(&name), || format!("who says so? {error}"))
}

pub(super) async fn context_length(subject: &Subject) -> Held {
    let error = error(subject, Check::TooLong).await?;
    same("the error's kind", error.kind, ErrorKind::ContextLength)?;
    same("its code", error.code.as_deref(), Some("context_length_exceeded"))
}

pub(super) async fn no_messages(subject: &Subject) -> Held {
    let error = error(subject, Check::Empty).await?;
    same("the error's kind", error.kind, ErrorKind::InvalidRequest)
}

/// An error of one of these kinds after the first piece of text; in place of all text where it does not come in pieces.
pub(super) async fn in_the_middle(subject: &Subject, check: Check, kinds: &[ErrorKind]) -> Held {
    match ask(subject, check.request(subject)).await? {
        Ended::Well(answer) => Err(format!("it passes for a whole answer: {answer:?}")),
        Ended::Badly(answer, error) => {
            ensure(kinds.contains(&error.kind), || format!("the error is of another kind: {error:?}"))?;
            let text = if subject.streams { HELLO[0] } else { "" };
            same("the text before", answer.only()?.text.as_str(), text)
        }
    }
}

/// Drops an answer after its first text, or the wait for it where text comes only at the end.
pub(super) async fn cancel(subject: &Subject) -> Held {
    let asking = subject.backend.generate(Box::new(endless(subject)));
    if subject.streams {
        let mut events = asking.await.map_err(|error| format!("no answer: {error:?}"))?;
        loop {
            match events.next().await {
                Some(Ok(Event::Delta { text, .. })) if !text.is_empty() => break,
                Some(Ok(Event::Started { .. } | Event::Delta { .. })) => {}
                other => return Err(format!("instead of text came {other:?}")),
            }
        }
        ensure(subject.far.is_busy(), || "the far side has ended by itself".to_owned())?;
        drop(events);
    } else {
        tokio::select! {
            result = asking => return Err(format!("it has ended: {:?}", result.err())),
            busy = becomes(true, subject) => busy?,
        }
    }
    becomes(false, subject).await?;
    says(subject, hello(subject), &Subject::hello()).await
}

async fn becomes(busy: bool, subject: &Subject) -> Held {
    eventually(|| subject.far.is_busy() == busy, || format!("the far side has not become busy: {busy}")).await
}

async fn eventually(holds: impl Fn() -> bool, why: impl Fn() -> String) -> Held {
    let deadline = Instant::now() + NOTICE;
    while !holds() {
        ensure(Instant::now() < deadline, &why)?;
        sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

pub(super) async fn list(subject: &Subject) -> Held {
    for _ in 0..2 {
        let models = subject.backend.models().await.map_err(|error| format!("no list: {error:?}"))?;
        let ids: Vec<String> = models.into_iter().map(|model| model.id).collect();
        same("the list", ids, subject.listed.clone())?;
    }
    Ok(())
}

pub(super) async fn health(subject: &Subject) -> Held {
    let backend = &subject.backend;
    ensure(!backend.name().is_empty(), || "it has no name".to_owned())?;
    same("where it runs", backend.locality(), subject.locality)?;
    same("the number of endpoints", backend.endpoints().len(), subject.endpoints)?;
    let well = || {
        let endpoints = backend.endpoints();
        endpoints.iter().all(|endpoint| endpoint.up && !endpoint.draining && endpoint.outstanding_tokens == 0)
    };
    eventually(well, || format!("endpoints are not as they should be: {:?}", backend.endpoints())).await?;
    let load = || backend.load(&subject.models.plain, 1);
    if !subject.knows_its_load {
        return same("the load", load(), None);
    }
    let idle =
        |load: Option<BackendLoad>| load.is_some_and(|load| load.queued == 0 && load.free_cache == 1.0);
    eventually(|| idle(load()), || format!("it is not idle after all: {:?}", load())).await
}
