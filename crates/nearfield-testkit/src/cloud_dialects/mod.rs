//! Good answers in the dialects of all providers, as their own servers write them.
//!
//! What is answered follows from the request, which must be well-formed: see [`Play`].

mod anthropic;
mod bedrock;
mod chat;
mod gemini;
pub(crate) mod plain;
mod responses;

use nearfield_api::Dialect;
use nearfield_api::openai::Limits;
use serde_json::{Value, json};

use crate::cloud_server::{CloudRequest, MODELS, Script};
use crate::cloud_streams::{Frames, stream};
use crate::plays::{Course, No, Play};

/// The token that the fake hands out for a signed statement.
pub const ACCESS_TOKEN: &str = "ya29.token-of-the-fake";
/// The token that the fake hands out as the metadata server of a machine.
pub const METADATA_TOKEN: &str = "ya29.token-of-the-machine";
/// Where a metadata server has it.
const METADATA_PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/token";

/// Whose answer is wanted.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) dialect: Dialect,
    pub(crate) model: String,
    /// Whether it is OpenAI's dialect as Bedrock writes it.
    pub(crate) amazon: bool,
}

/// Whose answer an address asks for, and whether as a stream.
fn address(target: &str) -> Option<(Asked, bool)> {
    let path = target.split('?').next().unwrap_or_default();
    let decoded = |name: &str| name.replace("%3A", ":").replace("%2F", "/");
    let asked = |dialect, model| Asked { dialect, model, amazon: path.starts_with("/openai/") };
    for (end, dialect) in [
        ("/chat/completions", Dialect::OpenAiChat),
        ("/responses", Dialect::OpenAiResponses),
        ("/messages", Dialect::Anthropic),
    ] {
        if path.ends_with(end) {
            return Some((asked(dialect, String::new()), false));
        }
    }
    if let Some((_, model)) = path.rsplit_once("/models/") {
        let (model, action) = model.split_once(':')?;
        return Some((asked(Dialect::Gemini, decoded(model)), action == "streamGenerateContent"));
    }
    let (model, action) = path.strip_prefix("/model/")?.split_once('/')?;
    Some((asked(Dialect::Bedrock, decoded(model)), action == "converse-stream"))
}

/// The answer to a request in one of the dialects; `None` for any other request.
pub fn answer(request: &CloudRequest) -> Option<Script> {
    if let Some(script) = token(request).or_else(|| models(request)) {
        return Some(script);
    }
    let (mut asked, streams) = address(&request.target)?;
    let dialect = asked.dialect;
    let decoded = match dialect.decode_request(&request.body, &asked.model, streams, &Limits::default()) {
        Ok(decoded) => decoded,
        Err(error) => return Some(refusal(dialect, &No::Invalid(error.message))),
    };
    let play = match Play::of(&decoded) {
        Ok(play) => play,
        Err(no) => return Some(refusal(dialect, &no)),
    };
    asked.model = decoded.model;
    Some(if decoded.stream { stream(&asked, &play) } else { in_one_body(&whole(&asked, &play), play.course) })
}

/// The answer to a request for an access token.
fn token(request: &CloudRequest) -> Option<Script> {
    let token = |token: &str| json!({"access_token": token, "expires_in": 3600, "token_type": "Bearer"});
    match request.target.as_str() {
        "/token" => Some(Script::json(200, &token(ACCESS_TOKEN))),
        METADATA_PATH if request.header("metadata-flavor") == Some("Google") => {
            let headers = [("Content-Type", "application/json"), ("Metadata-Flavor", "Google")];
            Some(Script::answer(200, &headers, token(METADATA_TOKEN).to_string()))
        }
        METADATA_PATH => Some(Script::answer(403, &[("Metadata-Flavor", "Google")], "no flavor")),
        _ => None,
    }
}

