//! Tests of both request parsers.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{Error, ErrorKind, Prompt, Request, Role};

/// Reads a chat as a backend for nothing but text takes it.
fn chat(body: &Value) -> Result<(Request, StreamOptions), Error> {
    plain(parse_chat_request(body.to_string().as_bytes(), &Limits::default()))
}

fn completions(body: &Value) -> Result<(Request, StreamOptions), Error> {
    plain(parse_completions_request(body.to_string().as_bytes(), &Limits::default()))
}

fn plain(parsed: Result<(Request, StreamOptions), Error>) -> Result<(Request, StreamOptions), Error> {
    let parsed = parsed?;
    parsed.0.require_text_only()?;
    Ok(parsed)
}

/// A chat body with more fields.
fn chat_with(extra: Value) -> Value {
    merge(json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}), extra)
}

fn text_with(extra: Value) -> Value {
    merge(json!({"model": "m", "prompt": "hi"}), extra)
}

fn merge(mut body: Value, extra: Value) -> Value {
    let Value::Object(extra) = extra else { panic!("an object is needed") };
    for (key, value) in extra {
        body[key] = value;
    }
    body
}

fn assert_refused(result: Result<(Request, StreamOptions), Error>, param: &str, code: &str) {
    let error = result.expect_err(param);
    assert_eq!(error.kind, ErrorKind::InvalidRequest, "{error}");
    assert_eq!(error.param.as_deref(), Some(param), "{error}");
    assert_eq!(error.code.as_deref(), Some(code), "{error}");
    assert!(error.message.contains(param) || param == "tools", "{error}");
}

#[test]
fn a_full_chat_request() {
    let (request, options) = chat(&chat_with(json!({
        "messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "user", "content": "hi", "name": "ann"},
            {"role": "assistant", "content": "ho", "refusal": null, "tool_calls": null, "function_call": null,
             "audio": null, "annotations": []},
        ],
        "temperature": 0, "top_p": 0.5, "top_k": -1, "min_p": 0.1, "repetition_penalty": 1.5,
        "presence_penalty": 2, "frequency_penalty": -2, "logit_bias": {"0": 100, "50256": -100},
        "seed": 42, "stop": "END", "max_completion_tokens": 7, "n": 3, "logprobs": true, "top_logprobs": 20,
        "stream": true, "stream_options": {"include_usage": true, "include_obfuscation": false},
    })))
    .unwrap();
    assert_eq!(options, StreamOptions { include_usage: true });
    let Prompt::Chat(messages) = &request.prompt else { panic!("not a conversation") };
    assert_eq!(
        messages.iter().map(|m| (m.role, m.text().into_owned(), m.name.as_deref())).collect::<Vec<_>>(),
        [
            (Role::Developer, "be brief".to_owned(), None),
            (Role::System, "a\nb".to_owned(), None),
            (Role::User, "hi".to_owned(), Some("ann")),
            (Role::Assistant, "ho".to_owned(), None)
        ]
    );
    assert_eq!(request.sampling.temperature, Some(0.0));
    assert_eq!(request.sampling.top_p, Some(0.5));
    assert_eq!(request.sampling.top_k, Some(0));
    assert_eq!(request.sampling.min_p, Some(0.1));
    assert_eq!(request.sampling.repetition_penalty, Some(1.5));
    assert_eq!(request.sampling.presence_penalty, Some(2.0));
    assert_eq!(request.sampling.frequency_penalty, Some(-2.0));
    assert_eq!(request.sampling.logit_bias, [(0, 100.0), (50256, -100.0)].into());
    assert_eq!(request.sampling.seed, Some(42));
    assert_eq!(request.stop, ["END"]);
    assert_eq!(request.max_tokens, Some(7));
    assert_eq!(request.choices, 3);
    assert_eq!(request.logprobs, Some(20));
    assert!(request.stream);
}

#[test]
fn a_bare_chat_request_leaves_everything_to_the_backend() {
    let (request, options) = chat(&chat_with(json!({}))).unwrap();
    assert_eq!(request.sampling, crate::Sampling::default());
    assert_eq!(
        (request.max_tokens, request.logprobs, request.choices, request.stream),
        (None, None, 1, false)
    );
    assert!(request.stop.is_empty());
    assert_eq!(options, StreamOptions::default());
}

