//! What we answer, byte for byte where it matters to clients.

use nearfield_api::openai::{
    Endpoint, Limits, ReplyCollector, ReplyHead, StreamEncoder, StreamOptions, parse_chat_request,
};
use nearfield_api::sse::{Decoder, SseEvent};
use nearfield_api::{
    Dialect, Error, ErrorKind, Event, FinishReason, Prompt, Request, TokenAlternative, TokenLogprob, Usage,
};
use proptest::prelude::*;
use serde_json::value::to_raw_value;
use serde_json::{Value, json};

fn head(endpoint: Endpoint, choices: u32, logprobs: bool) -> ReplyHead {
    ReplyHead { id: "id-1".into(), created: 7, model: "asked".into(), endpoint, choices, logprobs }
}

fn delta(choice: u32, text: &str) -> Event {
    Event::Delta { choice, text: text.into(), logprobs: Vec::new() }
}

fn logprob(token: &str, logprob: f32) -> TokenLogprob {
    TokenLogprob {
        token: token.into(),
        bytes: Some(token.as_bytes().to_vec()),
        logprob,
        alternatives: vec![
            TokenAlternative { token: token.into(), bytes: Some(token.as_bytes().to_vec()), logprob },
            TokenAlternative { token: "zz".into(), bytes: None, logprob: f32::NEG_INFINITY },
        ],
    }
}

const USAGE: Usage =
    Usage { input: 3, cached_input: 2, output: 4, reasoning: 1, measured: true, ..Usage::NONE };

fn two_choices() -> Vec<Event> {
    vec![
        Event::Started { model: "real".into(), engine: None },
        delta(0, "Hel"),
        delta(1, "Yo"),
        delta(0, "lo"),
        Event::Finished { choice: 1, reason: FinishReason::Length },
        Event::Finished { choice: 0, reason: FinishReason::Stop },
        Event::Done { usage: USAGE, work: None },
    ]
}

fn whole(head: ReplyHead, events: Vec<Event>, nearfield: Option<&Value>) -> Value {
    let nearfield = nearfield.map(|value| to_raw_value(value).unwrap());
    let mut collector = ReplyCollector::new(head);
    for event in events {
        collector.push(event).unwrap();
    }
    serde_json::from_str(&collector.finish(nearfield.as_deref()).unwrap()).unwrap()
}

fn chunks(bytes: &[u8]) -> Vec<SseEvent> {
    let mut events = Vec::new();
    let mut decoder = Decoder::new(1 << 20);
    decoder.push(bytes, &mut events).unwrap();
    assert_eq!(decoder.finish().unwrap(), None);
    events
}

fn streamed(
    head: ReplyHead,
    options: StreamOptions,
    events: &[Event],
    nearfield: Option<&Value>,
) -> Vec<Value> {
    let mut encoder = StreamEncoder::new(head, options);
    let mut out = Vec::new();
    for event in events {
        encoder.push(event, &mut out).unwrap();
    }
    let nearfield = nearfield.map(|value| to_raw_value(value).unwrap());
    encoder.finish(nearfield.as_deref(), &mut out).unwrap();
    let mut events = chunks(&out);
    assert_eq!(events.pop().unwrap().data, "[DONE]");
    events.into_iter().map(|event| serde_json::from_str(&event.data).unwrap()).collect()
}

fn usage() -> Value {
    json!({"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 2}, "completion_tokens_details": {"reasoning_tokens": 1}})
}

#[test]
fn a_whole_chat_reply() {
    let extra = json!({"backend": "local"});
    assert_eq!(
        whole(head(Endpoint::Chat, 2, false), two_choices(), Some(&extra)),
        json!({"id": "id-1", "object": "chat.completion", "created": 7, "model": "real", "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "Hello", "refusal": null}, "logprobs": null,
             "finish_reason": "stop"},
            {"index": 1, "message": {"role": "assistant", "content": "Yo", "refusal": null}, "logprobs": null,
             "finish_reason": "length"}], "usage": usage(), "nearfield": {"backend": "local"}})
    );
}

