//! A mock provider and a load generator, with nothing but the standard library: `rustc -O load.rs`.
//!
//! `mock PORT` answers chat completions and Messages: 1 kB after 20 ms, whole or as a stream, as it is asked; for the
//! model `paced` 64 pieces 5 ms apart. Each of these is a word that holds its number and the time it was sent, in
//! letters, which no detector takes for a number.
//! `load PORT PATH CONNECTIONS SECONDS whole|stream` (headers and body on standard input) keeps so many connections busy
//! and prints one line: requests, errors, seconds, then the 50th and 99th percentile of milliseconds to the first piece,
//! to the end, and on the way of a piece, then pieces that came and pieces that were lost or changed.
//! A thread for each connection; sleeps are the kernel's, to some 60 microseconds.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const PIECES: usize = 64;
const THINKING: Duration = Duration::from_millis(20);
const PACE: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_secs(30);

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["mock", port] => mock(port.parse().map_err(io::Error::other)?),
        ["load", port, path, connections, seconds, kind] => {
            let number = |text: &str| text.parse::<f64>().map_err(io::Error::other);
            let until = Instant::now() + Duration::from_secs_f64(number(seconds)?.min(900.0));
            let mut input = String::new();
            io::stdin().read_to_string(&mut input)?;
            let (headers, body) = input.split_once("\n\n").ok_or_else(|| io::Error::other("headers, then a body"))?;
            let request = format!(
                "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n{}\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                headers.lines().collect::<Vec<_>>().join("\r\n"),
                body.len()
            );
            load(&format!("127.0.0.1:{port}"), &request, number(connections)? as usize, until, *kind == "stream");
            Ok(())
        }
        _ => Err(io::Error::other("usage: mock PORT | load PORT PATH CONNECTIONS SECONDS whole|stream")),
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// A number in the letters from a to p.
fn letters(mut value: u64, count: usize) -> String {
    let mut text = vec![b'a'; count];
    for place in text.iter_mut().rev() {
        *place += (value & 15) as u8;
        value >>= 4;
    }
    String::from_utf8(text).unwrap_or_default()
}

fn number(text: &str) -> Option<u64> {
    text.bytes().try_fold(0, |sum, byte| (b'a'..=b'p').contains(&byte).then(|| sum << 4 | u64::from(byte - b'a')))
}

