//! All that can go wrong at the other end: each fault is one error of the right kind, and never a whole answer.

use std::time::{Duration, Instant, SystemTime};

use nearfield_api::{Error, ErrorKind};
use nearfield_providers::OpenAiCompatible;
use nearfield_testkit::cloud_server::{CloudServer, Script, delta, finish};
use serde_json::json;

use crate::support::{SHORT, backend, broken, impatient, options, refused};

fn is(error: &Error, kind: ErrorKind, says: &str) {
    assert_eq!(error.kind, kind, "{error}");
    assert!(error.message.contains(says), "{error}");
    assert!(error.message.starts_with("The backend `cloud`"), "{error}");
}

#[tokio::test]
async fn refusals_before_the_answer() {
    let server = CloudServer::start().await.unwrap();
    let backend = backend(&server);
    let page = || "<html><body>nginx</body></html>".to_owned();
    let error = |message: &str| json!({"error": {"message": message}}).to_string();
    for (status, body, kind, says) in [
        (400, error("bad field"), ErrorKind::InvalidRequest, "bad field"),
        (400, page(), ErrorKind::InvalidRequest, "HTTP 400"),
        (
            400,
            r#"{"error":{"message":"m","code":"context_length_exceeded"}}"#.to_owned(),
            ErrorKind::ContextLength,
            "context",
        ),
        (401, error("wrong key"), ErrorKind::Upstream, "check the key"),
        (403, page(), ErrorKind::Upstream, "check the key"),
        (404, error("no such model"), ErrorKind::NotFound, "no such model"),
        (404, page(), ErrorKind::Upstream, "base URL"),
        (413, page(), ErrorKind::InvalidRequest, "too large"),
        (429, page(), ErrorKind::RateLimited, "rate"),
        (500, page(), ErrorKind::Upstream, "failed"),
        (502, String::new(), ErrorKind::Upstream, "failed"),
        (503, "[]".to_owned(), ErrorKind::Overloaded, "overloaded"),
        (504, page(), ErrorKind::Timeout, "too long"),
        (529, error("overloaded"), ErrorKind::Overloaded, "overloaded"),
        (201, page(), ErrorKind::Upstream, "not expected"),
        (204, String::new(), ErrorKind::Upstream, "not expected"),
    ] {
        server.next(Script::answer(status, &[("Content-Type", "text/html")], body));
        is(&refused(&backend).await, kind, says);
    }
}

#[tokio::test]
async fn retry_after_in_both_forms() {
    let server = CloudServer::start().await.unwrap();
    let backend = backend(&server);
    for status in [429, 503, 529] {
        server.next(Script::answer(status, &[("Retry-After", "7")], "slow down"));
        assert_eq!(refused(&backend).await.retry_after, Some(Duration::from_secs(7)));
        server.next(Script::answer(status, &[], "slow down"));
        assert_eq!(refused(&backend).await.retry_after, None);
    }
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_mins(1));
    server.next(Script::answer(429, &[("Retry-After", &date)], "slow down"));
    let wait = refused(&backend).await.retry_after.unwrap();
    assert!((Duration::from_secs(50)..=Duration::from_mins(1)).contains(&wait), "{wait:?}");
}

#[tokio::test]
async fn redirects_are_refused() {
    let server = CloudServer::start().await.unwrap();
    let other = CloudServer::start().await.unwrap();
    let backend = backend(&server);
    for status in [301, 302, 303, 307, 308] {
        let location = format!("{}/chat/completions", other.base_url());
        server.next(Script::answer(status, &[("Location", &location)], ""));
        is(&refused(&backend).await, ErrorKind::Upstream, "redirect");
    }
    assert!(other.seen().is_empty(), "a redirect was followed");
}

#[tokio::test]
async fn a_connection_that_fails_is_tried_once() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let backend = OpenAiCompatible::new(options(&format!("http://{address}/v1"))).unwrap();
    is(&refused(&backend).await, ErrorKind::Upstream, "cannot be reached");

    // With TLS too: whether to try again is for whoever asks.
    let listener = std::net::TcpListener::bind(address).unwrap();
    let backend = OpenAiCompatible::new(options(&format!("https://{address}/v1"))).unwrap();
    let server = std::thread::spawn(move || {
        drop(listener.accept().unwrap());
        listener.set_nonblocking(true).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        listener.accept().is_ok()
    });
    is(&refused(&backend).await, ErrorKind::Upstream, "cannot be reached");
    assert!(!server.join().unwrap(), "it was tried again");
}

