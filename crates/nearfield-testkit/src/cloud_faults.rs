//! The ways in which a cloud fails: the model's name selects the fault, such as `fault-S08`.
//!
//! S01 to S16 are the sixteen of a public catalogue of reliability tests; the others are failures in forms that single
//! providers have. Times are those of the catalogue by a scale.

use std::time::Duration;

use nearfield_api::bedrock::write_message;
use serde_json::{Value, json};

use crate::cloud_server::{CloudRequest, Script, delta, finish, usage};

/// Pieces of a whole answer.
pub const PIECES: usize = 60;
/// Tokens of a whole answer: prompt and completion.
pub const TOKENS: (u64, u64) = (11, 60);
/// How long S15 fails, at scale 1.
pub const FLAPPING: Duration = Duration::from_mins(1);
/// The seconds that S01 and S02 ask for; a header knows no fractions.
pub const RETRY_AFTER: u64 = 1;

/// The text of a whole answer.
pub fn whole_text() -> String {
    (0..PIECES).map(piece).collect()
}

fn piece(at: usize) -> String {
    format!("t{at} ")
}

/// A way to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// S01: 429 once, with Retry-After.
    RateLimitedOnce,
    /// S02: 429 always.
    RateLimited,
    /// S03: 500 once.
    FailsOnce,
    /// S04: 503 always.
    Unavailable,
    /// S05: a reset before any byte.
    Reset,
    /// S06: no response.
    Silent,
    /// S07: the first token after 20 s.
    SlowStart,
    /// S08: the stream is cut after 40 of 60 pieces.
    Cut,
    /// S09: a stall of 30 s in the middle.
    Stall,
    /// S10: a chunk that is no JSON.
    Malformed,
    /// S11: no `[DONE]`.
    NoDone,
    /// S12: the context does not fit.
    ContextLength,
    /// S13: the content filter refuses.
    ContentFilter,
    /// S14: cut in the middle, and who stands in rejects a prefilled answer.
    RejectsPrefill,
    /// S15: 503 for 60 s, then well.
    Flaps,
    /// S16: 503 always; the stand-in's own model and usage count.
    Accounting,
    /// 529, as Anthropic says that it is overloaded.
    Overloaded529,
    /// An error event in a stream with status 200, before any text.
    ErrorAfter200,
    /// `response.failed` in a stream of the Responses API.
    ResponseFailed,
    /// An exception frame in a binary event stream.
    ExceptionFrame,
    /// A frame whose checksum is wrong.
    BadChecksum,
}

impl Fault {
    /// Every one, in the catalogue's order.
    pub const ALL: [Self; 21] = [
        Self::RateLimitedOnce,
        Self::RateLimited,
        Self::FailsOnce,
        Self::Unavailable,
        Self::Reset,
        Self::Silent,
        Self::SlowStart,
        Self::Cut,
        Self::Stall,
        Self::Malformed,
        Self::NoDone,
        Self::ContextLength,
        Self::ContentFilter,
        Self::RejectsPrefill,
        Self::Flaps,
        Self::Accounting,
        Self::Overloaded529,
        Self::ErrorAfter200,
        Self::ResponseFailed,
        Self::ExceptionFrame,
        Self::BadChecksum,
    ];

