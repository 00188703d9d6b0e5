//! Answers in all the forms that are forgiven, and what is sent to get them.

use std::collections::BTreeMap;
use std::time::Duration;

use nearfield_api::openai::{Limits, MaxTokensField, parse_chat_request};
use nearfield_api::{Backend as _, ErrorKind, Event, FinishReason, Prompt, Usage};
use nearfield_providers::{OpenAiCompatible, OpenAiCompatibleOptions};
use nearfield_testkit::cloud_server::{ANSWER, CloudServer, Script, TOKENS, delta, finish, usage};
use serde_json::json;

use crate::support::{KEY, ask, backend, impatient, options, request, text};

const ESTIMATE: Usage =
    Usage { input: 2, cached_input: 0, output: 1, reasoning: 0, measured: false, ..Usage::NONE };

#[tokio::test]
async fn a_good_answer() {
    let server = CloudServer::start().await.unwrap();
    let events = ask(&backend(&server), request()).await;
    let usage = Usage {
        input: TOKENS.0,
        cached_input: 0,
        output: TOKENS.1,
        reasoning: 0,
        measured: true,
        ..Usage::NONE
    };
    assert_eq!(
        events,
        [
            Event::Started { model: "m".to_owned(), engine: None },
            Event::Delta { choice: 0, text: ANSWER[0].to_owned(), logprobs: Vec::new() },
            Event::Delta { choice: 0, text: ANSWER[1].to_owned(), logprobs: Vec::new() },
            Event::Finished { choice: 0, reason: FinishReason::Stop },
            Event::Done { usage, work: None },
        ]
    );
    let seen = server.seen();
    let [sent] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!((sent.method.as_str(), sent.target.as_str()), ("POST", "/v1/chat/completions"));
    assert_eq!(sent.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
    assert_eq!(sent.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn what_is_sent_is_written_anew() {
    let server = CloudServer::start().await.unwrap();
    let clients = br#" {"user" : "ann", "messages":[{"content":"h\u0069","role":"user"}], "store":false,
        "metadata":{"patient":"x"}, "max_completion_tokens": 3, "stream":false, "model" : "fast","seed":1} "#;
    let (request, _) = parse_chat_request(clients, &Limits::default()).unwrap();
    let mut options = options(&server.base_url());
    options.model_map = BTreeMap::from([("fast".to_owned(), "up".to_owned())]);
    options.max_tokens_field = MaxTokensField::MaxCompletionTokens;
    let backend = OpenAiCompatible::new(options).unwrap();
    ask(&backend, request).await;
    // Neither the fields that only the client's side needs nor its spacing, order and escapes.
    let expected = r#"{"model":"up","messages":[{"role":"user","content":"hi"}],"max_completion_tokens":3,"seed":1,"stream":true,"stream_options":{"include_usage":true}}"#;
    assert_eq!(std::str::from_utf8(&server.seen()[0].body).unwrap(), expected);
}

#[tokio::test]
async fn only_labels_that_a_policy_made_ready_are_sent() {
    let server = CloudServer::start().await.unwrap();
    for ready in [false, true] {
        let mut request = request();
        request.labels.user = Some("nf-1".to_owned());
        request.terms.labels_ready = ready;
        ask(&backend(&server), request).await;
        assert_eq!(server.seen().last().unwrap().json()["user"].as_str(), ready.then_some("nf-1"));
    }
}

#[tokio::test]
async fn completions_go_to_their_route() {
    let server = CloudServer::start().await.unwrap();
    let mut request = request();
    request.prompt = Prompt::Text { text: "fn a() {".to_owned(), suffix: Some("}".to_owned()) };
    let events = ask(&backend(&server), request.clone()).await;
    assert_eq!(text(&events), ANSWER.concat());
    let sent = &server.seen()[0];
    assert_eq!(sent.target, "/v1/completions");
    assert_eq!((&sent.json()["prompt"], &sent.json()["suffix"]), (&json!("fn a() {"), &json!("}")));

    request.prompt = Prompt::Tokens(vec![1]);
    let error = backend(&server).generate(Box::new(request)).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::InvalidRequest);
    assert_eq!(server.seen().len(), 1, "token ids were sent");
}

#[tokio::test]
async fn models_are_limited_and_mapped() {
    let server = CloudServer::start().await.unwrap();
    let options = OpenAiCompatibleOptions {
        models: vec!["a".to_owned()],
        model_map: BTreeMap::from([("b".to_owned(), "up-b".to_owned())]),
        ..options(&server.base_url())
    };
    let backend = OpenAiCompatible::new(options).unwrap();
    for (asked, sent) in [("a", "a"), ("b", "up-b")] {
        let mut request = request();
        request.model = asked.to_owned();
        let events = ask(&backend, request).await;
        assert_eq!(events[0], Event::Started { model: sent.to_owned(), engine: None });
        assert_eq!(server.seen().last().unwrap().json()["model"], sent);
    }
    let error = backend.generate(Box::new(request())).await.err().unwrap();
    assert_eq!((error.kind, error.param.as_deref()), (ErrorKind::NotFound, Some("model")));
    assert!(error.message.contains("`cloud`"), "{error}");
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn streams_may_be_cut_anywhere_and_framed_in_any_way() {
    let server = CloudServer::start().await.unwrap();
    let backend = backend(&server);
    let parts = [delta("h"), delta("é €"), finish("length"), usage(3, 2), "[DONE]".to_owned()];
    for (line_end, extra) in
        [("\n", ""), ("\r\n", ": keep-alive\r\n\r\n"), ("\r", "event: x\rid: 1\rretry: 5\r")]
    {
        let events = parts.iter().map(|part| format!("{extra}data:{part}{line_end}{line_end}"));
        let body = format!("\u{feff}{}", events.collect::<String>());
        for size in [1, 2, 3, 7, 64, 100_000] {
            server.next(Script::stream().chunks_of(size, &body).end());
            let events = ask(&backend, request()).await;
            assert_eq!(text(&events), "hé €", "{line_end:?} {size}");
            assert_eq!(events[events.len() - 2], Event::Finished { choice: 0, reason: FinishReason::Length });
            let Some(Event::Done { usage, .. }) = events.last() else { panic!("no end") };
            assert_eq!((usage.input, usage.output, usage.measured), (3, 2, true));
        }
    }
}

#[tokio::test]
async fn a_missing_end_mark_and_missing_usage_are_forgiven() {
    let server = CloudServer::start().await.unwrap();
    let backend = impatient(&server, |timeouts| timeouts.idle = Duration::from_millis(400));
    let whole = || Script::stream().event(&delta("abcd")).event(&finish("stop"));
    let last = format!("data: {}", finish("stop"));
    for (name, script) in [
        ("ends without [DONE]", whole().end()),
        ("no blank line at the end", Script::stream().event(&delta("abcd")).chunk(last).end()),
        ("is cut after the last choice's end", whole()),
        ("is reset after the last choice's end", whole().pause(Duration::from_millis(100)).reset()),
        ("stays open after the last choice's end", whole().silence()),
        ("does not say its type", Script::stream_of("").event(&delta("abcd")).event(&finish("stop")).end()),
        (
            "calls itself text",
            Script::stream_of("text/plain; charset=utf-8").event(&delta("abcd")).event(&finish("eos")).end(),
        ),
        ("says more after [DONE]", whole().event("[DONE]").chunk("event: error\ndata: x\n\n").end()),
        ("has an unnamed field", whole().event(r#"{"choices":[],"usage":{},"x_groq":{"id":1}}"#).end()),
    ] {
        server.next(script);
        let events = ask(&backend, request()).await;
        assert_eq!(text(&events), "abcd", "{name}");
        assert_eq!(events.last(), Some(&Event::Done { usage: ESTIMATE, work: None }), "{name}");
    }
}

#[tokio::test]
async fn a_backend_that_does_not_stream() {
    let server = CloudServer::start().await.unwrap();
    let backend = backend(&server);
    let body = json!({"model": "up", "choices": [{"message": {"content": "abcd"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1}});
    server.next(Script::answer(
        200,
        &[("Content-Type", "application/json; charset=utf-8")],
        body.to_string(),
    ));
    let events = ask(&backend, request()).await;
    assert_eq!((text(&events).as_str(), events.len()), ("abcd", 4));
    let pieces = body.to_string();
    server.next(Script::stream_of("application/json").chunks_of(10, &pieces).end());
    assert_eq!(text(&ask(&backend, request()).await), "abcd");
}

#[tokio::test]
async fn several_choices_interleave() {
    let server = CloudServer::start().await.unwrap();
    let piece = |index: u32, text: &str, reason: Option<&str>| {
        json!({"choices": [{"index": index, "delta": {"content": text}, "finish_reason": reason}]})
            .to_string()
    };
    server.next(
        Script::stream()
            .event(&piece(1, "b", None))
            .event(&piece(0, "a", Some("stop")))
            .event(&piece(1, "b", Some("length")))
            .event("[DONE]")
            .end(),
    );
    let mut request = request();
    request.choices = 2;
    let events = ask(&backend(&server), request).await;
    assert_eq!(text(&events), "bab");
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Finished { .. })).count(), 2);
    assert_eq!(server.seen()[0].json()["n"], 2);
}
