//! A provider that thinks for 20 ms. See `main.rs`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::{self, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::poll::{Poller, fill, head, length, widen};
use crate::{PIECES, letters, now};

const THINKING: Duration = Duration::from_millis(20);
const PACE: Duration = Duration::from_millis(5);

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// The length of the body that comes next, once its head is there, and the dialect.
    body: Option<(usize, bool)>,
    answer: Option<Answer>,
}

/// An answer on its way.
struct Answer {
    messages: bool,
    stream: bool,
    pieces: usize,
    sent: usize,
    begun: Instant,
}

pub fn run(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    widen(&listener)?;
    listener.set_nonblocking(true)?;
    println!("{}", listener.local_addr()?);
    let mut poller = Poller::new()?;
    poller.add(&listener, 0)?;
    let mut connections: BTreeMap<usize, Connection> = BTreeMap::new();
    let mut due: BinaryHeap<Reverse<(Instant, usize)>> = BinaryHeap::new();
    let mut last = 0;
    loop {
        let time = due.peek().map(|Reverse((at, _))| at.saturating_duration_since(Instant::now()));
        for name in poller.wait(time)? {
            if name == 0 {
                while let Ok((stream, _)) = listener.accept() {
                    last += 1;
                    stream.set_nodelay(true)?;
                    stream.set_nonblocking(true)?;
                    poller.add(&stream, last)?;
                    connections
                        .insert(last, Connection { stream, buffer: Vec::new(), body: None, answer: None });
                }
            } else if let Some(connection) = connections.get_mut(&name) {
                match connection.read() {
                    Ok(Some(at)) => due.push(Reverse((at, name))),
                    Ok(None) => {}
                    Err(_) => drop(connections.remove(&name)),
                }
            }
        }
        while let Some(&Reverse((at, name))) = due.peek().filter(|Reverse((at, _))| *at <= Instant::now()) {
            due.pop();
            let Some(connection) = connections.get_mut(&name) else { continue };
            match connection.go_on(at) {
                Ok(Some(next)) => due.push(Reverse((next, name))),
                Ok(None) => {}
                Err(_) => drop(connections.remove(&name)),
            }
        }
    }
}

impl Connection {
    /// Takes what came; when the answer to a whole request is due.
    fn read(&mut self) -> io::Result<Option<Instant>> {
        if !fill(&self.stream, &mut self.buffer)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.body.is_none() {
            let Some(head) = head(&mut self.buffer) else { return Ok(None) };
            self.body = Some((length(&head), head.starts_with("post /v1/messages")));
        }
        let Some((length, messages)) = self.body.filter(|(length, _)| self.buffer.len() >= *length) else {
            return Ok(None);
        };
        self.body = None;
        let body = String::from_utf8_lossy(&self.buffer[..length]);
        let has = |name: &str, value: &str| {
            body.find(name).is_some_and(|at| body[at + name.len()..].trim_start().starts_with(value))
        };
        let pieces = if has("\"model\":", "\"paced\"") { PIECES } else { 1 };
        let stream = has("\"stream\":", "true");
        self.buffer.drain(..length);
        let due = Instant::now() + THINKING;
        self.answer = Some(Answer { messages, stream, pieces, sent: 0, begun: due });
        Ok(Some(due))
    }

    /// Sends what is due; when the next piece is.
    fn go_on(&mut self, due: Instant) -> io::Result<Option<Instant>> {
        let Some(answer) = &mut self.answer else { return Ok(None) };
        let mut out = Vec::new();
        if !answer.stream {
            let text = "word ".repeat(180);
            let body = if answer.messages { whole_message(&text) } else { whole_chat(&text) };
            write!(
                out,
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )?;
            self.answer = None;
            self.stream.write_all(&out)?;
            return Ok(None);
        }
        if answer.sent == 0 {
            answer.begun = due;
            out.extend_from_slice(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
            );
            begin(&mut out, answer.messages);
        }
        let paced = answer.pieces > 1;
        let word = if paced {
            format!("q{}{} ", letters(answer.sent as u64, 2), letters(now(), 16))
        } else {
            "word ".repeat(180)
        };
        piece(&mut out, answer.messages, &word);
        answer.sent += 1;
        let next = answer.begun + PACE * answer.sent as u32;
        let last = answer.sent == answer.pieces;
        if last {
            end(&mut out, answer.messages);
            self.answer = None;
        }
        self.stream.write_all(&out)?;
        Ok((!last).then_some(next))
    }
}

fn whole_chat(text: &str) -> String {
    format!(
        r#"{{"id":"c1","object":"chat.completion","created":1,"model":"m","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":20,"completion_tokens":180,"total_tokens":200}}}}"#
    )
}

fn whole_message(text: &str) -> String {
    format!(
        r#"{{"id":"m1","type":"message","role":"assistant","model":"m","content":[{{"type":"text","text":"{text}"}}],"stop_reason":"end_turn","stop_sequence":null,"usage":{{"input_tokens":20,"output_tokens":180}}}}"#
    )
}

/// One event in a chunk of its own.
fn event(out: &mut Vec<u8>, kind: &str, data: &str) {
    let name = if kind.is_empty() { String::new() } else { format!("event: {kind}\n") };
    let event = format!("{name}data: {data}\n\n");
    out.extend_from_slice(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes());
}

fn begin(out: &mut Vec<u8>, messages: bool) {
    if messages {
        event(
            out,
            "message_start",
            r#"{"type":"message_start","message":{"id":"m1","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":20,"output_tokens":1}}}"#,
        );
        event(
            out,
            "content_block_start",
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
        );
    }
}

fn piece(out: &mut Vec<u8>, messages: bool, word: &str) {
    if messages {
        event(
            out,
            "content_block_delta",
            &format!(
                r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"{word}"}}}}"#
            ),
        );
    } else {
        event(
            out,
            "",
            &format!(
                r#"{{"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{{"index":0,"delta":{{"content":"{word}"}},"finish_reason":null}}]}}"#
            ),
        );
    }
}

fn end(out: &mut Vec<u8>, messages: bool) {
    if messages {
        event(out, "content_block_stop", r#"{"type":"content_block_stop","index":0}"#);
        event(
            out,
            "message_delta",
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":64}}"#,
        );
        event(out, "message_stop", r#"{"type":"message_stop"}"#);
    } else {
        event(
            out,
            "",
            r#"{"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
        );
        event(
            out,
            "",
            r#"{"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":20,"completion_tokens":64,"total_tokens":84}}"#,
        );
        event(out, "", "[DONE]");
    }
    out.extend_from_slice(b"0\r\n\r\n");
}
