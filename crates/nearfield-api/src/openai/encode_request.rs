//! Writes a request for a backend of this dialect.

use serde_json::{Map, Value, json};

use super::{encode_messages, tools};
use crate::json::to_text;
use crate::wire::{carry_extra, number_value, put, put_number};
use crate::{Dialect, Error, ErrorKind, Labels, Prompt, Request};

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamOptions {
    /// The model's name at the backend.
    pub model: String,
    /// Whether the backend shall stream, whatever the caller asked of us. A stream always asks for usage.
    pub stream: bool,
    /// The name of the token limit on the chat route.
    pub max_tokens_field: MaxTokensField,
    /// What keeps the prefix caches of cache domains apart at a server that many share (vLLM's `cache_salt`).
    pub cache_salt: Option<String>,
}

/// Writes the body for the route [`super::Endpoint::of`] the prompt. Only what the request sets is written.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`] for what this dialect cannot say, and for a prompt of token ids: ids mean something
/// in one vocabulary only, and nothing proves that the backend has the same.
pub fn encode_request(request: &Request, options: &UpstreamOptions) -> Result<String, Error> {
    let mut body = Map::new();
    put(&mut body, "model", Some(options.model.as_str()));
    let chat = matches!(request.prompt, Prompt::Chat(_));
    match &request.prompt {
        Prompt::Chat(messages) => {
            body.insert("messages".to_owned(), encode_messages::encode(messages, request)?);
        }
        Prompt::Text { text, suffix } => {
            put(&mut body, "prompt", Some(text.as_str()));
            put(&mut body, "suffix", suffix.as_deref());
        }
        Prompt::Tokens(_) => {
            return Err(Error::new(
                ErrorKind::InvalidRequest,
                "A prompt of token ids belongs to one model's vocabulary and is not sent to a cloud backend; send \
                 the prompt as text, or ask for a local model.",
            )
            .with_param("prompt"));
        }
    }
    tools::encode(&mut body, request)?;
    let new_name = chat && options.max_tokens_field == MaxTokensField::MaxCompletionTokens;
    let limit = if new_name { "max_completion_tokens" } else { "max_tokens" };
    put(&mut body, limit, request.max_tokens);
    sampling(&mut body, request);
    put(&mut body, "n", Some(request.choices).filter(|n| *n != 1));
    if chat {
        put(&mut body, "logprobs", request.logprobs.map(|_| true));
        put(&mut body, "top_logprobs", request.logprobs);
    } else {
        put(&mut body, "logprobs", request.logprobs);
    }
    encode_labels(&mut body, &request.labels);
    put(&mut body, "stream", Some(options.stream));
    if options.stream {
        body.insert("stream_options".to_owned(), json!({"include_usage": true}));
    }
    carry_extra(&mut body, &request.extra, request, Dialect::OpenAiChat)?;
    // After the caller's own fields: whose cache it is is not for the caller to say.
    put(&mut body, "cache_salt", options.cache_salt.as_deref());
    to_text(&body)
}

/// How tokens are chosen, and what ends the answer.
fn sampling(body: &mut Map<String, Value>, request: &Request) {
    let sampling = &request.sampling;
    put_number(body, "temperature", sampling.temperature);
    put_number(body, "top_p", sampling.top_p);
    put(body, "top_k", sampling.top_k);
    put_number(body, "min_p", sampling.min_p);
    put_number(body, "repetition_penalty", sampling.repetition_penalty);
    put_number(body, "presence_penalty", sampling.presence_penalty);
    put_number(body, "frequency_penalty", sampling.frequency_penalty);
    if !sampling.logit_bias.is_empty() {
        let bias: Map<_, _> = sampling
            .logit_bias
            .iter()
            .map(|(token, bias)| (token.to_string(), number_value(*bias)))
            .collect();
        body.insert("logit_bias".to_owned(), Value::Object(bias));
    }
    put(body, "seed", sampling.seed.map(u64::cast_signed));
    put(body, "stop", Some(request.stop.clone()).filter(|stop| !stop.is_empty()));
}

/// The caller's labels, in the names of OpenAI's dialects.
pub(crate) fn encode_labels(body: &mut Map<String, Value>, labels: &Labels) {
    put(body, "user", labels.user.as_deref());
    put(body, "safety_identifier", labels.safety_identifier.as_deref());
    put(body, "prompt_cache_key", labels.prompt_cache_key.as_deref());
    put(body, "metadata", labels.metadata.clone());
    put(body, "store", labels.store);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::openai::{Limits, parse_chat_request, parse_completions_request};

    fn options(max_tokens_field: MaxTokensField) -> UpstreamOptions {
        UpstreamOptions { model: "up".into(), stream: false, max_tokens_field, cache_salt: None }
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
