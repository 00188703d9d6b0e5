//! Finds requests whose length can be read in two ways.
//!
//! The HTTP library takes `Content-Length` twice with the same value, and `Content-Length` beside
//! `Transfer-Encoding`, by dropping one of the two. A proxy in front that drops the other sees different requests in
//! the same bytes (request smuggling). So the bytes of an HTTP/1 connection are watched on their way in, and the
//! request at fault is refused by its number. What counts as a header is decided by the same parser that the library
//! uses.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

/// The first bytes of an HTTP/2 connection; no HTTP/1 request starts so.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Why a request is refused before anything looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadProblem {
    /// Its lengths contradict each other, or could.
    Lengths,
    /// Its headers are larger than the limit.
    TooLarge,
    /// It cannot be parsed.
    Malformed,
    /// It follows a request after which the connection ends.
    AfterClose,
}

/// The first request of a connection that must not be answered. Written by the reader, read by the service.
#[derive(Clone, Debug, Default)]
pub(super) struct Verdict(Arc<OnceLock<(u64, HeadProblem)>>);

impl Verdict {
    /// Why the request with this number (from 0) is refused, if it is.
    pub(super) fn refusal(&self, number: u64) -> Option<HeadProblem> {
        self.0.get().filter(|(first, _)| number >= *first).map(|&(_, problem)| problem)
    }

    fn refuse_from(&self, number: u64, problem: HeadProblem) {
        // The first problem ends the connection: a later one cannot matter.
        let _ = self.0.set((number, problem));
    }
}

/// Follows the requests of one connection through its bytes.
#[derive(Debug)]
pub(super) struct HeadWatch {
    state: State,
    /// The number of the request whose head comes next.
    number: u64,
    header_bytes: usize,
    headers: usize,
    verdict: Verdict,
}

#[derive(Debug)]
enum State {
    /// Inside a head: its bytes so far.
    Head(Vec<u8>),
    /// Inside a body: its bytes to come.
    Body(u64),
    /// HTTP/2, or nothing more to be learnt.
    Off,
}

/// How a request's body ends.
enum Framing {
    Length(u64),
    Chunked,
}

impl HeadWatch {
    pub(super) fn new(header_bytes: usize, headers: usize, verdict: Verdict) -> Self {
        Self { state: State::Head(Vec::new()), number: 0, header_bytes, headers, verdict }
    }

    /// Takes the next bytes. They must reach the HTTP library only afterwards.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Off => return,
                State::Body(left) => {
                    let taken = (*left).min(bytes.len() as u64);
                    *left -= taken;
                    bytes = bytes.get(taken as usize..).unwrap_or_default();
                    if *left == 0 {
                        self.state = State::Head(Vec::new());
                    }
                }
                State::Head(head) => {
                    let mut head = std::mem::take(head);
                    let before = head.len();
                    let head = if before == 0 {
                        Cow::Borrowed(bytes)
                    } else {
                        head.extend_from_slice(bytes);
                        Cow::Owned(head)
                    };
                    // The bytes of this piece that belong to the head, once the head is whole.
                    let Some(length) = self.head(head, before) else { return };
                    bytes = bytes.get(length.saturating_sub(before)..).unwrap_or_default();
                }
            }
        }
    }

    /// Looks at a head of which `old` bytes were seen before. The head's length when it is whole and a body or
    /// another head follows.
    fn head(&mut self, head: Cow<'_, [u8]>, old: usize) -> Option<usize> {
        if self.number == 0 && (head.starts_with(HTTP2_PREFACE) || HTTP2_PREFACE.starts_with(&head)) {
            let whole = head.len() >= HTTP2_PREFACE.len();
            self.state = if whole { State::Off } else { State::Head(head.into_owned()) };
            return None;
        }
        if !may_end(head.get(old.saturating_sub(2)..).unwrap_or_default()) {
            return self.wait(head);
        }
        // Few requests have more headers than these.
        let (mut few, mut many) = ([httparse::EMPTY_HEADER; 32], Vec::new());
        let usual = few.len().min(self.headers);
        let mut request = httparse::Request::new(few.get_mut(..usual).unwrap_or_default());
        let mut parsed = request.parse(&head);
        if parsed == Err(httparse::Error::TooManyHeaders) {
            many.resize(self.headers, httparse::EMPTY_HEADER);
            request = httparse::Request::new(&mut many);
            parsed = request.parse(&head);
        }
        match parsed {
            Ok(httparse::Status::Partial) => self.wait(head),
            Ok(httparse::Status::Complete(length)) if length > self.header_bytes => {
                self.refuse(HeadProblem::TooLarge)
            }
            Ok(httparse::Status::Complete(length)) => match framing(request.headers) {
                None => self.refuse(HeadProblem::Lengths),
                Some(Framing::Chunked) => {
                    // Chunks are not followed; instead the connection ends after a chunked request.
                    self.number += 1;
                    self.refuse(HeadProblem::AfterClose)
                }
                Some(Framing::Length(body)) => {
                    self.number += 1;
                    self.state = if body == 0 { State::Head(Vec::new()) } else { State::Body(body) };
                    Some(length)
                }
            },
            Err(httparse::Error::TooManyHeaders) => self.refuse(HeadProblem::TooLarge),
            Err(_) => self.refuse(HeadProblem::Malformed),
        }
    }

    fn wait(&mut self, head: Cow<'_, [u8]>) -> Option<usize> {
        if head.len() > self.header_bytes {
            return self.refuse(HeadProblem::TooLarge);
        }
        self.state = State::Head(head.into_owned());
        None
    }

    fn refuse(&mut self, problem: HeadProblem) -> Option<usize> {
        self.verdict.refuse_from(self.number, problem);
        self.state = State::Off;
        None
    }
}

