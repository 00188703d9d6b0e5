//! What every provider's dialect makes of streams that break and of redirects.

use nearfield_api::{Backend as _, Dialect, ErrorKind};
use nearfield_testkit::cloud_server::{CloudServer, Script};

use crate::conformance::{Setup, ask, says};
use crate::support::{drain, text};

#[tokio::test]
async fn broken_streams_of_every_dialect_are_never_whole_answers() {
    let setup = Setup::new().await;
    for provider in setup.providers(false) {
        let backend = setup.build(&provider);
        // So that a service account has its token.
        ask(&backend, says("hello")).await.unwrap();
        let (media_type, begin, fault) = match provider.dialect {
            Dialect::OpenAiChat => (
                "text/event-stream",
                "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"ab\"}}]}\n\n".to_owned().into_bytes(),
                b"data: {\"error\":{\"message\":\"m\",\"type\":\"overloaded_error\"}}\n\n".to_vec(),
            ),
            Dialect::OpenAiResponses => (
                "text/event-stream",
                b"data: {\"type\":\"response.output_text.delta\",\"output_index\":0,\"delta\":\"ab\"}\n\n".to_vec(),
                b"data: {\"type\":\"response.failed\",\"response\":{\"status\":\"failed\",\"error\":{\"code\":\"rate_limit_exceeded\",\"message\":\"m\"}}}\n\n".to_vec(),
            ),
            Dialect::Anthropic => (
                "text/event-stream",
                b"event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"ab\"}}\n\n".to_vec(),
                b"event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n".to_vec(),
            ),
            Dialect::Gemini => (
                "text/event-stream",
                b"data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"ab\"}]}}]}\r\n\r\n".to_vec(),
                b"data: {\"error\":{\"code\":503,\"message\":\"m\",\"status\":\"UNAVAILABLE\"}}\r\n\r\n".to_vec(),
            ),
            Dialect::Bedrock => {
                let frame = |headers: &[(&str, &str)], payload: &[u8]| {
                    let mut out = Vec::new();
                    nearfield_api::bedrock::write_message(&mut out, headers, payload);
                    out
                };
                let delta = [(":event-type", "contentBlockDelta"), (":message-type", "event")];
                let exception = [(":exception-type", "throttlingException"), (":message-type", "exception")];
                (
                    "application/vnd.amazon.eventstream",
                    frame(&delta, b"{\"contentBlockIndex\":0,\"delta\":{\"text\":\"ab\"}}"),
                    frame(&exception, b"{\"message\":\"slow down\"}"),
                )
            }
        };
        // The provider says that it failed; the connection just ends; it ends inside a frame.
        for (what, rest) in
            [("fails", fault.clone()), ("ends", Vec::new()), ("is cut", fault[..fault.len() / 2].to_vec())]
        {
            let script = Script::stream_of(media_type).chunk(&begin);
            setup.server.next(if rest.is_empty() { script.end() } else { script.chunk(rest).end() });
            let stream = backend.generate(Box::new(says("x"))).await.unwrap();
            let (events, error) = drain(stream).await.unwrap_err();
            assert_eq!(text(&events), "ab", "{} {what}", provider.name);
            let expected = if what == "fails" {
                matches!(error.kind, ErrorKind::Overloaded | ErrorKind::RateLimited)
            } else {
                error.kind == ErrorKind::Upstream
            };
            assert!(expected, "{} {what}: {error:?}", provider.name);
        }
    }
    // A changed byte in AWS's framing.
    let provider = setup.providers(false).into_iter().find(|p| p.dialect == Dialect::Bedrock).unwrap();
    let mut bytes = Vec::new();
    let headers = [(":event-type", "contentBlockDelta"), (":message-type", "event")];
    nearfield_api::bedrock::write_message(
        &mut bytes,
        &headers,
        b"{\"contentBlockIndex\":0,\"delta\":{\"text\":\"ab\"}}",
    );
    bytes[60] ^= 1;
    setup.server.next(Script::stream_of("application/vnd.amazon.eventstream").chunk(bytes).end());
    let error = setup.build(&provider).generate(Box::new(says("x"))).await.err().unwrap();
    assert!(error.message.contains("checksum"), "{error}");
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_nothing_reaches_its_target() {
    let setup = Setup::new().await;
    let elsewhere = CloudServer::start().await.unwrap();
    for provider in setup.providers(false) {
        let target = format!("{}/chat/completions", elsewhere.base_url());
        setup.server.next(Script::answer(307, &[("Location", target.as_str())], ""));
        // A service account's first request is for its token.
        let error = ask(&setup.build(&provider), says("x")).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Upstream, "{}", provider.name);
    }
    assert!(elsewhere.seen().is_empty());
}
