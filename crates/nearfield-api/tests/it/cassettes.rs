//! Recorded exchanges with real providers: every request that asks for an answer, and every such answer.

use std::collections::BTreeMap;

use nearfield_api::openai::{UpstreamOptions, decode_error};
use nearfield_api::sse::SseEvent;
use nearfield_api::{Dialect, Error, ErrorKind, Event, FinishReason, Prompt, Request};
use nearfield_testkit::recordings::{self, Exchange, Kind, Received, decode, test_data};
use serde_json::Value;

use crate::same_json::differences;

fn exchanges() -> Option<Vec<Exchange>> {
    recordings::exchanges().unwrap()
}

/// The frames of a stream that comes in pieces.
fn frames<'a>(dialect: Dialect, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<SseEvent> {
    recordings::frames(dialect, pieces).unwrap()
}

fn answer(exchange: &Exchange, dialect: Dialect, request: &Request) -> Result<Vec<Event>, Error> {
    match &exchange.received {
        Received::Json(tree) => dialect.decode_reply(tree.to_string().as_bytes(), request, &request.model),
        Received::Bytes(bytes) if exchange.streams() => {
            decode(dialect, &frames(dialect, [bytes.as_slice()]), request)
        }
        Received::Bytes(bytes) => dialect.decode_reply(bytes, request, &request.model),
        Received::Nothing => panic!("{}: nothing was received", exchange.name),
    }
}

/// The text that a whole body shows, found without the codecs.
fn shown_text(dialect: Dialect, tree: &Value) -> String {
    let mut text = String::new();
    let mut add = |value: &Value| text.push_str(value.as_str().unwrap_or_default());
    let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
    match dialect {
        Dialect::OpenAiChat => add(&tree["choices"][0]["message"]["content"]),
        Dialect::OpenAiResponses => {
            for part in items(&tree["output"]).iter().flat_map(|item| items(&item["content"])) {
                if part["type"] == "output_text" {
                    add(&part["text"]);
                }
            }
        }
        Dialect::Anthropic => {
            items(&tree["content"]).iter().filter(|b| b["type"] == "text").for_each(|b| add(&b["text"]));
        }
        Dialect::Gemini => items(&tree["candidates"][0]["content"]["parts"])
            .iter()
            .filter(|part| part["thought"] != true)
            .for_each(|part| add(&part["text"])),
        Dialect::Bedrock => items(&tree["output"]["message"]["content"]).iter().for_each(|b| add(&b["text"])),
    }
    text
}

/// How many calls of tools a whole body holds, found without the codecs.
fn shown_calls(dialect: Dialect, tree: &Value) -> usize {
    let text = tree.to_string();
    match dialect {
        Dialect::OpenAiChat => text.matches("\"function\":{").count(),
        Dialect::OpenAiResponses => tree["output"].to_string().matches("\"type\":\"function_call\"").count(),
        Dialect::Anthropic => text.matches("\"type\":\"tool_use\"").count(),
        Dialect::Gemini => text.matches("\"functionCall\":").count(),
        Dialect::Bedrock => text.matches("\"toolUse\":").count(),
    }
}