/// Whether an empty line is in these bytes: a head cannot end without one.
fn may_end(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).any(|at| {
        let next = bytes.get(at + 1..).unwrap_or_default();
        next.starts_with(b"\n") || next.starts_with(b"\r\n")
    })
}

/// How long the body is, when the headers say it in one way only.
fn framing(headers: &[httparse::Header<'_>]) -> Option<Framing> {
    let values = |name: &'static str| {
        headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    };
    let mut lengths = values("content-length");
    let mut encodings = values("transfer-encoding");
    match (lengths.next(), lengths.next(), encodings.next(), encodings.next()) {
        (None, None, None, None) => Some(Framing::Length(0)),
        (Some(length), None, None, None) => {
            let digits = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
            let length = digits.then(|| std::str::from_utf8(length).ok()?.parse().ok()).flatten()?;
            Some(Framing::Length(length))
        }
        (None, None, Some(encoding), None) => {
            encoding.eq_ignore_ascii_case(b"chunked").then_some(Framing::Chunked)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The first refused request of a connection that sends these bytes in pieces of this size.
    fn first_refused(bytes: &[u8], piece: usize) -> Option<(u64, HeadProblem)> {
        let verdict = Verdict::default();
        let mut watch = HeadWatch::new(512, 16, verdict.clone());
        for piece in bytes.chunks(piece) {
            watch.feed(piece);
        }
        verdict.0.get().copied()
    }

    fn check(bytes: &str, expected: Option<(u64, HeadProblem)>) {
        for piece in [1, 2, 3, 7, 64, 4096] {
            assert_eq!(first_refused(bytes.as_bytes(), piece), expected, "{bytes:?} in pieces of {piece}");
        }
    }

    #[test]
    fn one_length_is_followed_to_the_next_request() {
        let post = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\na\n\nbc";
        check(post, None);
        check(&post.repeat(3), None);
        check(&format!("{post}\r\n{post}"), None);
        let bad = "POST / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nabcde";
        check(&format!("{post}{post}{bad}"), Some((2, HeadProblem::Lengths)));
    }

    #[test]
    fn two_lengths_are_refused() {
        for lines in [
            "Content-Length: 5\r\ncontent-length: 5",
            "Content-Length: 5\r\ncontent-length: 6",
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "transfer-encoding: chunked\r\nCONTENT-LENGTH: 5",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: identity",
            "Content-Length: 5, 5",
            "Content-Length: +5",
            "Content-Length: 99999999999999999999",
            "Content-Length:",
        ] {
            let bytes = format!("POST / HTTP/1.1\r\nhost: a\r\n{lines}\r\n\r\n");
            check(&bytes, Some((0, HeadProblem::Lengths)));
        }
    }

    #[test]
    fn nothing_follows_chunks() {
        let bytes = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n";
        check(bytes, Some((1, HeadProblem::AfterClose)));
    }

    #[test]
    fn large_heads_are_refused() {
        let line = format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "x".repeat(600));
        check(&line, Some((0, HeadProblem::TooLarge)));
        check(&"x".repeat(600), Some((0, HeadProblem::TooLarge)));
        check(&format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(17)), Some((0, HeadProblem::TooLarge)));
        check(&format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(16)), None);
    }

    #[test]
    fn the_limit_of_headers_holds_beyond_the_few_that_are_usual() {
        for (limit, count, refused) in [(100, 33, false), (100, 100, false), (100, 101, true), (40, 41, true)]
        {
            let verdict = Verdict::default();
            let mut watch = HeadWatch::new(1 << 16, limit, verdict.clone());
            watch.feed(format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count)).as_bytes());
            let expected = refused.then_some((0, HeadProblem::TooLarge));
            assert_eq!(verdict.0.get().copied(), expected, "{count} headers of at most {limit}");
        }
    }

    #[test]
    fn http2_is_left_alone() {
        check("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\ncontent-length: 5\r\n\r\n\n\n", None);
    }

    #[test]
    fn hidden_headers_are_malformed() {
        for line in ["Content-Length : 5", " Content-Length: 5", "a: b\r\n\tc"] {
            let bytes = format!("POST / HTTP/1.1\r\nhost: a\r\n{line}\r\n\r\n");
            let refused = first_refused(bytes.as_bytes(), 4096);
            assert!(matches!(refused, Some((0, HeadProblem::Malformed))), "{line:?}: {refused:?}");
        }
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..5),
            end in prop::sample::select(vec![
                "GET / HTTP/1.1\r\n\r\n",
                "POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx",
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            ]),
            piece in 1_usize..50,
        ) {
            let mut bytes = Vec::new();
            for body in &bodies {
                bytes.extend_from_slice(format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
                bytes.extend_from_slice(body);
            }
            bytes.extend_from_slice(end.as_bytes());
            let whole = first_refused(&bytes, bytes.len());
            prop_assert_eq!(first_refused(&bytes, piece), whole);
            let count = bodies.len() as u64;
            let expected = match end.len() {
                18 => None,
                _ if end.contains("chunked") => Some((count + 1, HeadProblem::AfterClose)),
                _ => Some((count, HeadProblem::Lengths)),
            };
            prop_assert_eq!(whole, expected);
        }
    }
}
