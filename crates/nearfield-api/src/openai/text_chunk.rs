//! The chunks that nearly all of a stream is made of, read without a tree of their JSON: text, ends and the usage.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, Visitor};
use serde_json::Value;

/// A chunk that says no more than this. Whatever does, or is malformed, is read as a tree instead.
#[derive(serde::Deserialize)]
pub(super) struct TextChunk<'a> {
    #[serde(borrow)]
    pub(super) model: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) choices: Vec<TextChoice<'a>>,
    pub(super) usage: Option<Value>,
    error: Option<IgnoredAny>,
}

#[derive(serde::Deserialize)]
pub(super) struct TextChoice<'a> {
    pub(super) index: Option<u64>,
    #[serde(borrow)]
    pub(super) delta: Delta<'a>,
    #[serde(borrow)]
    pub(super) finish_reason: Option<Text<'a>>,
    logprobs: Option<IgnoredAny>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Delta<'a> {
    #[serde(borrow)]
    pub(super) content: Option<Text<'a>>,
    #[serde(rename = "role")]
    _role: Option<IgnoredAny>,
    #[serde(rename = "obfuscation")]
    _obfuscation: Option<IgnoredAny>,
    refusal: Option<IgnoredAny>,
    reasoning: Option<IgnoredAny>,
    reasoning_content: Option<IgnoredAny>,
    tool_calls: Option<IgnoredAny>,
    function_call: Option<IgnoredAny>,
}

impl<'a> TextChunk<'a> {
    /// The chunk, when it is one of these.
    pub(super) fn read(data: &'a str) -> Option<Self> {
        let chunk: Self = serde_json::from_str(data).ok()?;
        let plain = chunk.error.is_none() && chunk.choices.iter().all(TextChoice::is_plain);
        plain.then_some(chunk)
    }
}

impl TextChoice<'_> {
    const fn is_plain(&self) -> bool {
        let Delta { refusal, reasoning, reasoning_content, tool_calls, function_call, .. } = &self.delta;
        self.logprobs.is_none()
            && refusal.is_none()
            && reasoning.is_none()
            && reasoning_content.is_none()
            && tool_calls.is_none()
            && function_call.is_none()
    }
}

/// A string, borrowed where the JSON has it as it is.
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'a, 'de: 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, json};

    use super::*;
    use crate::openai::chunk_decoder::{ChunkDecoder, Form};
    use crate::sse::SseEvent;
    use crate::{AnswerDecoder as _, Error, Event, Prompt, Request};

    fn chunk(delta: &Value, more: &Value) -> String {
        let mut chunk = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "system_fingerprint": null, "service_tier": "default",
            "choices": [{"index": 0, "delta": delta, "logprobs": null, "finish_reason": null}]});
        chunk.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        chunk.to_string()
    }

    #[test]
    fn what_says_more_is_read_as_a_tree() {
        for delta in [
            json!({}),
            json!({"role": "assistant", "content": "", "refusal": null}),
            json!({"content": "a\n\"\u{e9}", "obfuscation": "x"}),
        ] {
            assert!(TextChunk::read(&chunk(&delta, &json!({}))).is_some(), "{delta}");
        }
        assert!(TextChunk::read(&chunk(&json!({}), &json!({"usage": null}))).is_some());
        let usage = json!({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}});
        assert!(TextChunk::read(&chunk(&json!({}), &usage)).is_some());
        for delta in [
            json!({"content": [{"type": "text", "text": "a"}]}),
            json!({"refusal": "no"}),
            json!({"reasoning_content": "hm"}),
            json!({"tool_calls": []}),
            json!({"audio": {"id": "a"}}),
            json!({"new": 1}),
        ] {
            assert!(TextChunk::read(&chunk(&delta, &json!({}))).is_none(), "{delta}");
        }
        for more in [
            json!({"error": {"message": "no"}}),
            json!({"choices": null}),
            json!({"choices": [{"text": "a"}]}),
            json!({"choices": [{"delta": {}, "logprobs": {"content": []}}]}),
        ] {
            assert!(TextChunk::read(&chunk(&json!({}), &more)).is_none(), "{more}");
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let pieces = vec![
            json!(null),
            json!(""),
            json!("a"),
            json!("\u{e9}\n\""),
            json!("stop"),
            json!("length"),
            json!(0),
            json!(1),
            json!(-1),
            json!([]),
            json!({}),
            json!([{"type": "text", "text": "b"}]),
            json!({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}),
        ];
        prop::sample::select(pieces)
    }

    fn any_object(names: &'static [&'static str]) -> impl Strategy<Value = Map<String, Value>> {
        let field = (prop::sample::select(names), any_value());
        prop::collection::vec(field, 0..4)
            .prop_map(|fields| fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    fn any_chunk() -> impl Strategy<Value = Value> {
        let delta = any_object(&["content", "role", "refusal", "reasoning", "tool_calls", "text", "new"]);
        let choice = (any_object(&["index", "finish_reason", "logprobs", "message", "text"]), delta)
            .prop_map(|(mut choice, delta)| {
                choice.insert("delta".to_owned(), Value::Object(delta));
                Value::Object(choice)
            });
        let outside = any_object(&["model", "usage", "error", "id"]);
        (outside, prop::collection::vec(choice, 0..3)).prop_map(|(mut chunk, choices)| {
            chunk.insert("choices".to_owned(), Value::Array(choices));
            Value::Object(chunk)
        })
    }

    proptest! {
        #[test]
        fn both_readings_give_the_same(chunks in prop::collection::vec(any_chunk(), 1..5)) {
            let request = Request { choices: 2, ..Request::new("m", Prompt::Chat(Vec::new())) };
            let both = || (ChunkDecoder::new(&request, "m"), Vec::<Event>::new(), Ok::<(), Error>(()));
            let ((mut fast, mut events, mut result), (mut slow, mut expected, mut expected_result)) =
                (both(), both());
            for chunk in chunks {
                if result.is_ok() {
                    result = fast.push(&SseEvent { data: chunk.to_string(), ..SseEvent::default() }, &mut events);
                    expected_result = slow.take(&chunk, Form::Chunk, &mut expected);
                }
            }
            prop_assert_eq!(format!("{result:?}"), format!("{expected_result:?}"));
            result = fast.finish(&mut events);
            expected_result = slow.finish(&mut expected);
            prop_assert_eq!(format!("{result:?}"), format!("{expected_result:?}"));
            prop_assert_eq!(events, expected);
        }
    }
}