/// The answer to a request for the list of models.
fn models(request: &CloudRequest) -> Option<Script> {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    if request.method != "GET" || !path.ends_with("/models") {
        return None;
    }
    let list = if query.contains("pageSize") {
        let methods = json!(["generateContent"]);
        let model = |id| json!({"name": format!("models/{id}"), "supportedGenerationMethods": methods});
        json!({"models": MODELS.map(model)})
    } else if query.contains("limit") {
        json!({"data": MODELS.map(|id| json!({"type": "model", "id": id})), "has_more": false})
    } else {
        json!({"object": "list", "data": MODELS.map(|id| json!({"id": id, "object": "model"}))})
    };
    Some(Script::json(200, &list))
}

/// An error as the provider writes it.
fn refusal(dialect: Dialect, no: &No) -> Script {
    let status = match (no, dialect) {
        (No::NoSuchModel, Dialect::Bedrock) | (No::TooLong | No::Invalid(_), _) => 400,
        (No::NoSuchModel, _) => 404,
        (No::Overloaded, Dialect::Anthropic) => 529,
        (No::Overloaded, _) => 503,
    };
    let message = match (no, dialect) {
        (No::NoSuchModel, _) => "no such model",
        (No::Overloaded, _) => "overloaded",
        (No::Invalid(why), _) => why,
        (No::TooLong, Dialect::OpenAiChat) => "This model's maximum context length is 4096 tokens.",
        (No::TooLong, Dialect::OpenAiResponses) => "Your input exceeds the context window of this model.",
        (No::TooLong, Dialect::Anthropic) => "prompt is too long: 210000 tokens > 200000 maximum",
        (No::TooLong, Dialect::Gemini) => {
            "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."
        }
        (No::TooLong, Dialect::Bedrock) => "Input is too long for requested model.",
    };
    let body = match dialect {
        Dialect::OpenAiChat | Dialect::OpenAiResponses => {
            json!({"error": {"message": message, "type": "invalid_request_error", "param": null, "code": null}})
        }
        Dialect::Anthropic => {
            let kind = match status {
                529 => "overloaded_error",
                404 => "not_found_error",
                _ => "invalid_request_error",
            };
            json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"})
        }
        Dialect::Gemini => {
            let name = match status {
                503 => "UNAVAILABLE",
                404 => "NOT_FOUND",
                _ => "INVALID_ARGUMENT",
            };
            json!({"error": {"code": status, "message": message, "status": name}})
        }
        Dialect::Bedrock => json!({"message": message}),
    };
    let kind = if status == 503 { "ServiceUnavailableException" } else { "ValidationException" };
    let headers = [("Content-Type", "application/json"), ("x-amzn-errortype", kind)];
    Script::answer(status, &headers, body.to_string())
}

/// An answer in one body.
fn whole(asked: &Asked, play: &Play) -> Value {
    let model = asked.model.as_str();
    match asked.dialect {
        Dialect::OpenAiChat => chat::whole(asked, play),
        Dialect::OpenAiResponses => responses::whole(model, play),
        Dialect::Anthropic => anthropic::whole(model, play),
        Dialect::Gemini => gemini::whole(model, play),
        Dialect::Bedrock => bedrock::whole(play),
    }
}

/// An answer in frames.
pub(crate) fn frames(asked: &Asked, play: &Play) -> Frames {
    let model = asked.model.as_str();
    match asked.dialect {
        Dialect::OpenAiChat => chat::stream(asked, play),
        Dialect::OpenAiResponses => responses::stream(model, play),
        Dialect::Anthropic => anthropic::stream(model, play),
        Dialect::Gemini => gemini::stream(model, play),
        Dialect::Bedrock => bedrock::stream(play),
    }
}

fn in_one_body(body: &Value, course: Course) -> Script {
    match course {
        Course::Whole | Course::Fails => Script::json(200, body),
        Course::CutOff => {
            let body = body.to_string();
            let half = body.as_bytes().get(..body.len() / 2).unwrap_or_default();
            Script::stream_of("application/json").chunk(half)
        }
        Course::Endless => Script::new().silence(),
    }
}