#[test]
fn harmless_fields_are_accepted() {
    for extra in [
        json!({"user": "u", "metadata": {"a": "b"}, "store": true, "service_tier": "auto"}),
        json!({"service_tier": "default", "safety_identifier": "x", "prompt_cache_key": "k"}),
        json!({"prompt_cache_retention": "24h", "store": false, "metadata": null}),
        json!({"tools": null, "tool_choice": null, "functions": [], "function_call": "none"}),
        json!({"tools": [], "tool_choice": "auto", "parallel_tool_calls": true}),
        json!({"response_format": {"type": "text"}, "modalities": ["text"], "verbosity": "medium"}),
        json!({"audio": null, "prediction": null, "reasoning_effort": null, "web_search_options": null}),
        json!({"logprobs": false, "top_logprobs": 0, "stream": null, "stream_options": null, "n": null}),
        json!({"max_tokens": 5, "max_completion_tokens": 5}),
        json!({"stop": [], "logit_bias": {}, "moderation": null}),
    ] {
        let (request, _) = chat(&chat_with(extra.clone())).unwrap_or_else(|e| panic!("{extra}: {e}"));
        let (bare, _) = chat(&chat_with(json!({}))).unwrap();
        let request = Request {
            max_tokens: None,
            labels: bare.labels.clone(),
            tool_choice: None,
            parallel_tools: None,
            format: None,
            ..request
        };
        assert_eq!(request, bare, "{extra}");
    }
    for extra in
        [json!({"echo": false, "best_of": 1}), json!({"user": "u", "suffix": null, "logprobs": null})]
    {
        completions(&text_with(extra.clone())).unwrap_or_else(|e| panic!("{extra}: {e}"));
    }
    assert_eq!(completions(&text_with(json!({"best_of": 3, "n": 3}))).unwrap().0.choices, 3);
}

#[test]
fn fields_that_change_the_answer_are_refused_by_name() {
    for (param, value) in [
        ("tools", json!([{"type": "function", "function": {"name": "f"}}])),
        ("tools", json!([{"type": "web_search"}])),
        ("tool_choice", json!("required")),
        ("tool_choice", json!({"type": "function"})),
        ("functions", json!([{}])),
        ("function_call", json!({"name": "f"})),
        ("response_format", json!({"type": "json_object"})),
        ("response_format", json!({"type": "json_schema", "json_schema": {}})),
        ("modalities", json!(["text", "audio"])),
        ("audio", json!({"voice": "x"})),
        ("prediction", json!({"type": "content"})),
        ("reasoning_effort", json!("low")),
        ("verbosity", json!("low")),
        ("web_search_options", json!({})),
        ("moderation", json!({"model": "m"})),
        ("service_tier", json!("flex")),
    ] {
        assert_refused(chat(&chat_with(json!({param: value}))), param, "unsupported_parameter");
    }
    for (param, value) in [("echo", json!(true)), ("best_of", json!(2)), ("service_tier", json!("priority"))]
    {
        assert_refused(completions(&text_with(json!({param: value}))), param, "unsupported_parameter");
    }
    assert_refused(completions(&text_with(json!({"prompt": ["a", "b"]}))), "prompt", "unsupported_parameter");
    assert_refused(completions(&text_with(json!({"prompt": [[1], [2]]}))), "prompt", "unsupported_parameter");
    assert_refused(
        chat(&chat_with(json!({"stream": true, "stream_options": {"include_obfuscation": true}}))),
        "stream_options.include_obfuscation",
        "unsupported_parameter",
    );
}

#[test]
fn unknown_fields_are_refused_by_name_at_every_level() {
    assert_refused(chat(&chat_with(json!({"temprature": 1}))), "temprature", "unknown_parameter");
    assert_refused(completions(&text_with(json!({"messages": []}))), "messages", "unknown_parameter");
    assert_refused(
        chat(&chat_with(json!({"messages": [{"role": "user", "content": "x", "cache_control": {}}]}))),
        "messages[0].cache_control",
        "unknown_parameter",
    );
    assert_refused(
        chat(&chat_with(
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "", "x": 1}]}]}),
        )),
        "messages[0].content[0].x",
        "unknown_parameter",
    );
    assert_refused(
        chat(&chat_with(json!({"stream": true, "stream_options": {"x": 1}}))),
        "stream_options.x",
        "unknown_parameter",
    );
}

