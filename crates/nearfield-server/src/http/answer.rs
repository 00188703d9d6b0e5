//! From a parsed request to its reply: whole, or piece by piece.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use jiff::Timestamp;
use nearfield_api::openai::{Endpoint, ReplyCollector, ReplyHead, StreamEncoder, StreamOptions};
use nearfield_api::sse::write_comment;
use nearfield_api::{Error, ErrorKind, Event, EventStream, Request};
use tokio::time::{Instant, timeout};

use super::progress::{Asked, Progress};
use super::record::Record;
use super::reply::{error_response, header_text, json};
use super::reply_body::ReplyBody;
use super::{Reply, Service};
use crate::gateway::{Answer, Caller, Gate, Receipt, Whole, event_bytes};

/// Where an answer came from.
const BACKEND: HeaderName = HeaderName::from_static("x-nearfield-backend");
const LOCALITY: HeaderName = HeaderName::from_static("x-nearfield-locality");
const REASON: HeaderName = HeaderName::from_static("x-nearfield-reason");

/// An answer in the making. Dropping it cancels the backend's work.
struct Running {
    events: EventStream,
    receipt: Receipt,
    progress: Progress,
}

impl Running {
    /// The next event. An answer that stops without its end is an error, like one that fails.
    async fn next(&mut self) -> Result<Event, Error> {
        let event = self.events.next().await.unwrap_or_else(|| {
            Err(Error::new(ErrorKind::Upstream, "the backend's answer was cut before its end; try again"))
        });
        match event {
            Ok(event) => {
                let receipt = &self.receipt;
                self.progress.note(&event, || receipt.ttft_ms());
                Ok(event)
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&self, error: Error) -> Error {
        self.progress.record().failed(error.kind);
        error
    }

    /// Puts away what an answer that is over leaves behind. It takes a while, for which the reply's end need not wait.
    fn put_away(self) {
        let Self { events, .. } = self;
        tokio::spawn(async move { drop(events) });
    }
}

/// Asks the gateway, and writes what comes back.
pub(super) async fn generate(
    service: &Service,
    record: &Arc<Record>,
    caller: &Caller,
    request: Box<Request>,
    options: StreamOptions,
) -> Reply {
    let streamed = request.stream;
    let mut head = ReplyHead::new(&request, "", Timestamp::now().as_second().unsigned_abs());
    let asked = Asked::new(service);
    let gate = if streamed {
        Gate::FirstToken(Some(Instant::now() + service.limits.first_event))
    } else {
        let pulse = Arc::clone(&service.pulse);
        Gate::Whole(Whole { bytes: service.limits.answer_bytes, beat: Arc::new(move || pulse.beat()) })
    };
    let answer = match service.gateway.start(caller, request, gate).await {
        Ok(answer) => answer,
        Err(unanswered) => {
            if let Some(id) = &unanswered.id {
                record.answered(id, "");
            }
            return error_response(&unanswered.error);
        }
    };
    record.answered(&answer.id, &answer.backend);
    head.id = match head.endpoint {
        Endpoint::Chat => format!("chatcmpl-{}", answer.id),
        Endpoint::Completions => format!("cmpl-{}", answer.id),
    };
    let headers = headers(&answer);
    let progress = Progress::new(asked, service, record, &answer.backend, streamed);
    let running = Running { events: answer.events, receipt: answer.receipt, progress };
    let reply = if streamed {
        Ok(stream(service, running, StreamEncoder::new(head, options)))
    } else {
        // Boxed, so that no request takes room for it until it is answered.
        Box::pin(collect(service.limits.answer_bytes, running, ReplyCollector::new(head))).await
    };
    let mut response = reply.unwrap_or_else(|error| error_response(&error));
    response.headers_mut().extend(headers);
    response
}

/// Where the answer came from, for those who do not read bodies.
fn headers(answer: &Answer) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(BACKEND, header_text(&answer.backend));
    headers.insert(LOCALITY, HeaderValue::from_static(answer.locality.as_str()));
    headers.insert(REASON, header_text(&answer.reason));
    headers
}

/// Gathers the whole answer into one body of bounded size.
async fn collect(limit: usize, mut running: Running, mut collector: ReplyCollector) -> Result<Reply, Error> {
    let mut bytes = 0_usize;
    loop {
        let event = running.next().await?;
        bytes = bytes.saturating_add(event_bytes(&event));
        if bytes > limit {
            let message = format!("the answer is larger than {limit} bytes; ask for it as a stream");
            return Err(running.failed(Error::new(ErrorKind::Internal, message)));
        }
        let last = matches!(event, Event::Done { .. });
        collector.push(event).map_err(|error| running.failed(error))?;
        if last {
            let body = collector.finish(running.receipt.to_json().as_deref());
            let reply = body.map(|text| json(StatusCode::OK, text)).map_err(|error| running.failed(error));
            running.put_away();
            return reply;
        }
    }
}

/// A streamed answer between two frames.
struct Streaming {
    running: Option<Running>,
    encoder: Option<StreamEncoder>,
    keep_alive: Duration,
}

/// The reply of a streamed answer. The gateway has waited for the first token, so that an error before it still had a
/// proper status; after its patience ran out the stream begins with silence.
fn stream(service: &Service, running: Running, encoder: StreamEncoder) -> Reply {
    let keep_alive = service.limits.keep_alive;
    let streaming = Streaming { running: Some(running), encoder: Some(encoder), keep_alive };
    let frames = futures_util::stream::unfold(streaming, |mut streaming| async move {
        streaming.frames().await.map(|frames| (frames, streaming))
    });
    let mut response = Response::new(ReplyBody::Pieces(Box::pin(frames)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl Streaming {
    /// The next bytes to send; `None` after the last.
    async fn frames(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        while out.is_empty() {
            let running = self.running.as_mut()?;
            let Ok(event) = timeout(self.keep_alive, running.next()).await else {
                write_comment(&mut out, "keep-alive");
                break;
            };
            let last = matches!(event, Ok(Event::Done { .. }));
            let written =
                event.and_then(|event| self.encoder.as_mut().map_or(Ok(()), |e| e.push(&event, &mut out)));
            match written {
                Ok(()) if !last => {}
                Ok(()) => self.end(&mut out),
                Err(error) => self.fail(&error, &mut out),
            }
        }
        Some(Bytes::from(out))
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        let (Some(running), Some(encoder)) = (self.running.take(), self.encoder.take()) else { return };
        if let Err(error) = encoder.finish(running.receipt.to_json().as_deref(), out) {
            let error = running.failed(error);
            nearfield_api::sse::write_event(out, None, &nearfield_api::openai::error_body(&error));
        }
        running.put_away();
    }

    fn fail(&mut self, error: &Error, out: &mut Vec<u8>) {
        if let (Some(running), Some(encoder)) = (self.running.take(), self.encoder.take()) {
            running.progress.record().failed(error.kind);
            encoder.error(error, out);
        }
    }
}