fn mock(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    println!("{}", listener.local_addr()?);
    for stream in listener.incoming().flatten() {
        thread::Builder::new().stack_size(128 << 10).spawn(move || drop(serve(stream)))?;
    }
    Ok(())
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        let (head, body) = message(&mut stream, &mut buffer)?;
        let messages = head.starts_with("POST /v1/messages");
        let body = String::from_utf8_lossy(&body).replace(' ', "");
        thread::sleep(THINKING);
        if body.contains("\"stream\":true") {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            pieces(&mut stream, messages, body.contains("\"paced\""))?;
        } else {
            let text = "word ".repeat(180);
            let body = if messages { whole_message(&text) } else { whole_chat(&text) };
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(head.as_bytes())?;
        }
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

fn pieces(stream: &mut TcpStream, messages: bool, paced: bool) -> io::Result<()> {
    let mut event = |kind: &str, data: &str| {
        let name = if messages { format!("event: {kind}\n") } else { String::new() };
        let event = format!("{name}data: {data}\n\n");
        stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())
    };
    if messages {
        event("message_start", r#"{"type":"message_start","message":{"id":"m1","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":20,"output_tokens":1}}}"#)?;
        event("content_block_start", r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#)?;
    }
    let begun = Instant::now();
    for at in 0..if paced { PIECES } else { 1 } {
        let due = PACE * at as u32;
        thread::sleep(due.saturating_sub(begun.elapsed()));
        let word = if paced {
            format!("q{}{} ", letters(at as u64, 2), letters(now(), 16))
        } else {
            "word ".repeat(180)
        };
        if messages {
            event("content_block_delta", &format!(r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"{word}"}}}}"#))?;
        } else {
            event("", &format!(r#"{{"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{{"index":0,"delta":{{"content":"{word}"}},"finish_reason":null}}]}}"#))?;
        }
    }
    if messages {
        event("content_block_stop", r#"{"type":"content_block_stop","index":0}"#)?;
        event("message_delta", r#"{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":64}}"#)?;
        event("message_stop", r#"{"type":"message_stop"}"#)?;
    } else {
        event("", r#"{"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#)?;
        event("", r#"{"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":20,"completion_tokens":64,"total_tokens":84}}"#)?;
        event("", "[DONE]")?;
    }
    stream.write_all(b"0\r\n\r\n")
}

fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<()> {
    let mut piece = [0_u8; 16 << 10];
    let count = stream.read(&mut piece)?;
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    buffer.extend_from_slice(&piece[..count]);
    Ok(())
}

/// The head of a message; what follows stays in the buffer.
fn head(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<String> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = buffer.split_off(end + 4);
            return Ok(String::from_utf8_lossy(&std::mem::replace(buffer, rest)).into_owned());
        }
        fill(stream, buffer)?;
    }
}

fn length(head: &str) -> usize {
    let lower = head.to_ascii_lowercase();
    let value = lower.lines().find_map(|line| line.strip_prefix("content-length:"));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

fn message(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<(String, Vec<u8>)> {
    let head = head(stream, buffer)?;
    let length = length(&head);
    while buffer.len() < length {
        fill(stream, buffer)?;
    }
    let rest = buffer.split_off(length);
    Ok((head, std::mem::replace(buffer, rest)))
}

#[derive(Default)]
struct Measured {
    first: Vec<f64>,
    end: Vec<f64>,
    way: Vec<f64>,
    lost: usize,
    errors: usize,
}

fn load(address: &str, request: &str, connections: usize, until: Instant, streams: bool) {
    let failed = AtomicBool::new(false);
    let begun = Instant::now();
    let all: Vec<Measured> = thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|_| {
                let failed = &failed;
                let work = move || client(address, request, until, streams, failed);
                thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, work)
            })
            .collect();
        threads.into_iter().flatten().filter_map(|thread| thread.join().ok()).collect()
    });
    let seconds = begun.elapsed().as_secs_f64();
    let gather = |take: fn(&Measured) -> &Vec<f64>| {
        let mut values: Vec<f64> = all.iter().flat_map(|one| take(one).iter().copied()).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let (first, end, way) = (gather(|m| &m.first), gather(|m| &m.end), gather(|m| &m.way));
    let at = |values: &[f64], share: f64| {
        values.get(((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1))).copied().unwrap_or(0.0)
    };
    let sum = |take: fn(&Measured) -> usize| all.iter().map(take).sum::<usize>();
    print!("{} {} {seconds:.4}", end.len(), sum(|m| m.errors));
    for values in [&first, &end, &way] {
        print!(" {:.4} {:.4}", at(values, 0.5), at(values, 0.99));
    }
    println!(" {} {}", way.len(), sum(|m| m.lost));
}

fn client(address: &str, request: &str, until: Instant, streams: bool, failed: &AtomicBool) -> Measured {
    let mut measured = Measured::default();
    let mut connection = None;
    while Instant::now() < until && !failed.load(Ordering::Relaxed) {
        let result = match connection.take() {
            Some(open) => Ok(open),
            None => TcpStream::connect(address).map(|stream| (stream, Vec::new())),
        };
        let done = result.and_then(|(mut stream, mut buffer)| {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(LONGEST))?;
            exchange(&mut stream, &mut buffer, request, streams, &mut measured)?;
            Ok((stream, buffer))
        });
        match done {
            Ok(open) => connection = Some(open),
            Err(_) => {
                measured.errors += 1;
                // Something is wrong for good: a thousand more errors say no more.
                failed.fetch_or(measured.errors > 20, Ordering::Relaxed);
            }
        }
    }
    measured
}

fn exchange(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    request: &str,
    streams: bool,
    measured: &mut Measured,
) -> io::Result<()> {
    let begun = Instant::now();
    stream.write_all(request.as_bytes())?;
    let head = head(stream, buffer)?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(io::Error::other(head));
    }
    let (mut raw, mut text) = (String::new(), String::new());
    let mut words = Words::default();
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        while let Some(chunk) = chunk(stream, buffer)? {
            raw.push_str(&String::from_utf8_lossy(&chunk));
            while let Some(end) = raw.find('\n') {
                text.push_str(said(&raw[..end]));
                raw.drain(..=end);
            }
            words.take(&text, begun, measured);
        }
    } else {
        let length = length(&head);
        while buffer.len() < length {
            fill(stream, buffer)?;
        }
        text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        buffer.drain(..length);
        if streams {
            text = text.lines().map(said).collect();
            words.take(&text, begun, measured);
        }
    }
    if streams {
        measured.lost += PIECES - words.count.min(PIECES);
    } else if text.matches("word ").count() != 180 {
        return Err(io::Error::other("the answer was changed"));
    }
    measured.end.push(begun.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

/// What a line of a stream adds to the answer; the answers of the mock hold nothing that JSON escapes.
fn said(line: &str) -> &str {
    let Some(start) = line.find("\"content\":").map(|at| at + 10) else { return "" };
    let value = line[start..].trim_start();
    value.strip_prefix('"').and_then(|value| value.split('"').next()).unwrap_or("")
}

fn chunk(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let line = loop {
        if let Some(end) = buffer.windows(2).position(|window| window == b"\r\n") {
            break end;
        }
        fill(stream, buffer)?;
    };
    let size = usize::from_str_radix(String::from_utf8_lossy(&buffer[..line]).trim(), 16).map_err(io::Error::other)?;
    while buffer.len() < line + 2 + size + 2 {
        fill(stream, buffer)?;
    }
    let data = buffer[line + 2..line + 2 + size].to_vec();
    buffer.drain(..line + 2 + size + 2);
    Ok((size > 0).then_some(data))
}

/// The words of a stream in their order.
#[derive(Default)]
struct Words {
    from: usize,
    count: usize,
}

impl Words {
    fn take(&mut self, text: &str, begun: Instant, measured: &mut Measured) {
        const LONG: usize = 19;
        loop {
            let wanted = format!("q{}", letters(self.count as u64, 2));
            let Some(at) = text[self.from..].find(&wanted).map(|at| at + self.from) else { return };
            let Some(word) = text.get(at..at + LONG) else { return };
            let Some(sent) = number(&word[3..]) else { return };
            measured.way.push(now().saturating_sub(sent) as f64 / 1e6);
            if self.count == 0 {
                measured.first.push(begun.elapsed().as_secs_f64() * 1e3);
            }
            self.count += 1;
            self.from = at + LONG;
        }
    }
}
