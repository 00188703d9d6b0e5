//! Streams and replies of other servers, in the odd forms that are met.

use nearfield_api::sse::SseEvent;
use nearfield_api::{Dialect, Error, ErrorKind, Event, FinishReason, Prompt, Request, Usage};

fn request(choices: u32) -> Request {
    Request {
        max_tokens: Some(2),
        choices,
        stream: true,
        ..Request::new("asked", Prompt::Text { text: "12345678".into(), suffix: None })
    }
}

fn frame(data: &str) -> SseEvent {
    SseEvent { data: data.to_owned(), ..SseEvent::default() }
}

fn read(chunks: &[&str], choices: u32) -> Result<Vec<Event>, Error> {
    let mut decoder = Dialect::OpenAiChat.decoder(&request(choices), "up");
    let mut events = Vec::new();
    for chunk in chunks {
        decoder.push(&frame(chunk), &mut events)?;
    }
    decoder.finish(&mut events)?;
    Ok(events)
}

fn expected(text: &str, reason: FinishReason, usage: Usage) -> Vec<Event> {
    vec![
        Event::Started { model: "up".into(), engine: None },
        Event::Delta { choice: 0, text: text.into(), logprobs: Vec::new() },
        Event::Finished { choice: 0, reason },
        Event::Done { usage, work: None },
    ]
}

const ESTIMATE: Usage =
    Usage { input: 2, cached_input: 0, output: 1, reasoning: 0, measured: false, ..Usage::NONE };

#[test]
fn forgiven_forms() {
    let plain = expected("ab", FinishReason::Stop, ESTIMATE);
    let forms: [&[&str]; 5] = [
        // No [DONE], no index, no model, usage empty.
        &[r#"{"choices":[{"delta":{"content":"ab"},"finish_reason":"eos"}],"usage":{}}"#],
        // The reason only ever empty, but an explicit end.
        &[r#"{"choices":[{"delta":{"content":"ab"},"finish_reason":""}]}"#, "[DONE]"],
        // An opening chunk without choices; text and reason in one chunk; more after [DONE].
        &[
            r#"{"choices":[],"prompt_filter_results":[]}"#,
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":null},"finish_reason":null}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"ab"},"finish_reason":"stop"}]}"#,
            "[DONE]",
            "rubbish",
        ],
        // The reason repeated in a chunk with usage that cannot be read; text as parts.
        &[
            r#"{"choices":[{"index":0,"delta":{"content":[{"type":"thinking","thinking":[]},{"type":"text","text":"ab"}]}}]}"#,
            r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}],"usage":{"prompt_tokens":"x"}}"#,
        ],
        // The completions route.
        &[r#"{"choices":[{"index":0,"text":"ab","finish_reason":"stop"}]}"#, " [DONE] "],
    ];
    for form in forms {
        assert_eq!(read(form, 1).unwrap(), plain, "{form:?}");
    }
}

#[test]
fn usage_decides_a_missing_reason() {
    let usage = Usage { input: 5, cached_input: 0, output: 2, reasoning: 0, measured: true, ..Usage::NONE };
    let chunk = r#"{"choices":[{"delta":{"content":"ab"},"finish_reason":""}],
        "usage":{"prompt_tokens":5,"completion_tokens":2}}"#;
    assert_eq!(read(&[chunk, "[DONE]"], 1).unwrap(), expected("ab", FinishReason::Length, usage));
    let body =
        r#"{"choices":[{"message":{"content":"ab"}}],"usage":{"prompt_tokens":5,"completion_tokens":2}}"#;
    assert_eq!(
        Dialect::OpenAiChat.decode_reply(body.as_bytes(), &request(1), "up").unwrap(),
        expected("ab", FinishReason::Length, usage)
    );
}

#[test]
fn answers_that_were_cut_or_make_no_sense() {
    let text = r#"{"choices":[{"index":0,"delta":{"content":"ab"},"finish_reason":null}]}"#;
    let end = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    let cases: [(&[&str], u32); 12] = [
        (&[], 1),
        (&["[DONE]"], 1),
        (&[text], 1),
        (&[text, "[DONE]"], 1),
        (&[r#"{"choices":[{"delta":{"content":"ab"},"finish_reason":""}]}"#], 1),
        (&[text, end, "[DONE]"], 2),
        (&[r#"{"choices":[{"index":1,"delta":{}}]}"#], 1),
        (&[end, text], 1),
        (&["{\"choices\":[{\"delta\":"], 1),
        (&[r#"{"choices":[{"delta":{"content":5}}]}"#], 1),
        (&[r#"{"choices":"x"}"#], 1),
        (&[text, r#"{"choices":[{"index":0,"delta":{},"finish_reason":"gave_up"}]}"#], 1),
    ];
    for (chunks, choices) in cases {
        assert_eq!(read(chunks, choices).unwrap_err().kind, ErrorKind::Upstream, "{chunks:?}");
    }
    for body in
        ["", "{}", "[]", r#"{"choices":[]}"#, r#"{"choices":[{"index":0}]}"#, r#"{"id":1,"object":"x"}"#]
    {
        let error = Dialect::OpenAiChat.decode_reply(body.as_bytes(), &request(1), "up").unwrap_err();
        assert_eq!(error.kind, ErrorKind::Upstream, "{body}");
    }
}

#[test]
fn an_error_inside_a_stream_ends_it() {
    let text = r#"{"choices":[{"index":0,"delta":{"content":"ab"}}]}"#;
    let error = read(&[text, r#"{"error":{"message":"m","code":"rate_limit_exceeded"}}"#], 1).unwrap_err();
    assert_eq!(error.kind, ErrorKind::RateLimited);
}

#[test]
fn the_first_sign_of_life_is_noticed() {
    let seen = |chunk: &str| {
        let mut decoder = Dialect::OpenAiChat.decoder(&request(1), "up");
        decoder.push(&frame(chunk), &mut Vec::new()).unwrap();
        decoder.has_token()
    };
    assert!(!seen(r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#));
    assert!(!seen(r#"{"choices":[]}"#));
    assert!(seen(r#"{"choices":[{"delta":{"content":"a"}}]}"#));
    assert!(seen(r#"{"choices":[{"delta":{"reasoning_content":"a"}}]}"#));
    assert!(seen(r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#));
}

#[test]
fn the_second_form_of_log_probabilities_is_cut_to_what_was_asked() {
    let mut request = request(1);
    request.logprobs = Some(1);
    let body = r#"{"choices":[{"text":"a","index":0,"finish_reason":"stop","logprobs":{"tokens":["a"],
        "token_logprobs":[-2.5],"top_logprobs":[{"a":-2.5,"b":-0.5}],"text_offset":[0]}}]}"#;
    let events = Dialect::OpenAiChat.decode_reply(body.as_bytes(), &request, "up").unwrap();
    let Event::Delta { logprobs, .. } = &events[1] else { panic!("no text") };
    assert_eq!((logprobs[0].token.as_str(), logprobs[0].logprob), ("a", -2.5));
    assert_eq!(logprobs[0].alternatives.len(), 1);
    assert_eq!(logprobs[0].alternatives[0].token, "b");
}
