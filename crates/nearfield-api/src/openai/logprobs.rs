//! Log probabilities in the two forms of the dialect, written and read.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

use crate::{TokenAlternative, TokenLogprob};

/// What the dialect writes for a probability of zero; JSON has no infinity.
const LOWEST: f32 = -9999.0;

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { LOWEST }
}

/// The form of chat completions: a list of tokens, each with its alternatives.
pub(crate) struct ChatLogprobs<'a>(pub(crate) &'a [TokenLogprob]);

impl Serialize for ChatLogprobs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct Alternative<'a> {
            token: &'a str,
            logprob: f32,
            bytes: Option<&'a [u8]>,
        }
        #[derive(serde::Serialize)]
        struct Token<'a> {
            #[serde(flatten)]
            own: Alternative<'a>,
            top_logprobs: Vec<Alternative<'a>>,
        }
        let content: Vec<_> = self
            .0
            .iter()
            .map(|token| Token {
                own: Alternative {
                    token: &token.token,
                    logprob: finite(token.logprob),
                    bytes: token.bytes.as_deref(),
                },
                top_logprobs: token
                    .alternatives
                    .iter()
                    .map(|other| Alternative {
                        token: &other.token,
                        logprob: finite(other.logprob),
                        bytes: other.bytes.as_deref(),
                    })
                    .collect(),
            })
            .collect();
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("content", &content)?;
        map.serialize_entry("refusal", &())?;
        map.end()
    }
}

/// The form of completions: parallel lists. `text_offset` counts characters from the start of the answer.
pub(crate) struct TextLogprobs<'a> {
    pub(crate) tokens: &'a [TokenLogprob],
    /// The offset of each token.
    pub(crate) offsets: &'a [usize],
}

/// Tokens by their text, best first. Two tokens can share a text (replacement characters); the better one is kept,
/// since the form has no room for both.
struct TopMap<'a>(&'a TokenLogprob);

impl Serialize for TopMap<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut entries: Vec<(&str, f32)> = Vec::new();
        // The sampled token belongs to the map even when it is none of the best.
        let own = (self.0.token.as_str(), self.0.logprob);
        for (token, logprob) in
            self.0.alternatives.iter().map(|other| (other.token.as_str(), other.logprob)).chain([own])
        {
            if entries.iter().all(|(seen, _)| *seen != token) {
                entries.push((token, logprob));
            }
        }
        serializer.collect_map(entries.into_iter().map(|(token, logprob)| (token, finite(logprob))))
    }
}

impl Serialize for TextLogprobs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let texts: Vec<_> = self.tokens.iter().map(|token| &token.token).collect();
        let own: Vec<_> = self.tokens.iter().map(|token| finite(token.logprob)).collect();
        let top: Vec<_> = self.tokens.iter().map(TopMap).collect();
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("tokens", &texts)?;
        map.serialize_entry("token_logprobs", &own)?;
        map.serialize_entry("top_logprobs", &top)?;
        map.serialize_entry("text_offset", self.offsets)?;
        map.end()
    }
}

/// Counts characters of a text that comes token by token, where a token may end inside a character.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Offset(usize);

impl Offset {
    /// The offset of the next token, which is then counted.
    pub(crate) fn advance(&mut self, token: &TokenLogprob) -> usize {
        let start = self.0;
        let bytes = token.bytes.as_deref().unwrap_or(token.token.as_bytes());
        // Every character has one byte that is no continuation byte.
        self.0 += bytes.iter().filter(|byte| **byte & 0b1100_0000 != 0b1000_0000).count();
        start
    }
}

/// Reads the `logprobs` of a choice, whichever form they have. What is absent or odd yields nothing.
///
/// `alternatives` is how many were asked for; the second form can hold one more.
pub(crate) fn decode(value: Option<&Value>, alternatives: usize) -> Vec<TokenLogprob> {
    let Some(value) = value else { return Vec::new() };
    if let Some(content) = value.get("content").and_then(Value::as_array) {
        return content.iter().filter_map(|token| decode_chat(token, alternatives)).collect();
    }
    let list = |name| value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let top = list("top_logprobs");
    list("tokens")
        .iter()
        .zip(list("token_logprobs"))
        .enumerate()
        .filter_map(|(i, (token, logprob))| {
            Some(TokenLogprob {
                token: token.as_str()?.to_owned(),
                bytes: None,
                logprob: logprob.as_f64()? as f32,
                alternatives: top.get(i).map_or_else(Vec::new, |map| decode_map(map, alternatives)),
            })
        })
        .collect()
}

fn decode_chat(value: &Value, alternatives: usize) -> Option<TokenLogprob> {
    let own = decode_alternative(value)?;
    let mut others: Vec<_> = value
        .get("top_logprobs")
        .and_then(Value::as_array)
        .map(|items| items.iter().filter_map(decode_alternative).collect())
        .unwrap_or_default();
    best_first(&mut others, alternatives);
    Some(TokenLogprob { token: own.token, bytes: own.bytes, logprob: own.logprob, alternatives: others })
}

fn decode_alternative(value: &Value) -> Option<TokenAlternative> {
    let byte = |value: &Value| value.as_u64().and_then(|byte| u8::try_from(byte).ok());
    Some(TokenAlternative {
        token: value.get("token")?.as_str()?.to_owned(),
        bytes: value
            .get("bytes")
            .and_then(Value::as_array)
            .and_then(|bytes| bytes.iter().map(byte).collect::<Option<Vec<u8>>>()),
        logprob: value.get("logprob")?.as_f64()? as f32,
    })
}

fn decode_map(value: &Value, alternatives: usize) -> Vec<TokenAlternative> {
    let mut others: Vec<_> = value
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(token, logprob)| {
            Some(TokenAlternative { token: token.clone(), bytes: None, logprob: logprob.as_f64()? as f32 })
        })
        .collect();
    best_first(&mut others, alternatives);
    others
}

fn best_first(alternatives: &mut Vec<TokenAlternative>, limit: usize) {
    alternatives.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
    alternatives.truncate(limit);
}