#[tokio::test]
async fn what_has_been_sent_is_not_sent_again() {
    let server = CloudServer::start().await.unwrap();
    let backend = backend(&server);
    server.next(Script::new().reset());
    is(&refused(&backend).await, ErrorKind::Upstream, "before it answered");
    server.next(Script::new());
    is(&refused(&backend).await, ErrorKind::Upstream, "before it answered");
    server.next(Script::new().bytes("HTTP/1.1 200 OK\r\nContent-Ty"));
    is(&refused(&backend).await, ErrorKind::Upstream, "before it answered");
    server.next(Script::new().bytes("SSH-2.0-OpenSSH_9.9\r\n"));
    is(&refused(&backend).await, ErrorKind::Upstream, "before it answered");
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn silence_before_the_answer() {
    let server = CloudServer::start().await.unwrap();
    let byte = impatient(&server, |timeouts| timeouts.first_byte = SHORT);
    let started = Instant::now();
    server.next(Script::new().silence());
    is(&refused(&byte).await, ErrorKind::Timeout, "did not answer");
    // A head that trickles is no answer either, however steadily it does.
    let mut loris = Script::new().bytes("HTTP/1.1 200 OK\r\n");
    for _ in 0..100 {
        loris = loris.bytes("X-Slow: 1\r\n").pause(Duration::from_millis(50));
    }
    server.next(loris.bytes("\r\n"));
    is(&refused(&byte).await, ErrorKind::Timeout, "did not answer");
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    server.clients_gone(2).await.unwrap();
}

#[tokio::test]
async fn comments_are_signs_of_life_only_for_so_long() {
    let server = CloudServer::start().await.unwrap();
    let backend = impatient(&server, |timeouts| {
        timeouts.idle = Duration::from_millis(200);
        timeouts.first_token = Duration::from_millis(700);
    });
    let comments = |count| {
        (0..count).fold(Script::stream(), |script: Script, _| {
            script.chunk(": waiting\n\n").pause(Duration::from_millis(50))
        })
    };
    // Longer than the silence that is borne, and in the end an answer.
    server.next(comments(8).event(&delta("ab")).event(&finish("stop")).end());
    crate::support::ask(&backend, crate::support::request()).await;
    let started = Instant::now();
    server.next(comments(100));
    is(&refused(&backend).await, ErrorKind::Timeout, "did not answer within 0.7 s");
    assert!(started.elapsed() >= Duration::from_millis(650));
    server.next(Script::stream().silence());
    is(&refused(&backend).await, ErrorKind::Timeout, "went silent for 0.2 s");
}

#[tokio::test]
async fn silence_in_the_middle() {
    let server = CloudServer::start().await.unwrap();
    let backend = impatient(&server, |timeouts| timeouts.idle = SHORT);
    server.next(Script::stream().event(&delta("ab")).silence());
    let (text, error) = broken(&backend).await;
    assert_eq!(text, "ab");
    is(&error, ErrorKind::Timeout, "went silent");
    server.clients_gone(1).await.unwrap();
    // Once there are tokens, comments do not stand for them.
    let comments = (0..40).fold(Script::stream().event(&delta("ab")), |script, _| {
        script.chunk(": waiting\n\n").pause(Duration::from_millis(50))
    });
    server.next(comments.event(&finish("stop")).end());
    is(&broken(&backend).await.1, ErrorKind::Timeout, "went silent");
}

#[tokio::test]
async fn a_cut_answer_is_never_taken_for_a_whole_one() {
    let server = CloudServer::start().await.unwrap();
    let backend = backend(&server);
    let start = || Script::stream().event(&delta("ab"));
    for (name, script, says) in [
        ("ends without a reason", start().end(), "was cut"),
        ("[DONE] without a reason", start().event("[DONE]").end(), "was cut"),
        ("connection closed", start(), "in the middle"),
        ("connection reset", start().pause(Duration::from_millis(100)).reset(), "in the middle"),
        ("cut inside an event", start().chunk("data: {\"choices\":[{\"de").end(), "not JSON"),
        ("cut inside a character", start().chunk(b"data: \xc3".as_slice()).end(), "UTF-8"),
        ("not JSON", start().event("oops").event(&finish("stop")).end(), "not JSON"),
        ("not UTF-8", start().chunk(b"data: \xff\n\n".as_slice()).end(), "UTF-8"),
        ("bad chunk length", start().bytes("zz\r\n"), "in the middle"),
        (
            "too large an event",
            start().chunks_of(1 << 16, "data: ".to_owned() + &"x".repeat(5 << 20)).end(),
            "larger than",
        ),
        ("an unknown reason", start().event(&finish("gave_up")).end(), "gave_up"),
    ] {
        server.next(script);
        let (text, error) = broken(&backend).await;
        assert_eq!(text, "ab", "{name}");
        assert_eq!(error.kind, ErrorKind::Upstream, "{name}: {error}");
        assert!(error.message.contains(says), "{name}: {error}");
    }
}

#[tokio::test]
async fn nothing_at_all_is_an_error_before_the_answer() {
    let server = CloudServer::start().await.unwrap();
    let backend = backend(&server);
    for script in [
        Script::stream().end(),
        Script::stream(),
        Script::stream().event("[DONE]").end(),
        Script::stream()
            .event(r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#)
            .end(),
        Script::json(200, &json!({})),
        Script::json(200, &json!({"choices": []})),
        // Of a whole answer nothing counts before its end.
        Script::json(200, &json!({"choices": [{"message": {"content": "ab"}, "finish_reason": "gave_up"}]})),
        Script::answer(200, &[("Content-Type", "application/json")], "{\"choices\""),
        Script::answer(200, &[("Content-Type", "text/html")], "<html>sign in</html>"),
        Script::answer(200, &[("Content-Type", "text/event-stream")], ""),
    ] {
        server.next(script.clone());
        let error = refused(&backend).await;
        assert_eq!(error.kind, ErrorKind::Upstream, "{script:?}: {error}");
    }
}

#[tokio::test]
async fn errors_after_the_start() {
    let server = CloudServer::start().await.unwrap();
    let backend = backend(&server);
    let overloaded = json!({"error": {"message": "m", "type": "overloaded_error"}}).to_string();
    for (chunk, kind) in [
        (format!("data: {overloaded}\n\n"), ErrorKind::Overloaded),
        (format!("event: error\ndata: {overloaded}\n\n"), ErrorKind::Overloaded),
        (
            "event: error\ndata: {\"message\":\"m\",\"code\":\"rate_limit_exceeded\"}\n\n".to_owned(),
            ErrorKind::RateLimited,
        ),
        ("event: error\ndata: the engine died\n\n".to_owned(), ErrorKind::Upstream),
    ] {
        server.next(Script::stream().event(&delta("ab")).chunk(&chunk).end());
        let (text, error) = broken(&backend).await;
        assert_eq!((text.as_str(), error.kind), ("ab", kind), "{chunk}");
        // The same before any token is an error of the start, after which others may be tried.
        server.next(Script::stream().chunk(": hello\n\n").chunk(&chunk).end());
        assert_eq!(refused(&backend).await.kind, kind, "{chunk}");
    }
}

#[tokio::test]
async fn huge_bodies_are_not_read_to_the_end() {
    let server = CloudServer::start().await.unwrap();
    let backend = backend(&server);
    let started = Instant::now();
    let refusal = Script::new().bytes("HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n");
    // What it would still send after this is not waited for.
    server.next(refusal.chunk(vec![b' '; 100_000]).silence());
    is(&refused(&backend).await, ErrorKind::Upstream, "failed");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    // An error body that never ends does not hold the error back for ever.
    let drip = Script::new().bytes("HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\n{").silence();
    server.next(drip);
    is(&refused(&backend).await, ErrorKind::Upstream, "failed");
}