#[test]
fn ranges_end_where_they_should() {
    for (param, good, bad) in [
        ("temperature", json!(2), json!(2.1)),
        ("temperature", json!(0), json!(-0.1)),
        ("top_p", json!(1), json!(1.01)),
        ("top_p", json!(0), json!(-1)),
        ("min_p", json!(1), json!(2)),
        ("top_k", json!(0), json!(-2)),
        ("repetition_penalty", json!(1), json!(0)),
        ("presence_penalty", json!(-2), json!(-2.5)),
        ("frequency_penalty", json!(2), json!(2.5)),
        ("logit_bias", json!({"1": 100}), json!({"1": 101})),
        ("logit_bias", json!({"1": 1}), json!({"01": 1})),
        ("logit_bias", json!({"4294967295": 1}), json!({"4294967296": 1})),
        ("n", json!(1), json!(0)),
        ("n", json!(128), json!(129)),
        ("max_tokens", json!(1), json!(0)),
        ("max_tokens", json!(u32::MAX), json!(1_u64 << 32)),
        ("max_completion_tokens", json!(1), json!(-1)),
        ("seed", json!(i64::MIN), json!(u64::MAX)),
        ("stop", json!(vec!["a"; 16]), json!([""])),
        ("stop", json!("x".repeat(1024)), json!("x".repeat(1025))),
        ("user", json!(""), json!(1)),
    ] {
        chat(&chat_with(json!({param: good}))).unwrap_or_else(|e| panic!("{param}: {e}"));
        let error = chat(&chat_with(json!({param: bad}))).expect_err(param);
        assert_eq!((error.kind, error.param.as_deref()), (ErrorKind::InvalidRequest, Some(param)), "{error}");
    }
    let logprobs = |top: u32| chat(&chat_with(json!({"logprobs": true, "top_logprobs": top})));
    assert_eq!(logprobs(20).unwrap().0.logprobs, Some(20));
    assert_refused(logprobs(21), "top_logprobs", "invalid_value");
    assert_refused(chat(&chat_with(json!({"top_logprobs": 2}))), "top_logprobs", "invalid_value");
    assert_eq!(chat(&chat_with(json!({"logprobs": true}))).unwrap().0.logprobs, Some(0));
    assert_refused(
        chat(&chat_with(json!({"max_tokens": 1, "max_completion_tokens": 2}))),
        "max_tokens",
        "invalid_value",
    );
    assert_refused(
        chat(&chat_with(json!({"stream_options": {"include_usage": true}}))),
        "stream_options",
        "invalid_value",
    );
    assert_refused(chat(&chat_with(json!({"stop": vec!["a"; 17]}))), "stop", "request_too_large");
}

#[test]
fn wrong_types_are_refused_without_quoting_them() {
    for (param, bad) in [
        ("model", json!(7)),
        ("messages", json!("hi secret")),
        ("temperature", json!("secret")),
        ("max_tokens", json!(1.5)),
        ("max_tokens", json!("secret")),
        ("stream", json!("secret")),
        ("stop", json!([1])),
        ("stop", json!({"secret": 1})),
        ("logprobs", json!(2)),
        ("metadata", json!("secret")),
        ("logit_bias", json!([])),
        ("n", json!(true)),
    ] {
        let error = chat(&chat_with(json!({param: bad}))).expect_err(param);
        assert!(error.param.as_deref().is_some_and(|at| at.starts_with(param)), "{error:?}");
        assert!(!error.message.contains("secret"), "{error}");
    }
}

#[test]
fn messages_that_cannot_be_read() {
    for (messages, param) in [
        (json!([]), "messages"),
        (json!(["x"]), "messages[0]"),
        (json!([{"content": "x"}]), "messages[0].role"),
        (json!([{"role": "tool", "content": "x", "tool_call_id": "1"}]), "messages[0].role"),
        (json!([{"role": "tool", "content": "x"}]), "messages[0].tool_call_id"),
        (json!([{"role": "king", "content": "x"}]), "messages[0].role"),
        (json!([{"role": "user"}]), "messages[0].content"),
        (json!([{"role": "user", "content": null}]), "messages[0].content"),
        (json!([{"role": "user", "content": 5}]), "messages[0].content"),
        (json!([{"role": "user", "content": []}]), "messages[0].content"),
        (
            json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": null,
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}]),
            "messages[1].tool_calls",
        ),
        (
            json!([{"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]}]),
            "messages[0].tool_calls[0].function",
        ),
        (
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]),
            "messages[0].content[0].type",
        ),
        (json!([{"role": "user", "content": [{"type": "text"}]}]), "messages[0].content[0].text"),
        (json!([{"role": "user", "content": "a", "name": ""}]), "messages[0].name"),
        (json!([{"role": "user", "content": "a", "tool_calls": []}]), "messages[0].tool_calls"),
    ] {
        let error = chat(&chat_with(json!({"messages": messages}))).expect_err(param);
        assert_eq!((error.kind, error.param.as_deref()), (ErrorKind::InvalidRequest, Some(param)), "{error}");
    }
}

