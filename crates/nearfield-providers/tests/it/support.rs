//! What the tests share.

use std::time::Duration;

use futures_util::StreamExt as _;
use nearfield_api::{Backend as _, Error, Event, EventStream, Message, Prompt, Request, Role};
use nearfield_providers::{OpenAiCompatible, OpenAiCompatibleOptions, Secret, Timeouts};
use nearfield_testkit::cloud_server::CloudServer;

/// The key that no error may show.
pub(crate) const KEY: &str = "sk-test-0123456789abcdefghij";

/// Long enough for a busy machine where it must not pass, and short where it must.
pub(crate) const SHORT: Duration = Duration::from_millis(300);

pub(crate) fn options(base_url: &str) -> OpenAiCompatibleOptions {
    OpenAiCompatibleOptions { key: Some(Secret::new(KEY)), ..OpenAiCompatibleOptions::new("cloud", base_url) }
}

pub(crate) fn backend(server: &CloudServer) -> OpenAiCompatible {
    OpenAiCompatible::new(options(&server.base_url())).unwrap()
}

pub(crate) fn impatient(server: &CloudServer, change: impl FnOnce(&mut Timeouts)) -> OpenAiCompatible {
    let mut options = options(&server.base_url());
    change(&mut options.timeouts);
    OpenAiCompatible::new(options).unwrap()
}

pub(crate) fn request() -> Request {
    Request { stream: true, ..Request::new("m", Prompt::Chat(vec![Message::new(Role::User, "12345678")])) }
}

/// Everything that a stream says.
pub(crate) async fn drain(stream: EventStream) -> Result<Vec<Event>, (Vec<Event>, Error)> {
    let mut events = Vec::new();
    let mut stream = stream;
    while let Some(item) = stream.next().await {
        match item {
            Ok(event) => events.push(event),
            Err(error) => {
                assert!(stream.next().await.is_none(), "something came after an error");
                return Err((events, error));
            }
        }
    }
    Ok(events)
}

/// The whole answer; panics when there is none.
pub(crate) async fn ask(backend: &OpenAiCompatible, request: Request) -> Vec<Event> {
    let stream = backend.generate(Box::new(request)).await.unwrap();
    let events = drain(stream).await.unwrap();
    assert!(matches!(events.first(), Some(Event::Started { .. })), "{events:?}");
    assert!(matches!(events.last(), Some(Event::Done { .. })), "{events:?}");
    events
}

/// The error before the first token; panics when there is none.
pub(crate) async fn refused(backend: &OpenAiCompatible) -> Error {
    match backend.generate(Box::new(request())).await {
        Ok(stream) => panic!("an answer: {:?}", drain(stream).await),
        Err(error) => error,
    }
}

/// The text before an error in the middle, and the error.
pub(crate) async fn broken(backend: &OpenAiCompatible) -> (String, Error) {
    let stream = backend.generate(Box::new(request())).await.unwrap();
    let (events, error) = drain(stream).await.unwrap_err();
    assert!(!events.iter().any(|event| matches!(event, Event::Done { .. })), "{events:?}");
    (text(&events), error)
}

pub(crate) fn text(events: &[Event]) -> String {
    let pieces = events.iter().map(|event| match event {
        Event::Delta { text, .. } => text.as_str(),
        _ => "",
    });
    pieces.collect()
}