fn tokens() -> Vec<Event> {
    vec![
        Event::Started { model: "real".into(), engine: None },
        Event::Delta { choice: 0, text: "é".into(), logprobs: vec![logprob("é", -0.1)] },
        Event::Delta { choice: 0, text: "ab".into(), logprobs: vec![logprob("ab", -0.7)] },
        Event::Finished { choice: 0, reason: FinishReason::Stop },
        Event::Done { usage: USAGE, work: None },
    ]
}

#[test]
fn log_probabilities_in_both_forms() {
    let chat = whole(head(Endpoint::Chat, 1, true), tokens(), None);
    assert_eq!(
        chat["choices"][0]["logprobs"],
        json!({"content": [
            {"token": "é", "logprob": -0.1, "bytes": [195, 169], "top_logprobs": [
                {"token": "é", "logprob": -0.1, "bytes": [195, 169]},
                {"token": "zz", "logprob": -9999.0, "bytes": null}]},
            {"token": "ab", "logprob": -0.7, "bytes": [97, 98], "top_logprobs": [
                {"token": "ab", "logprob": -0.7, "bytes": [97, 98]},
                {"token": "zz", "logprob": -9999.0, "bytes": null}]}], "refusal": null})
    );
    let text = whole(head(Endpoint::Completions, 1, true), tokens(), None);
    assert_eq!(
        text["choices"][0],
        json!({"text": "éab", "index": 0, "logprobs": {"tokens": ["é", "ab"], "token_logprobs": [-0.1, -0.7],
            "top_logprobs": [{"é": -0.1, "zz": -9999.0}, {"ab": -0.7, "zz": -9999.0}], "text_offset": [0, 1]},
            "finish_reason": "stop"})
    );
    assert_eq!(text["object"], "text_completion");
}

#[test]
fn a_chat_stream() {
    let extra = json!({"backend": "local"});
    let chunk = |choices: Value, more: &[(&str, Value)]| {
        let mut chunk = json!({"id": "id-1", "object": "chat.completion.chunk", "created": 7, "model": "real",
            "choices": choices});
        for (name, value) in more {
            chunk[*name] = value.clone();
        }
        chunk
    };
    let one = |index: u32, delta: Value, reason: Value| json!([{"index": index, "delta": delta, "logprobs": null, "finish_reason": reason}]);
    let null = || Value::Null;
    let mut expected = vec![
        chunk(one(0, json!({"role": "assistant", "content": ""}), null()), &[]),
        chunk(one(1, json!({"role": "assistant", "content": ""}), null()), &[]),
        chunk(one(0, json!({"content": "Hel"}), null()), &[]),
        chunk(one(1, json!({"content": "Yo"}), null()), &[]),
        chunk(one(0, json!({"content": "lo"}), null()), &[]),
        chunk(one(1, json!({}), json!("length")), &[]),
        chunk(one(0, json!({}), json!("stop")), &[("nearfield", extra.clone())]),
    ];
    let head = head(Endpoint::Chat, 2, false);
    assert_eq!(streamed(head.clone(), StreamOptions::default(), &two_choices(), Some(&extra)), expected);

    for chunk in &mut expected {
        chunk["usage"] = Value::Null;
        chunk.as_object_mut().unwrap().shift_remove("nearfield");
    }
    expected.push(chunk(json!([]), &[("usage", usage()), ("nearfield", extra.clone())]));
    let options = StreamOptions { include_usage: true };
    assert_eq!(streamed(head, options, &two_choices(), Some(&extra)), expected);
}

#[test]
fn a_completions_stream() {
    let chunks = streamed(head(Endpoint::Completions, 1, true), StreamOptions::default(), &tokens(), None);
    let choices: Vec<_> = chunks.iter().map(|chunk| &chunk["choices"][0]).collect();
    assert_eq!(choices.len(), 3);
    assert_eq!(choices[0]["text"], "é");
    assert_eq!(choices[1]["logprobs"]["text_offset"], json!([1]));
    assert_eq!(*choices[2], json!({"text": "", "index": 0, "logprobs": null, "finish_reason": "stop"}));
}

