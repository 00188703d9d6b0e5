//! One running answer: bytes of a reply in, events out.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::CONTENT_TYPE;
use nearfield_api::bedrock::EventStreamDecoder;
use nearfield_api::sse::{self, SseEvent};
use nearfield_api::{AnswerDecoder, Error, ErrorKind, Event, EventStream};
use tokio::time::{Instant, sleep_until, timeout};

use crate::client::{self, Body, Response};
use crate::upstream::{Upstream, silent, too_large};

/// One event of a stream: a chunk with the alternatives of many tokens stays far below.
const LARGEST_EVENT: usize = 4 * 1024 * 1024;
/// A whole answer, as a stream or as one body.
const LARGEST_ANSWER: usize = 256 * 1024 * 1024;
/// How long usage and `[DONE]` may follow the last choice's end.
const LONGEST_FAREWELL: Duration = Duration::from_secs(5);
/// How long and how much to read after the end so that the connection can be used again.
const LONGEST_DRAIN: Duration = Duration::from_millis(50);
const LARGEST_DRAIN: usize = 64 * 1024;

/// An answer that has begun to arrive. Dropping it closes the connection.
pub(crate) struct Answer {
    upstream: Arc<Upstream>,
    /// `None` once there is nothing more to read.
    reply: Option<Body>,
    form: Form,
    decoder: Box<dyn AnswerDecoder>,
    ready: VecDeque<Event>,
    /// Comes after what is ready.
    failure: Option<Error>,
    unfinished: u32,
    bytes: usize,
    /// When the first token is overdue.
    first_token: Instant,
    /// When the next sign of life is overdue.
    silence: Instant,
}

enum Form {
    /// Server-sent events; `None` once the decoder has been used up.
    Events(Option<sse::Decoder>),
    /// The binary framing of AWS's streams.
    Messages(Option<EventStreamDecoder>),
    /// One body, from a backend that does not stream.
    Whole(Vec<u8>),
}

impl Answer {
    /// Takes the reply to a request for so many choices, which was sent at `sent`, with a decoder for it.
    pub(crate) fn new(
        upstream: Arc<Upstream>,
        response: Response,
        decoder: Box<dyn AnswerDecoder>,
        choices: u32,
        sent: Instant,
    ) -> Result<Self, Error> {
        let (first_token, silence) =
            (sent + upstream.timeouts.first_token, Instant::now() + upstream.timeouts.idle);
        let form = match media_type(&response).as_deref() {
            Some("application/json") => Form::Whole(Vec::new()),
            Some("application/vnd.amazon.eventstream") => {
                Form::Messages(Some(EventStreamDecoder::new(LARGEST_EVENT)))
            }
            // Some servers do not say, or say that it is just text or bytes.
            None | Some("text/event-stream" | "text/plain" | "application/octet-stream") => {
                Form::Events(Some(sse::Decoder::new(LARGEST_EVENT)))
            }
            Some(_) => {
                return Err(upstream.error(Error::new(
                    ErrorKind::Upstream,
                    "The backend answered with something else than events or JSON, such as a web page; check its base \
                     URL, which usually ends in /v1.",
                )));
            }
        };
        Ok(Self {
            upstream,
            reply: Some(response.into_body()),
            form,
            decoder,
            ready: VecDeque::new(),
            failure: None,
            unfinished: choices,
            bytes: 0,
            first_token,
            silence,
        })
    }

    /// Waits for the first token. An error until then means that nothing was produced.
    pub(crate) async fn wait_for_token(&mut self) -> Result<(), Error> {
        while self.reply.is_some() && !self.has_token() {
            self.read().await;
        }
        // A whole answer that cannot be read to its end has given nothing.
        if self.has_token() && !self.ready.is_empty() {
            return Ok(());
        }
        self.failure.take().map_or(Ok(()), Err)
    }

    fn has_token(&self) -> bool {
        self.decoder.has_token()
    }

    /// The events from here on.
    pub(crate) fn into_stream(self) -> EventStream {
        Box::pin(futures_util::stream::unfold(self, |mut answer| async move {
            let item = answer.next().await?;
            Some((item, answer))
        }))
    }

