//! What every provider's dialect makes of streams that break and of redirects.

use nearfield_api::{Backend as _, Dialect, ErrorKind};
use nearfield_testkit::cloud_server::{CloudServer, Script};
use nearfield_testkit::cloud_streams::{BEGINNING, Broken, broken};

use crate::conformance::{Setup, ask, says};
use crate::support::{drain, text};

#[tokio::test]
async fn broken_streams_of_every_dialect_are_never_whole_answers() {
    let setup = Setup::new().await;
    for provider in setup.providers(false) {
        let backend = setup.build(&provider);
        // So that a service account has its token.
        ask(&backend, says("hello")).await.unwrap();
        let Broken { media_type, begin, fault } = broken(provider.dialect);
        // The provider says that it failed; the connection just ends; it ends inside a frame.
        for (what, rest) in
            [("fails", fault.clone()), ("ends", Vec::new()), ("is cut", fault[..fault.len() / 2].to_vec())]
        {
            let script = Script::stream_of(media_type).chunk(&begin);
            setup.server.next(if rest.is_empty() { script.end() } else { script.chunk(rest).end() });
            let stream = backend.generate(Box::new(says("x"))).await.unwrap();
            let (events, error) = drain(stream).await.unwrap_err();
            let said = text(&events);
            assert!(said.starts_with(BEGINNING) && said.len() < 8, "{} {what}: {said}", provider.name);
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