#[test]
fn missing_and_empty_essentials() {
    assert_refused(chat(&json!({"messages": []})), "model", "missing_required_parameter");
    assert_refused(chat(&json!({"model": "m"})), "messages", "missing_required_parameter");
    assert_refused(completions(&json!({"model": "m"})), "prompt", "missing_required_parameter");
    assert_refused(completions(&text_with(json!({"prompt": []}))), "prompt", "invalid_value");
    assert_refused(completions(&text_with(json!({"prompt": [[]]}))), "prompt", "invalid_value");
    assert_refused(completions(&text_with(json!({"model": ""}))), "model", "invalid_value");
    assert_refused(completions(&text_with(json!({"model": "a\nb"}))), "model", "invalid_value");
    for body in ["[]", "\"x\"", "7"] {
        assert!(parse_chat_request(body.as_bytes(), &Limits::default()).is_err());
    }
}

#[test]
fn prompts_of_completions() {
    let prompt = |value: Value| completions(&text_with(json!({"prompt": value}))).unwrap().0.prompt;
    let text = |text: &str| Prompt::Text { text: text.into(), suffix: None };
    assert_eq!(prompt(json!("")), text(""));
    assert_eq!(prompt(json!(["a"])), text("a"));
    assert_eq!(prompt(json!([1, 2])), Prompt::Tokens(vec![1, 2]));
    assert_eq!(prompt(json!([[3]])), Prompt::Tokens(vec![3]));
    let (request, _) = completions(&text_with(json!({"suffix": "", "logprobs": 0}))).unwrap();
    assert_eq!(request.prompt, Prompt::Text { text: "hi".into(), suffix: Some(String::new()) });
    assert_eq!((request.logprobs, request.max_tokens), (Some(0), Some(COMPLETIONS_DEFAULT_MAX_TOKENS)));
    for bad in
        [json!([1, "a"]), json!([1.5]), json!([-1]), json!([[1, "a"]]), json!([true]), json!({}), json!(1)]
    {
        let error = completions(&text_with(json!({"prompt": bad}))).unwrap_err();
        assert!(error.param.unwrap().starts_with("prompt"), "{bad}");
    }
    assert_refused(completions(&text_with(json!({"prompt": [1], "suffix": "x"}))), "suffix", "invalid_value");
}

#[test]
fn limits_are_kept() {
    let limits =
        Limits { messages: 2, prompt_bytes: 8, prompt_tokens: 2, logit_bias: 1, ..Limits::default() };
    let chat = |body: &Value| parse_chat_request(body.to_string().as_bytes(), &limits);
    let text = |body: &Value| parse_completions_request(body.to_string().as_bytes(), &limits);
    let message = json!({"role": "user", "content": "1234"});
    assert!(chat(&chat_with(json!({"messages": [message, message]}))).is_ok());
    let long = json!({"role": "user", "content": "12345"});
    for (result, param) in [
        (chat(&chat_with(json!({"messages": [message, message, message]}))), "messages"),
        (chat(&chat_with(json!({"messages": [message, long]}))), "messages"),
        (text(&text_with(json!({"prompt": "12345", "suffix": "6789"}))), "prompt"),
        (text(&text_with(json!({"prompt": [1, 2, 3]}))), "prompt"),
        (text(&text_with(json!({"logit_bias": {"1": 1, "2": 2}}))), "logit_bias"),
    ] {
        assert_refused(result, param, "request_too_large");
    }
}

#[test]
fn a_key_twice_is_refused() {
    let body = br#"{"model":"a","model":"b","messages":[{"role":"user","content":"x"}]}"#;
    assert_refused(parse_chat_request(body, &Limits::default()), "model", "duplicate_key");
}

#[test]
fn seeds_below_zero_keep_their_bits() {
    let (request, _) = chat(&chat_with(json!({"seed": -1}))).unwrap();
    assert_eq!(request.sampling.seed, Some(u64::MAX));
}

/// Values that do not belong where they stand.
fn odd_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!(null)),
        Just(json!([])),
        Just(json!({})),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
        proptest::collection::vec(any::<u32>(), 0..4).prop_map(Value::from),
    ]
}

proptest! {
    #[test]
    fn any_value_in_any_field_ends_in_a_request_or_a_named_error(
        field in proptest::sample::select(vec!["model", "messages", "prompt", "suffix", "temperature", "top_k", "seed",
            "stop", "n", "stream", "stream_options", "logprobs", "top_logprobs", "logit_bias", "max_tokens", "tools",
            "response_format", "metadata", "echo", "best_of", "service_tier", "zzz"]),
        value in odd_value(),
    ) {
        for result in [chat(&chat_with(json!({field: value}))), completions(&text_with(json!({field: value})))] {
            if let Err(error) = result {
                prop_assert_eq!(error.kind, ErrorKind::InvalidRequest);
                prop_assert!(error.param.unwrap().starts_with(field));
            }
        }
    }
}
