//! Tools, reasoning, refusals and pictures in OpenAI's chat dialect, there and back.

use nearfield_api::openai::{
    Limits, ReplyCollector, ReplyHead, StreamEncoder, StreamOptions, UpstreamOptions, encode_request,
    parse_chat_request,
};
use nearfield_api::sse::{Decoder, SseEvent};
use nearfield_api::{Dialect, Error, Event, FinishReason, Opaque, Place, Prompt, Request, Usage};
use serde_json::{Value, json};

fn parse(body: &Value) -> Request {
    parse_chat_request(body.to_string().as_bytes(), &Limits::default()).unwrap().0
}

fn full() -> Value {
    json!({"model": "m", "stream": false, "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [
            {"type": "text", "text": "what is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD", "detail": "low"}},
            {"type": "image_url", "image_url": {"url": "https://host.example/a.png"}},
            {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}},
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,QUJD", "filename": "a.pdf"}},
            {"type": "new_kind", "new_kind": {"a": 1}}]},
        {"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{\"at\":1}"}},
            {"id": "c2", "type": "function", "function": {"name": "look", "arguments": "{}"},
             "extra_content": {"google": {"thought_signature": "c2ln"}}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "a dog"}, {"type": "text", "text": "x"}]},
        {"role": "assistant", "content": null, "refusal": "no"},
        {"role": "user", "content": "why?", "name": "ann", "cache_control": {"type": "ephemeral"}}],
        "tools": [{"type": "function", "function": {"name": "look", "description": "looks", "strict": true,
            "parameters": {"type": "object", "properties": {"at": {"type": "integer"}}}}},
            {"type": "custom", "custom": {"name": "x"}}],
        "tool_choice": {"type": "function", "function": {"name": "look"}}, "parallel_tool_calls": false,
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
        "reasoning_effort": "low", "max_tokens": 5, "verbosity": "low", "user": "u", "brand_new": {"k": [1, null]}})
}

#[test]
fn everything_survives_the_way_through_the_tree() {
    let request = parse(&full());
    let options = UpstreamOptions { model: "m".into(), ..UpstreamOptions::default() };
    let again: Value = serde_json::from_str(&encode_request(&request, &options).unwrap()).unwrap();
    assert_eq!(again, full());
    assert!(request.require_text_only().is_err());
}

#[test]
fn every_string_is_shown_and_can_be_changed() {
    let mut request = parse(&full());
    let mut seen = Vec::new();
    request.visit_strings(&mut |place, text| {
        seen.push((place, text.clone()));
        if !matches!(place, Place::Protocol | Place::Opaque | Place::Media) {
            *text = text.to_uppercase();
        }
    });
    for wanted in [
        (Place::Text, "what is this?"),
        (Place::Url, "https://host.example/a.png"),
        (Place::Media, "QUJD"),
        (Place::Name, "a.pdf"),
        (Place::Name, "ann"),
        (Place::Opaque, "c2ln"),
        (Place::Key, "at"),
        (Place::ToolResult, "a cat"),
        (Place::ToolDefinition, "looks"),
        (Place::Key, "brand_new"),
        (Place::Key, "new_kind"),
        (Place::Label, "u"),
        (Place::Format, "s"),
    ] {
        assert!(seen.iter().any(|(place, text)| (*place, text.as_str()) == wanted), "{wanted:?}");
    }
    let Prompt::Chat(messages) = &request.prompt else { panic!() };
    assert_eq!(messages[0].text(), "BE BRIEF");
    assert!(request.extra.contains_key("BRAND_NEW"));
}

fn read(chunks: &[Value]) -> Result<Vec<Event>, Error> {
    let mut decoder = Dialect::OpenAiChat.decoder(&Request::new("m", Prompt::Chat(Vec::new())), "m");
    let mut events = Vec::new();
    for chunk in chunks {
        decoder.push(&SseEvent { data: chunk.to_string(), ..SseEvent::default() }, &mut events)?;
    }
    decoder.finish(&mut events)?;
    Ok(events)
}

fn delta(delta: Value) -> Value {
    json!({"choices": [{"index": 0, "delta": delta}]})
}

fn call(index: u32, first: Option<(&str, &str)>, arguments: &str) -> Event {
    Event::ToolCall {
        choice: 0,
        index,
        id: first.map(|(id, _)| id.to_owned()),
        name: first.map(|(_, name)| name.to_owned()),
        arguments: arguments.to_owned(),
        opaque: None,
    }
}