#[test]
fn a_failed_stream_ends_with_the_error_and_no_done() {
    let mut encoder = StreamEncoder::new(head(Endpoint::Chat, 1, false), StreamOptions::default());
    let mut out = Vec::new();
    encoder.push(&Event::Started { model: "m".into(), engine: None }, &mut out).unwrap();
    encoder.push(&delta(0, "par"), &mut out).unwrap();
    encoder.error(&Error::new(ErrorKind::Upstream, "cut"), &mut out);
    let events = chunks(&out);
    let last: Value = serde_json::from_str(&events.last().unwrap().data).unwrap();
    assert_eq!(last["error"]["message"], "cut");
    assert!(events.iter().all(|event| event.data != "[DONE]"));
}

#[test]
fn parts_never_pass_for_the_whole() {
    let broken: [Vec<Event>; 5] = [
        two_choices()[..6].to_vec(),
        two_choices()[..4].iter().cloned().chain([Event::Done { usage: USAGE, work: None }]).collect(),
        vec![delta(2, "x")],
        vec![Event::Finished { choice: 0, reason: FinishReason::Stop }, delta(0, "x")],
        two_choices().into_iter().chain([delta(0, "x")]).collect(),
    ];
    for events in broken {
        let mut collector = ReplyCollector::new(head(Endpoint::Chat, 2, false));
        let pushed: Result<(), Error> = events.iter().try_for_each(|event| collector.push(event.clone()));
        let collected = pushed.and_then(|()| collector.finish(None));
        assert_eq!(collected.unwrap_err().kind, ErrorKind::Internal, "{events:?}");

        let mut encoder = StreamEncoder::new(head(Endpoint::Chat, 2, false), StreamOptions::default());
        let mut out = Vec::new();
        let pushed: Result<(), Error> = events.iter().try_for_each(|event| encoder.push(event, &mut out));
        let encoded = pushed.and_then(|()| encoder.finish(None, &mut out));
        assert_eq!(encoded.unwrap_err().kind, ErrorKind::Internal, "{events:?}");
        assert!(!String::from_utf8(out).unwrap().contains("[DONE]"));
    }
}

/// An answer that a backend may give.
fn answer(choices: u32) -> impl Strategy<Value = Vec<Event>> {
    let token = ("[a-z é😀\n]{1,4}", -20.0_f32..0.0);
    let deltas = proptest::collection::vec((0..choices, token), 0..12);
    let reasons = proptest::collection::vec(
        proptest::sample::select(vec![FinishReason::Stop, FinishReason::Length, FinishReason::ContentFilter]),
        choices as usize,
    );
    (deltas, reasons, any::<bool>()).prop_map(|(deltas, reasons, with_logprobs)| {
        let mut events = vec![Event::Started { model: "real".into(), engine: None }];
        for (choice, (text, value)) in deltas {
            let logprobs = if with_logprobs { vec![logprob(&text, value)] } else { Vec::new() };
            events.push(Event::Delta { choice, text, logprobs });
        }
        events.extend((0..).zip(reasons).map(|(choice, reason)| Event::Finished { choice, reason }));
        events.push(Event::Done { usage: USAGE, work: None });
        events
    })
}

fn request(endpoint: Endpoint, choices: u32, logprobs: bool) -> Request {
    let prompt = match endpoint {
        Endpoint::Chat => Prompt::Chat(Vec::new()),
        Endpoint::Completions => Prompt::Text { text: String::new(), suffix: None },
    };
    Request { logprobs: logprobs.then_some(2), choices, stream: true, ..Request::new("asked", prompt) }
}