fn check(exchange: &Exchange, dialect: Dialect, events: &[Event]) {
    let name = &exchange.name;
    assert!(matches!(events.first(), Some(Event::Started { model, .. }) if !model.is_empty()), "{name}");
    let Some(Event::Done { usage, .. }) = events.last() else { panic!("{name}: no end") };
    let text: String = events
        .iter()
        .filter_map(|event| if let Event::Delta { text, .. } = event { Some(text.as_str()) } else { None })
        .collect();
    let calls = events.iter().filter(|event| matches!(event, Event::ToolCall { name: Some(_), .. })).count();
    let reasons: Vec<_> = events
        .iter()
        .filter_map(|event| if let Event::Finished { reason, .. } = event { Some(*reason) } else { None })
        .collect();
    assert_eq!(reasons.len(), 1, "{name}");
    assert_eq!(reasons[0] == FinishReason::ToolCalls, calls > 0, "{name}: {reasons:?} with {calls} calls");
    if let Received::Json(tree) = &exchange.received {
        assert_eq!(text, shown_text(dialect, tree), "{name}");
        assert_eq!(calls, shown_calls(dialect, tree), "{name}");
        let total = ["/usage/total_tokens", "/usageMetadata/totalTokenCount", "/usage/totalTokens"];
        if let Some(total) = total.iter().find_map(|at| tree.pointer(at)?.as_u64()) {
            assert_eq!(usage.total_tokens(), total, "{name}: {usage:?}");
        }
    }
    let counted = match &exchange.received {
        Received::Json(tree) => {
            tree.get("usage").is_some_and(Value::is_object) || tree.get("usageMetadata").is_some()
        }
        _ => true,
    };
    assert_eq!(usage.measured, counted, "{name}");
}

#[test]
fn every_recorded_answer_is_read() {
    let Some(exchanges) = exchanges() else { return };
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    let mut skipped: BTreeMap<&str, u32> = BTreeMap::new();
    let (mut answers, mut errors) = (0, 0);
    for exchange in &exchanges {
        let dialect = match exchange.kind() {
            Kind::Answer(dialect) => dialect,
            Kind::Else(what) => {
                *skipped.entry(what).or_default() += 1;
                continue;
            }
        };
        let mut count = |kind: &str| *counts.entry(format!("{} {kind}", dialect.as_str())).or_default() += 1;
        if exchange.status != 200 {
            let Received::Json(tree) = &exchange.received else { panic!("{}", exchange.name) };
            let error = decode_error(exchange.status, tree.to_string().as_bytes(), None);
            assert_eq!(error.kind, ErrorKind::InvalidRequest, "{}", exchange.name);
            assert!(error.message.contains("It says:"), "{}: {error}", exchange.name);
            count("error");
            errors += 1;
            continue;
        }
        let request =
            exchange.request(dialect).unwrap_or_else(|_| Request::new("m", Prompt::Chat(Vec::new())));
        match answer(exchange, dialect, &request) {
            Ok(events) => {
                check(exchange, dialect, &events);
                count(if exchange.streams() { "stream" } else { "whole answer" });
                answers += 1;
            }
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Upstream, "{}: {error}", exchange.name);
                let queued = error.message.contains("background");
                assert!(queued || exchange.uri.contains("demo-endpoints"), "{}: {error}", exchange.name);
                count(if queued {
                    "answer that is not ready yet, told as such"
                } else {
                    "nonsense, told as such"
                });
                errors += 1;
            }
        }
    }
    for (kind, count) in &counts {
        eprintln!("read: {count} x {kind}");
    }
    for (what, count) in &skipped {
        eprintln!("skipped: {count} x an exchange that {what}");
    }
    eprintln!("{answers} answers, {errors} errors");
    assert!(!skipped.contains_key("is not known"));
    assert!(answers >= 295 && answers + errors >= 305, "{answers} {errors}");
}

#[test]
fn recorded_requests_survive_the_way_through_the_tree() {
    let Some(exchanges) = exchanges() else { return };
    let (mut checked, mut bare) = (0, 0);
    let mut wrong = Vec::new();
    for exchange in &exchanges {
        let Kind::Answer(dialect) = exchange.kind() else { continue };
        let Some(sent) = &exchange.sent else {
            bare += 1;
            eprintln!("no JSON body: {} {} {}", exchange.name, exchange.method, exchange.uri);
            continue;
        };
        let again = exchange.request(dialect).and_then(|request| {
            let max_tokens_field = if sent.get("max_completion_tokens").is_some() {
                nearfield_api::openai::MaxTokensField::MaxCompletionTokens
            } else {
                nearfield_api::openai::MaxTokensField::MaxTokens
            };
            let options = UpstreamOptions {
                model: request.model.clone(),
                stream: request.stream,
                max_tokens_field,
                cache_salt: None,
            };
            dialect.encode_request(&request, &options)
        });
        match again {
            Ok(again) => {
                let again: Value = serde_json::from_str(&again).unwrap();
                wrong.extend(
                    differences(dialect, sent, &again)
                        .into_iter()
                        .map(|at| format!("{}: {at}", exchange.name)),
                );
            }
            Err(error) => wrong.push(format!("{}: {error} {:?}", exchange.name, error.param)),
        }
        checked += 1;
    }
    eprintln!("{checked} requests, {bare} exchanges without a JSON body");
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    assert!(checked >= 290, "{checked}");
}