#[test]
fn parallel_calls_interleave() {
    let events = read(&[
        delta(json!({"role": "assistant", "content": null, "tool_calls": [
            {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}]})),
        delta(json!({"tool_calls": [{"index": 0, "function": {"arguments": "{\"x\""}}]})),
        delta(json!({"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}]})),
        delta(json!({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]})),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
    ])
    .unwrap();
    assert_eq!(
        events[1..6],
        [
            call(0, Some(("a", "f")), ""),
            call(0, None, "{\"x\""),
            call(1, Some(("b", "g")), "{}"),
            call(0, None, ":1}"),
            Event::Finished { choice: 0, reason: FinishReason::ToolCalls },
        ]
    );
}

#[test]
fn calls_without_number_or_id() {
    let events = read(&[
        delta(json!({"tool_calls": [{"function": {"name": "f", "arguments": "{"}}]})),
        delta(json!({"tool_calls": [{"function": {"arguments": "}"}}]})),
        delta(json!({"tool_calls": [{"function": {"name": "g", "arguments": {"a": 1}}}]})),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
    ])
    .unwrap();
    assert_eq!(
        events[1..4],
        [
            call(0, Some(("call_0_0", "f")), "{"),
            call(0, None, "}"),
            call(1, Some(("call_0_1", "g")), "{\"a\":1}")
        ]
    );
    assert!(read(&[delta(json!({"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}))]).is_err());
    assert!(read(&[delta(json!({"tool_calls": 5}))]).is_err());
}

fn answer() -> Vec<Event> {
    let opaque = |value: &str| Opaque {
        dialect: Dialect::Anthropic,
        kind: "signature".into(),
        value: value.into(),
        id: None,
    };
    let reasoning = |text: &str, opaque| Event::Reasoning { choice: 0, text: text.into(), opaque };
    vec![
        Event::Started { model: "m".into(), engine: None },
        reasoning("let me ", None),
        reasoning("think", Some(opaque("s1"))),
        reasoning("", Some(opaque("s2"))),
        Event::Delta { choice: 0, text: "hi".into(), logprobs: Vec::new() },
        Event::Refusal { choice: 0, text: "but no".into() },
        call(0, Some(("a", "f")), "{\"x\":"),
        call(0, None, "1}"),
        call(1, Some(("b", "g")), "{}"),
        Event::Other { choice: 0, dialect: Dialect::OpenAiChat, value: json!({"annotations": [{"a": 1}]}) },
        Event::Finished { choice: 0, reason: FinishReason::ToolCalls },
        Event::Done { usage: Usage { measured: true, ..Usage::NONE }, work: None },
    ]
}

/// The same answer with everything of one kind joined.
fn joined(events: &[Event]) -> Vec<String> {
    let (mut text, mut thoughts, mut refusal, mut calls, mut rest) =
        (String::new(), String::new(), String::new(), Vec::<String>::new(), Vec::new());
    for event in events {
        match event {
            Event::Delta { text: piece, .. } => text.push_str(piece),
            Event::Refusal { text: piece, .. } => refusal.push_str(piece),
            Event::Reasoning { text: piece, opaque, .. } => {
                thoughts.push_str(piece);
                thoughts.extend(opaque.iter().map(|opaque| format!("[{}]", opaque.value)));
            }
            Event::ToolCall { index, id, name, arguments, .. } => {
                if *index as usize == calls.len() {
                    calls.push(format!("{id:?} {name:?} "));
                }
                calls[*index as usize].push_str(arguments);
            }
            other => rest.push(format!("{other:?}")),
        }
    }
    [vec![text, thoughts, refusal], calls, rest].concat()
}

#[test]
fn what_is_written_is_read_back() {
    let request = Request::new("m", Prompt::Chat(Vec::new()));
    let head = || ReplyHead::new(&request, "id", 1);
    let mut whole = ReplyCollector::new(head());
    let mut stream = StreamEncoder::new(head(), StreamOptions { include_usage: true });
    let mut bytes = Vec::new();
    for event in answer() {
        stream.push(&event, &mut bytes).unwrap();
        whole.push(event).unwrap();
    }
    stream.finish(None, &mut bytes).unwrap();
    let body = whole.finish(None).unwrap();
    let read = Dialect::OpenAiChat.decode_reply(body.as_bytes(), &request, "m").unwrap();
    assert_eq!(joined(&read), joined(&answer()), "{body}");

    let (mut frames, mut events) = (Vec::new(), Vec::new());
    Decoder::new(1 << 20).push(&bytes, &mut frames).unwrap();
    let mut decoder = Dialect::OpenAiChat.decoder(&request, "m");
    for frame in frames {
        decoder.push(&frame, &mut events).unwrap();
    }
    decoder.finish(&mut events).unwrap();
    assert_eq!(joined(&events), joined(&answer()));

    // A client sends the message back whole: the values that must come back are there, with their texts.
    let message = serde_json::from_str::<Value>(&body).unwrap()["choices"][0]["message"].clone();
    let again = parse(&json!({"model": "m", "messages": [message]}));
    let mut values = Vec::new();
    let mut again = again;
    again.visit_strings(&mut |place, text| {
        if place == Place::Opaque {
            values.push(text.clone());
        }
    });
    assert_eq!(values, ["s1", "s2"]);
}

#[test]
fn a_refusal_is_told_apart() {
    let events = read(&[
        delta(json!({"content": null, "refusal": "ab"})),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
    ])
    .unwrap();
    assert_eq!(events[1], Event::Refusal { choice: 0, text: "ab".into() });
}
