//! Recorded exchanges with real providers of this dialect.

use std::path::PathBuf;

use nearfield_api::openai::{ChunkDecoder, decode_error, decode_reply};
use nearfield_api::sse::Decoder;
use nearfield_api::{ErrorKind, Event, FinishReason, Prompt, Request, Usage};
use serde_json::Value;

/// The folder of outside test data, or `None` (said aloud) when it is not there. With `CI` set it must be there.
fn test_data(below: &str) -> Option<PathBuf> {
    let root = std::env::var_os("NEARFIELD_TEST_DATA").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data")),
        PathBuf::from,
    );
    let path = root.join(below);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is missing; set NEARFIELD_TEST_DATA", path.display());
    eprintln!("skipped: {} is missing; set NEARFIELD_TEST_DATA", path.display());
    None
}

fn request(sent: &Value) -> Request {
    Request {
        choices: sent["n"].as_u64().unwrap_or(1) as u32,
        stream: sent["stream"].as_bool().unwrap_or(false),
        ..Request::new(sent["model"].as_str().unwrap_or_default(), Prompt::Chat(Vec::new()))
    }
}

/// Reads a recorded body as our client would, in pieces of a few bytes when it is a stream.
fn read(interaction: &Value, sent: &Request) -> Result<Vec<Event>, nearfield_api::Error> {
    let response = &interaction["response"];
    let Some(stream) = response["body"]["string"].as_str() else {
        return decode_reply(response["parsed_body"].to_string().as_bytes(), sent, &sent.model);
    };
    let mut sse = Decoder::new(1 << 20);
    let mut frames = Vec::new();
    for piece in stream.as_bytes().chunks(7) {
        sse.push(piece, &mut frames).unwrap();
    }
    frames.extend(sse.finish().unwrap());
    let mut decoder = ChunkDecoder::new(sent, &sent.model);
    let mut events = Vec::new();
    for frame in frames {
        decoder.push(&frame.data, &mut events)?;
    }
    decoder.finish(&mut events)?;
    Ok(events)
}

fn check_answer(name: &str, events: &[Event], response: &Value) {
    assert!(matches!(events.first(), Some(Event::Started { .. })), "{name}");
    let Some(Event::Done { usage, .. }) = events.last() else { panic!("{name}: no end") };
    let text: String = events
        .iter()
        .filter_map(|event| match event {
            Event::Delta { text, .. } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    let reasons: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Finished { reason, .. } => Some(*reason),
            _ => None,
        })
        .collect();
    assert_eq!(reasons.len(), 1, "{name}");
    let body = &response["parsed_body"];
    if body.is_object() {
        let choice = &body["choices"][0];
        assert_eq!(text, choice["message"]["content"].as_str().unwrap_or_default(), "{name}");
        assert_eq!(choice["finish_reason"], reasons[0].as_str(), "{name}");
        if let Some(total) = body["usage"]["total_tokens"].as_u64() {
            assert!(usage.measured, "{name}");
            assert_eq!(usage.total_tokens(), total, "{name}");
        }
    } else {
        assert!(usage.measured, "{name}");
        assert!(reasons[0] == FinishReason::ToolCalls || !text.is_empty(), "{name}");
    }
}

#[test]
fn all_recorded_chat_completions_are_read() {
    let Some(folder) = test_data("cassettes/test_openai") else { return };
    let (mut answers, mut errors, mut streams) = (0, 0, 0);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let cassette: Value = serde_yaml_ng::from_str(&text).unwrap();
        for (i, interaction) in cassette["interactions"].as_array().unwrap().iter().enumerate() {
            let name = format!("{} #{i}", file.file_name().unwrap().display());
            let uri = interaction["request"]["uri"].as_str().unwrap();
            if !uri.ends_with("/chat/completions") {
                continue;
            }
            let response = &interaction["response"];
            let status = response["status"]["code"].as_u64().unwrap() as u16;
            let sent = request(&interaction["request"]["parsed_body"]);
            if status != 200 {
                let error = decode_error(status, response["parsed_body"].to_string().as_bytes(), None);
                assert_eq!(error.kind, ErrorKind::InvalidRequest, "{name}");
                assert_eq!(error.param.as_deref(), Some("web_search_options"), "{name}");
                errors += 1;
                continue;
            }
            streams += u32::from(response["body"]["string"].is_string());
            match read(interaction, &sent) {
                Ok(events) => {
                    check_answer(&name, &events, response);
                    answers += 1;
                }
                Err(error) => {
                    // A server that answers 200 with something else entirely.
                    assert!(uri.contains("demo-endpoints"), "{name}: {error}");
                    assert_eq!(error.kind, ErrorKind::Upstream);
                    errors += 1;
                }
            }
        }
    }
    assert!(answers >= 30 && errors >= 2 && streams >= 2, "{answers} {errors} {streams}");
}

#[test]
fn recorded_usage_is_split_as_expected() {
    let Some(file) = test_data("prices/usage_bodies.jsonl") else { return };
    let text = std::fs::read_to_string(file).unwrap();
    let mut checked = 0;
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let usage = &row["body"]["usage"];
        if !(usage["prompt_tokens"].is_u64() && usage["completion_tokens"].is_u64()) {
            continue;
        }
        let body = serde_json::json!({"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}],
            "usage": usage});
        let events = decode_reply(body.to_string().as_bytes(), &request(&Value::Null), "m").unwrap();
        let Some(Event::Done { usage: read, .. }) = events.last() else { panic!("no end") };
        check_usage(&row, *read);
        checked += 1;
    }
    assert!(checked > 50, "only {checked} bodies have OpenAI's form");
}

/// The row lists the extractions of several rules; ours must be one of them in the counts that it splits.
fn check_usage(row: &Value, read: Usage) {
    let expected = row["expected_usage"].as_array().unwrap();
    let matches = |wanted: &Value| {
        let is = |name: &str, ours: u64| wanted[name].as_u64().unwrap_or(0) == ours;
        is("input_tokens", read.prompt_tokens())
            && is("cache_read_tokens", read.cached_input)
            && (is("output_tokens", read.completion_tokens()) || is("output_tokens", read.output))
    };
    assert!(expected.iter().any(matches), "{row}\n{read:?}");
}