    async fn next(&mut self) -> Option<Result<Event, Error>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if let Some(error) = self.failure.take() {
                return Some(Err(error));
            }
            if self.decoder.is_done() {
                self.drain().await;
            }
            self.reply.as_ref()?;
            self.read().await;
        }
    }

    /// Waits for the next bytes, or the end of them, and decodes.
    async fn read(&mut self) {
        let deadline = self.deadline();
        let received = tokio::select! {
            biased;
            received = receive(self.reply.as_mut()) => received,
            () = sleep_until(deadline) => return self.overdue(),
        };
        let result = match received {
            Ok(Some(bytes)) => self.take(&bytes),
            Ok(None) => self.end(),
            // The answer is whole: what broke off is only the farewell.
            Err(_) if self.unfinished == 0 => self.end(),
            Err(error) => Err(client::broken(&error)),
        };
        if let Err(error) = result {
            self.fail(error);
        }
    }

    fn deadline(&self) -> Instant {
        if self.has_token() { self.silence } else { self.silence.min(self.first_token) }
    }

    fn overdue(&mut self) {
        if self.unfinished == 0 {
            if let Err(error) = self.end() {
                self.fail(error);
            }
            return;
        }
        let timeouts = self.upstream.timeouts;
        if Instant::now() < self.silence {
            return self.fail(silent(timeouts.first_token));
        }
        self.fail(Error::new(
            ErrorKind::Timeout,
            format!(
                "The backend went silent for {} s in its answer; ask again.",
                timeouts.idle.as_secs_f32()
            ),
        ));
    }

    fn fail(&mut self, error: Error) {
        self.reply = None;
        self.failure = Some(self.upstream.error(error));
    }

    fn take(&mut self, bytes: &Bytes) -> Result<(), Error> {
        self.bytes = self.bytes.saturating_add(bytes.len());
        if self.bytes > LARGEST_ANSWER {
            return Err(too_large(LARGEST_ANSWER));
        }
        if !self.has_token() {
            self.is_alive();
        }
        let mut events = Vec::new();
        let framed = match &mut self.form {
            Form::Whole(body) => {
                body.extend_from_slice(bytes);
                self.is_alive();
                return Ok(());
            }
            Form::Events(None) | Form::Messages(None) => return Ok(()),
            Form::Events(Some(frames)) => frames.push(bytes, &mut events).map_err(unreadable),
            Form::Messages(Some(frames)) => frames.push(bytes, &mut events).map_err(unreadable),
        };
        if !events.is_empty() {
            self.is_alive();
        }
        for event in events {
            self.event(&event)?;
        }
        framed
    }

    /// A sign of life: the next may take as long again, or, after the last choice's end, a moment.
    fn is_alive(&mut self) {
        let idle = self.upstream.timeouts.idle;
        let wait = if self.unfinished == 0 { idle.min(LONGEST_FAREWELL) } else { idle };
        self.silence = Instant::now() + wait;
    }

    fn event(&mut self, event: &SseEvent) -> Result<(), Error> {
        let mut events = Vec::new();
        let result = self.decoder.push(event, &mut events);
        self.hand_out(events);
        result
    }

    fn hand_out(&mut self, events: Vec<Event>) {
        let ended = events.iter().filter(|event| matches!(event, Event::Finished { .. })).count();
        self.unfinished = self.unfinished.saturating_sub(ended as u32);
        self.ready.extend(events);
        if ended > 0 {
            self.is_alive();
        }
    }

    /// The reply has ended: so must the answer.
    fn end(&mut self) -> Result<(), Error> {
        self.reply = None;
        let mut events = Vec::new();
        let result = match &mut self.form {
            Form::Whole(body) => {
                self.decoder.whole(&std::mem::take(body), &mut events).inspect_err(|_| events.clear())
            }
            Form::Messages(frames) => {
                // A message that was cut is no end; what came before it decides.
                frames.take().map_or(Ok(()), EventStreamDecoder::finish).map_err(unreadable)?;
                self.decoder.finish(&mut events)
            }
            Form::Events(frames) => {
                let last = frames.take().map_or(Ok(None), sse::Decoder::finish).map_err(unreadable)?;
                if let Some(event) = last {
                    self.event(&event)?;
                }
                self.decoder.finish(&mut events)
            }
        };
        self.hand_out(events);
        result
    }

    /// Reads to the end of a complete answer, for a moment, so that the connection can serve another request.
    async fn drain(&mut self) {
        let Some(mut reply) = self.reply.take() else { return };
        let mut left = LARGEST_DRAIN;
        let rest = async {
            while let Ok(Some(chunk)) = reply.chunk().await {
                left = left.saturating_sub(chunk.len());
                if left == 0 {
                    break;
                }
            }
        };
        // Whether it ends in time decides over the connection only.
        drop(timeout(LONGEST_DRAIN, rest).await);
    }
}

async fn receive(reply: Option<&mut Body>) -> Result<Option<Bytes>, hyper::Error> {
    match reply {
        Some(reply) => reply.chunk().await,
        None => pending().await,
    }
}

fn unreadable(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Upstream, format!("The backend's answer cannot be read: {error}."))
}

/// The media type without parameters, in lower case.
fn media_type(response: &Response) -> Option<String> {
    let value = response.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    let media_type = value.split(';').next()?.trim().to_ascii_lowercase();
    (!media_type.is_empty()).then_some(media_type)
}