    /// Its name in tables, and in the model's name behind `fault-`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RateLimitedOnce => "S01",
            Self::RateLimited => "S02",
            Self::FailsOnce => "S03",
            Self::Unavailable => "S04",
            Self::Reset => "S05",
            Self::Silent => "S06",
            Self::SlowStart => "S07",
            Self::Cut => "S08",
            Self::Stall => "S09",
            Self::Malformed => "S10",
            Self::NoDone => "S11",
            Self::ContextLength => "S12",
            Self::ContentFilter => "S13",
            Self::RejectsPrefill => "S14",
            Self::Flaps => "S15",
            Self::Accounting => "S16",
            Self::Overloaded529 => "529",
            Self::ErrorAfter200 => "error-after-200",
            Self::ResponseFailed => "response-failed",
            Self::ExceptionFrame => "exception-frame",
            Self::BadChecksum => "bad-checksum",
        }
    }

    /// What it does, in words for a table.
    pub const fn words(self) -> &'static str {
        match self {
            Self::RateLimitedOnce => "429 once, with Retry-After",
            Self::RateLimited => "429 always",
            Self::FailsOnce => "500 once",
            Self::Unavailable => "503 always",
            Self::Reset => "reset before the headers",
            Self::Silent => "no response",
            Self::SlowStart => "first token after 20 s",
            Self::Cut => "cut after 40 of 60 pieces",
            Self::Stall => "stall of 30 s in the middle",
            Self::Malformed => "a chunk that is no JSON",
            Self::NoDone => "no [DONE]",
            Self::ContextLength => "context_length_exceeded",
            Self::ContentFilter => "content filter",
            Self::RejectsPrefill => "cut, and the stand-in rejects a prefill",
            Self::Flaps => "503 for 60 s, then well",
            Self::Accounting => "503 always; whose model and usage count",
            Self::Overloaded529 => "529",
            Self::ErrorAfter200 => "an error event after status 200",
            Self::ResponseFailed => "response.failed after status 200",
            Self::ExceptionFrame => "an exception frame",
            Self::BadChecksum => "a frame with a wrong checksum",
        }
    }

    /// The model that selects it.
    pub fn model(self) -> String {
        format!("fault-{}", self.name())
    }

    /// The fault that a model's name selects.
    pub fn of(model: &str) -> Option<Self> {
        let name = model.strip_prefix("fault-")?;
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }

    /// What is said to the request that is the `nth` of its model, from 0, `since` the first one.
    pub fn script(self, scale: f64, nth: usize, since: Duration) -> Script {
        let seconds = |count: f64| Duration::from_secs_f64(count * scale);
        let error = |status, code: &str| {
            let body = json!({"error": {"message": "as the fault says", "type": code, "code": code}});
            Script::json(status, &body)
        };
        match self {
            Self::RateLimitedOnce if nth == 0 => limited(),
            Self::RateLimited => limited(),
            Self::FailsOnce if nth == 0 => error(500, "server_error"),
            Self::RateLimitedOnce | Self::FailsOnce => whole("m", TOKENS),
            Self::Unavailable | Self::Accounting => error(503, "unavailable"),
            Self::Reset => Script::new().reset(),
            Self::Silent => Script::new().silence(),
            Self::SlowStart => pieces(Script::stream().pause(seconds(20.0)), 0..PIECES)
                .event(&finish("stop"))
                .event("[DONE]")
                .end(),
            Self::Cut | Self::RejectsPrefill => pieces(Script::stream(), 0..40),
            Self::Stall => {
                let stalled = pieces(Script::stream(), 0..20).pause(seconds(30.0));
                pieces(stalled, 20..PIECES).event(&finish("stop")).event("[DONE]").end()
            }
            Self::Malformed => {
                let broken = pieces(Script::stream(), 0..20).event(r#"{"choices": [{"delta": {"cont"#);
                pieces(broken, 20..PIECES).event(&finish("stop")).event("[DONE]").end()
            }
            Self::NoDone => pieces(Script::stream(), 0..PIECES)
                .event(&finish("stop"))
                .event(&usage(TOKENS.0, TOKENS.1))
                .end(),
            Self::ContextLength => error(400, "context_length_exceeded"),
            Self::ContentFilter => error(400, "content_filter"),
            Self::Flaps if since < seconds(FLAPPING.as_secs_f64()) => error(503, "unavailable"),
            Self::Flaps => whole("m", TOKENS),
            Self::Overloaded529 => error(529, "overloaded_error"),
            Self::ErrorAfter200 => {
                let error =
                    json!({"error": {"message": "as the fault says", "type": "server_error", "code": 500}});
                Script::stream().event(&error.to_string()).end()
            }
            Self::ResponseFailed => response_failed(),
            Self::ExceptionFrame => {
                let mut frame = Vec::new();
                let headers = [(":message-type", "exception"), (":exception-type", "throttlingException")];
                write_message(&mut frame, &headers, br#"{"message":"as the fault says"}"#);
                binary(frame)
            }
            Self::BadChecksum => {
                let mut frame = Vec::new();
                let headers = [(":message-type", "event"), (":event-type", "messageStart")];
                write_message(&mut frame, &headers, br#"{"role":"assistant"}"#);
                if let Some(last) = frame.last_mut() {
                    *last ^= 1;
                }
                binary(frame)
            }
        }
    }
}

/// A good answer of sixty pieces, unless the request holds the beginning of its answer, which this cloud rejects.
pub fn stand_in(request: &CloudRequest) -> Script {
    let body = request.json();
    let last = body["messages"].as_array().and_then(|messages| messages.last());
    if last.is_some_and(|message| message["role"] == "assistant") {
        let body =
            json!({"error": {"message": "no prefill", "type": "invalid_request_error", "code": "prefill"}});
        return Script::json(400, &body);
    }
    whole("stand-in", TOKENS)
}

fn whole(model: &str, tokens: (u64, u64)) -> Script {
    let named = |event: String| event.replace(r#""model":"m""#, &format!(r#""model":"{model}""#));
    (0..PIECES)
        .fold(Script::stream(), |script, at| script.event(&named(delta(&piece(at)))))
        .event(&named(finish("stop")))
        .event(&named(usage(tokens.0, tokens.1)))
        .event("[DONE]")
        .end()
}

fn pieces(script: Script, range: std::ops::Range<usize>) -> Script {
    range.fold(script, |script, at| script.event(&delta(&piece(at))))
}

fn limited() -> Script {
    let seconds = RETRY_AFTER.to_string();
    let headers = [("Content-Type", "application/json"), ("Retry-After", seconds.as_str())];
    let body: Value = json!({"error": {"message": "slow down", "code": "rate_limit_exceeded"}});
    Script::answer(429, &headers, body.to_string())
}

fn response_failed() -> Script {
    let failed = json!({"type": "response.failed", "sequence_number": 1, "response": {"id": "resp_1",
        "object": "response", "status": "failed", "model": "m", "output": [],
        "error": {"code": "server_error", "message": "as the fault says"}}});
    let created = json!({"type": "response.created", "sequence_number": 0, "response": {"id": "resp_1",
        "object": "response", "status": "in_progress", "model": "m", "output": [], "error": null}});
    [created, failed]
        .iter()
        .fold(Script::stream(), |script, event| {
            let kind = event["type"].as_str().unwrap_or_default();
            script.chunk(format!("event: {kind}\ndata: {event}\n\n"))
        })
        .end()
}

fn binary(frame: Vec<u8>) -> Script {
    Script::stream_of("application/vnd.amazon.eventstream").chunk(frame).end()
}
