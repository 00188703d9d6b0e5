//! Who holds a connection, and how long.

use std::time::Duration;

use futures_util::StreamExt as _;
use nearfield_api::Backend as _;
use nearfield_testkit::cloud_server::{CloudServer, Script, delta, finish};

use crate::support::{ask, backend, request};

#[tokio::test]
async fn dropping_an_answer_closes_its_connection() {
    let server = CloudServer::start().await.unwrap();
    let backend = backend(&server);
    server.next(Script::stream().event(&delta("ab")).silence());
    let mut stream = backend.generate(request()).await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    drop(stream);
    server.clients_gone(1).await.unwrap();
}

#[tokio::test]
async fn giving_up_before_the_answer_closes_the_connection_too() {
    let server = CloudServer::start().await.unwrap();
    let backend = backend(&server);
    for (gone, script) in [(1, Script::new().silence()), (2, Script::stream().chunk(": wait\n\n").silence())]
    {
        server.next(script);
        let waiting = backend.generate(request());
        assert!(tokio::time::timeout(Duration::from_millis(200), waiting).await.is_err());
        server.clients_gone(gone).await.unwrap();
    }
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_whole_answer_leaves_its_connection_for_the_next() {
    let server = CloudServer::start().await.unwrap();
    let backend = backend(&server);
    for _ in 0..5 {
        ask(&backend, request()).await;
    }
    assert_eq!((server.seen().len(), server.connections()), (5, 1));
    // Also when the body's end comes a moment after the answer's.
    let whole = Script::stream().event(&delta("ab")).event(&finish("stop")).event("[DONE]");
    server.next(whole.pause(Duration::from_millis(5)).end());
    ask(&backend, request()).await;
    ask(&backend, request()).await;
    assert_eq!((server.seen().len(), server.connections()), (7, 1));
}