/// What survives the wire: minus infinity becomes the dialect's lowest number, and the form of completions knows no
/// bytes and joins alternatives of one text.
fn on_the_wire(events: &[Event], endpoint: Endpoint) -> Vec<Event> {
    let mut events = events.to_vec();
    for event in &mut events {
        let Event::Delta { logprobs, .. } = event else { continue };
        for token in logprobs {
            for other in &mut token.alternatives {
                other.logprob = other.logprob.max(-9999.0);
            }
            if endpoint == Endpoint::Completions {
                token.bytes = None;
                token.alternatives.dedup_by(|b, a| a.token == b.token);
                for other in &mut token.alternatives {
                    other.bytes = None;
                }
            }
        }
    }
    events
}

proptest! {
    #[test]
    fn what_we_stream_a_client_of_ours_reads(
        (choices, events) in (1..4_u32).prop_flat_map(|choices| (Just(choices), answer(choices))),
        chat in any::<bool>(),
        cut in 1..40_usize,
    ) {
        let endpoint = if chat { Endpoint::Chat } else { Endpoint::Completions };
        let mut encoder = StreamEncoder::new(head(endpoint, choices, true), StreamOptions { include_usage: true });
        let mut out = Vec::new();
        for event in &events {
            encoder.push(event, &mut out).unwrap();
        }
        encoder.finish(None, &mut out).unwrap();

        let mut frames = Vec::new();
        let mut sse = Decoder::new(1 << 16);
        for piece in out.chunks(cut) {
            sse.push(piece, &mut frames).unwrap();
        }
        let mut decoder = Dialect::OpenAiChat.decoder(&request(endpoint, choices, true), "up");
        let mut read = Vec::new();
        for frame in &frames {
            decoder.push(frame, &mut read).unwrap();
        }
        prop_assert!(decoder.is_done());
        prop_assert_eq!(read, on_the_wire(&events, endpoint));

        // A stream cut anywhere before its end is never read as complete.
        let keep = cut % (frames.len() - 1).max(1);
        let mut decoder = Dialect::OpenAiChat.decoder(&request(endpoint, choices, true), "up");
        let mut read = Vec::new();
        for frame in frames.iter().take(keep) {
            decoder.push(frame, &mut read).unwrap();
        }
        let ends = read.iter().filter(|event| matches!(event, Event::Finished { .. })).count();
        prop_assert_eq!(decoder.finish(&mut read).is_ok(), ends == choices as usize);
    }

    #[test]
    fn what_we_answer_a_client_of_ours_reads(
        (choices, events) in (1..4_u32).prop_flat_map(|choices| (Just(choices), answer(choices))),
        chat in any::<bool>(),
    ) {
        let endpoint = if chat { Endpoint::Chat } else { Endpoint::Completions };
        let mut collector = ReplyCollector::new(head(endpoint, choices, false));
        for event in &events {
            collector.push(event.clone()).unwrap();
        }
        let body = collector.finish(None).unwrap();
        let read = Dialect::OpenAiChat.decode_reply(body.as_bytes(), &request(endpoint, choices, false), "up").unwrap();
        let text = |events: &[Event], wanted: u32| -> String {
            events.iter().filter_map(|event| match event {
                Event::Delta { choice, text, .. } if *choice == wanted => Some(text.as_str()),
                _ => None,
            }).collect()
        };
        for choice in 0..choices {
            prop_assert_eq!(text(&read, choice), text(&events, choice));
        }
        prop_assert_eq!(read.last(), events.last());
    }
}

#[test]
fn the_head_follows_the_request() {
    let body = br#"{"model":"m","messages":[{"role":"user","content":"x"}],"n":2,"logprobs":true}"#;
    let (request, _) = parse_chat_request(body, &Limits::default()).unwrap();
    let expected = ReplyHead {
        id: "x".into(),
        created: 1,
        model: "m".into(),
        endpoint: Endpoint::Chat,
        choices: 2,
        logprobs: true,
    };
    assert_eq!(ReplyHead::new(&request, "x", 1), expected);
}