#[test]
fn streams_may_be_cut_anywhere() {
    let Some(exchanges) = exchanges() else { return };
    let mut streams = 0;
    for exchange in &exchanges {
        let (Kind::Answer(dialect), Received::Bytes(bytes)) = (exchange.kind(), &exchange.received) else {
            continue;
        };
        if !exchange.streams() || exchange.uri.contains("demo-endpoints") {
            continue;
        }
        let whole = frames(dialect, [bytes.as_slice()]);
        let request =
            exchange.request(dialect).unwrap_or_else(|_| Request::new("m", Prompt::Chat(Vec::new())));
        let events = decode(dialect, &whole, &request).unwrap();
        let single = frames(dialect, bytes.chunks(1));
        assert_eq!(decode(dialect, &single, &request).unwrap(), events, "{}", exchange.name);
        // Decoders see whole frames: where these are equal, so are the events. Between frames a framing decoder is as
        // new, so each cut is tried with the frames around it.
        for window in windows(dialect, bytes) {
            let expected = frames(dialect, [window]);
            for cut in 0..=window.len() {
                let (first, second) = window.split_at(cut);
                assert_eq!(frames(dialect, [first, second]), expected, "{} at {cut}", exchange.name);
            }
        }
        streams += 1;
    }
    eprintln!("{streams} streams");
    assert!(streams >= 27, "{streams}");
}

/// Runs of two frames, each beginning with the second of the run before.
fn windows(dialect: Dialect, bytes: &[u8]) -> Vec<&[u8]> {
    let mut ends = vec![0];
    if dialect == Dialect::Bedrock {
        while let Some(length) = ends.last().and_then(|at| bytes.get(*at..at + 4)) {
            ends.push(ends.last().unwrap() + u32::from_be_bytes(length.try_into().unwrap()) as usize);
        }
    } else {
        for at in 1..bytes.len() {
            if bytes[..at].ends_with(b"\n\n") || bytes[..at].ends_with(b"\r\n\r\n") {
                ends.push(at);
            }
        }
        ends.push(bytes.len());
    }
    ends.windows(3).map(|ends| &bytes[ends[0]..ends[2]]).collect()
}

#[test]
fn recorded_usage_is_split_as_expected() {
    let Some(file) = test_data("prices/usage_bodies.jsonl") else { return };
    let text = std::fs::read_to_string(file).unwrap();
    let mut compared: BTreeMap<&str, usize> = BTreeMap::new();
    let mut unattributed = 0;
    let mut wrong = Vec::new();
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        match crate::usage_rows::check(&row) {
            Ok((whose, usage)) => {
                *compared.entry(whose).or_default() += 1;
                unattributed += u32::from(usage.unattributed > 0);
            }
            Err(why) => wrong.push(format!("{why}: {row}")),
        }
    }
    let (all, rows) = (compared.values().sum::<usize>(), text.lines().count());
    for (whose, count) in &compared {
        eprintln!("compared: {count} x {whose}");
    }
    eprintln!("{all} of {rows} bodies, {unattributed} with tokens that nobody names");
    assert!(wrong.is_empty(), "{} of {rows}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(all == rows && rows >= 1051, "{all} of {rows}");
}
