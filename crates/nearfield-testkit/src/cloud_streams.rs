//! Streamed answers in the dialects of all providers: whole ones, those that are cut off, those that never end, and those
//! that fail in the middle.

use nearfield_api::Dialect;
use nearfield_api::bedrock::write_message;
use serde_json::{Value, json};

use crate::cloud_dialects::{Asked, frames};
use crate::cloud_server::Script;
use crate::plays::{Course, HELLO, Play};

/// The frames of a streamed answer.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    frames: Vec<Vec<u8>>,
    /// How many frames it takes until something is said.
    begun: Option<usize>,
}

impl Frames {
    pub(crate) fn push(&mut self, frame: impl Into<Vec<u8>>) {
        self.frames.push(frame.into());
    }

    /// An event whose data is JSON.
    pub(crate) fn data(&mut self, data: &Value) {
        self.push(format!("data: {data}\n\n"));
    }

    /// An event with its type as its name.
    pub(crate) fn named(&mut self, data: &Value) {
        self.push(named(data));
    }

    /// Something has been said.
    pub(crate) fn has_begun(&mut self) {
        self.begun.get_or_insert(self.frames.len());
    }

    /// Leaves out what comes after the first thing that is said.
    fn cut(&mut self) {
        self.frames.truncate(self.begun.unwrap_or(0));
    }
}

fn named(data: &Value) -> Vec<u8> {
    let kind = data["type"].as_str().unwrap_or_default();
    format!("event: {kind}\ndata: {data}\n\n").into_bytes()
}

/// A stream that fails after its first text, as the provider says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The media type of the stream.
    pub media_type: &'static str,
    /// All that comes up to the first piece of text, which is [`BEGINNING`].
    pub begin: Vec<u8>,
    /// The frame that tells of the failure.
    pub fault: Vec<u8>,
}

/// What a [`Broken`] stream says before it fails.
pub const BEGINNING: &str = HELLO[0];
/// The provider's words for its failure.
const COMPLAINT: &str = "as the fault says";

/// A stream of a dialect that fails.
pub fn broken(dialect: Dialect) -> Broken {
    let asked = Asked { dialect, model: "m".to_owned(), amazon: false };
    let mut frames = frames(&asked, &Play::hello());
    frames.cut();
    Broken { media_type: media_type(dialect), begin: frames.frames.concat(), fault: fault(dialect) }
}

fn fault(dialect: Dialect) -> Vec<u8> {
    match dialect {
        Dialect::OpenAiChat => {
            let error =
                json!({"message": COMPLAINT, "type": "overloaded_error", "param": null, "code": null});
            format!("data: {}\n\n", json!({"error": error})).into_bytes()
        }
        Dialect::OpenAiResponses => {
            let failed = json!({"id": "resp_1", "object": "response", "created_at": 1, "status": "failed", "model": "m",
                "output": [], "parallel_tool_calls": true, "tool_choice": "auto", "tools": [], "metadata": {},
                "error": {"code": "rate_limit_exceeded", "message": COMPLAINT}, "incomplete_details": null,
                "instructions": null, "temperature": 1.0, "top_p": 1.0, "usage": null});
            named(&json!({"type": "response.failed", "sequence_number": 99, "response": failed}))
        }
        Dialect::Anthropic => {
            named(&json!({"type": "error", "error": {"type": "overloaded_error", "message": COMPLAINT}}))
        }
        Dialect::Gemini => {
            let error = json!({"code": 503, "message": COMPLAINT, "status": "UNAVAILABLE"});
            format!("data: {}\r\n\r\n", json!({"error": error})).into_bytes()
        }
        Dialect::Bedrock => {
            let mut frame = Vec::new();
            let headers = [
                (":exception-type", "throttlingException"),
                (":content-type", "application/json"),
                (":message-type", "exception"),
            ];
            write_message(&mut frame, &headers, json!({"message": COMPLAINT}).to_string().as_bytes());
            frame
        }
    }
}

const fn media_type(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Bedrock => "application/vnd.amazon.eventstream",
        _ => "text/event-stream",
    }
}

/// An answer in frames.
pub(crate) fn stream(asked: &Asked, play: &Play) -> Script {
    let mut frames = frames(asked, play);
    if play.course != Course::Whole {
        frames.cut();
    }
    if play.course == Course::Fails {
        frames.push(fault(asked.dialect));
    }
    let script = Script::stream_of(media_type(asked.dialect));
    let script = if asked.dialect == Dialect::Bedrock {
        // Messages of AWS's framing and chunks of the transport have nothing to do with each other.
        script.chunks_of(50, frames.frames.concat())
    } else {
        frames.frames.iter().fold(script, Script::chunk)
    };
    match play.course {
        Course::Whole | Course::Fails => script.end(),
        Course::CutOff => script,
        Course::Endless => script.silence(),
    }
}
