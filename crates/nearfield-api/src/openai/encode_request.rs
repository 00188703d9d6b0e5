//! Writes a request for a backend of this dialect.

use std::collections::BTreeMap;

use serde::Serialize;

use super::reply::encode;
use crate::{Error, ErrorKind, Message, Prompt, Request};

/// The name under which a chat backend takes the token limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaxTokensField {
    /// `max_tokens`: understood by every compatible server.
    #[default]
    MaxTokens,
    /// `max_completion_tokens`: OpenAI's own newer models take only this.
    MaxCompletionTokens,
}

/// What is not in the request but on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamOptions {
    /// The model's name at the backend.
    pub model: String,
    /// Whether the backend shall stream, whatever the caller asked of us. A stream always asks for usage.
    pub stream: bool,
    /// The name of the token limit on the chat route.
    pub max_tokens_field: MaxTokensField,
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    #[serde(flatten)]
    prompt: WirePrompt<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repetition_penalty: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<f32>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    logit_bias: &'a BTreeMap<u32, f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<i64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<WireLogprobs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<u8>,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<WireStreamOptions>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum WirePrompt<'a> {
    Chat {
        messages: Vec<WireMessage<'a>>,
    },
    Text {
        prompt: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        suffix: Option<&'a str>,
    },
}

#[derive(Serialize)]
struct WireMessage<'a> {
    role: &'static str,
    content: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum WireLogprobs {
    /// Chat: whether.
    Wanted(bool),
    /// Completions: how many alternatives.
    Count(u8),
}

#[derive(Serialize)]
struct WireStreamOptions {
    include_usage: bool,
}

impl<'a> From<&'a Message> for WireMessage<'a> {
    fn from(message: &'a Message) -> Self {
        Self { role: message.role.as_str(), content: &message.content, name: message.name.as_deref() }
    }
}

/// Writes the body for the route [`super::Endpoint::of`] the prompt. Only what the request sets is written.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`] for a prompt of token ids: ids mean something in one vocabulary only, and nothing
/// proves that the backend has the same.
pub fn encode_request(request: &Request, options: &UpstreamOptions) -> Result<String, Error> {
    let prompt = match &request.prompt {
        Prompt::Chat(messages) => {
            WirePrompt::Chat { messages: messages.iter().map(WireMessage::from).collect() }
        }
        Prompt::Text { text, suffix } => WirePrompt::Text { prompt: text, suffix: suffix.as_deref() },
        Prompt::Tokens(_) => {
            return Err(Error::new(
                ErrorKind::InvalidRequest,
                "A prompt of token ids belongs to one model's vocabulary and is not sent to a cloud backend; send \
                 the prompt as text, or ask for a local model.",
            )
            .with_param("prompt"));
        }
    };
    let chat = matches!(prompt, WirePrompt::Chat { .. });
    let new_name = chat && options.max_tokens_field == MaxTokensField::MaxCompletionTokens;
    let sampling = &request.sampling;
    encode(&Body {
        model: &options.model,
        prompt,
        max_tokens: request.max_tokens.filter(|_| !new_name),
        max_completion_tokens: request.max_tokens.filter(|_| new_name),
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        top_k: sampling.top_k,
        min_p: sampling.min_p,
        repetition_penalty: sampling.repetition_penalty,
        presence_penalty: sampling.presence_penalty,
        frequency_penalty: sampling.frequency_penalty,
        logit_bias: &sampling.logit_bias,
        seed: sampling.seed.map(u64::cast_signed),
        stop: &request.stop,
        n: Some(request.choices).filter(|n| *n != 1),
        logprobs: request
            .logprobs
            .map(|count| if chat { WireLogprobs::Wanted(true) } else { WireLogprobs::Count(count) }),
        top_logprobs: request.logprobs.filter(|_| chat),
        stream: options.stream,
        stream_options: options.stream.then_some(WireStreamOptions { include_usage: true }),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::openai::{Limits, parse_chat_request, parse_completions_request};

    fn options(max_tokens_field: MaxTokensField) -> UpstreamOptions {
        UpstreamOptions { model: "up".into(), stream: false, max_tokens_field }
    }

    fn value(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn everything_set_is_written_and_read_back() {
        let body = json!({"model": "m", "messages": [{"role": "system", "content": "s"},
            {"role": "user", "content": "hé", "name": "ann"}], "temperature": 0.7, "top_p": 0.9, "top_k": 40,
            "min_p": 0.05, "repetition_penalty": 1.1, "presence_penalty": -0.5, "frequency_penalty": 0.25,
            "logit_bias": {"5": -100, "7": 1.5}, "seed": -3, "stop": ["a", "b"], "max_tokens": 9, "n": 2,
            "logprobs": true, "top_logprobs": 3});
        let (request, _) = parse_chat_request(body.to_string().as_bytes(), &Limits::default()).unwrap();
        let sent = value(&encode_request(&request, &options(MaxTokensField::MaxTokens)).unwrap());
        let mut expected = body.clone();
        expected["model"] = json!("up");
        expected["stream"] = json!(false);
        expected["logit_bias"] = json!({"5": -100.0, "7": 1.5});
        assert_eq!(sent, expected);
        let (again, _) = parse_chat_request(sent.to_string().as_bytes(), &Limits::default()).unwrap();
        assert_eq!(again, Request { model: "up".into(), ..request });
    }

    #[test]
    fn nothing_unset_is_written() {
        let body = br#"{"model":"m","prompt":"fn ","suffix":"}","max_tokens":4,"logprobs":0}"#;
        let (request, _) = parse_completions_request(body, &Limits::default()).unwrap();
        let mut options = options(MaxTokensField::MaxCompletionTokens);
        options.stream = true;
        assert_eq!(
            value(&encode_request(&request, &options).unwrap()),
            json!({"model": "up", "prompt": "fn ", "suffix": "}", "max_tokens": 4, "logprobs": 0, "stream": true,
                "stream_options": {"include_usage": true}})
        );
    }

    #[test]
    fn the_newer_name_of_the_token_limit() {
        let body = br#"{"model":"m","messages":[{"role":"user","content":""}],"max_tokens":4}"#;
        let (request, _) = parse_chat_request(body, &Limits::default()).unwrap();
        let sent = value(&encode_request(&request, &options(MaxTokensField::MaxCompletionTokens)).unwrap());
        assert_eq!(sent["max_completion_tokens"], 4);
        assert!(sent.get("max_tokens").is_none());
    }

    #[test]
    fn token_ids_stay_here() {
        let (request, _) =
            parse_completions_request(br#"{"model":"m","prompt":[1,2]}"#, &Limits::default()).unwrap();
        let error = encode_request(&request, &options(MaxTokensField::MaxTokens)).unwrap_err();
        assert_eq!((error.kind, error.param.as_deref()), (ErrorKind::InvalidRequest, Some("prompt")));
    }
}
