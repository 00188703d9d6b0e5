//! A mock provider and a load generator.
//!
//! `mock PORT` answers chat completions and Messages: 1 kB after 20 ms, whole or as a stream, as it is asked; for the
//! model `paced` 64 pieces 5 ms apart. Each of these is a word that holds its number and the time it was sent, in
//! letters, which no detector takes for a number.
//! `load PORT PATH CONNECTIONS SECONDS whole|stream` (headers and body on standard input) keeps so many connections busy
//! and prints one line: requests, errors, seconds, then the 50th and 99th percentile of milliseconds to the first piece,
//! to the end, and on the way of a piece, then pieces that came and pieces that were lost or changed.
//! `relay PORT TO` copies bytes between the two: what any gateway at least adds on this machine.
//! Each is one thread that waits for all its sockets at once: what they take of the cores a gateway does not have.

mod mock;
mod poll;
mod relay;

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use poll::{Poller, fill, head, length};

const PIECES: usize = 64;
const LONGEST: Duration = Duration::from_secs(30);
/// Something is wrong for good after so many errors: more of them say no more.
const ERRORS: usize = 20;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["mock", port] => mock::run(port.parse().map_err(io::Error::other)?),
        ["relay", port, to] => {
            relay::run(port.parse().map_err(io::Error::other)?, to.parse().map_err(io::Error::other)?)
        }
        ["load", port, path, connections, seconds, kind] => {
            let number = |text: &str| text.parse::<f64>().map_err(io::Error::other);
            let mut input = String::new();
            io::stdin().read_to_string(&mut input)?;
            let (headers, body) =
                input.split_once("\n\n").ok_or_else(|| io::Error::other("headers, then a body"))?;
            let request = format!(
                "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n{}\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                headers.lines().collect::<Vec<_>>().join("\r\n"),
                body.len()
            );
            let load = Load {
                address: format!("127.0.0.1:{port}"),
                request,
                lasts: Duration::from_secs_f64(number(seconds)?.min(900.0)),
                streams: *kind == "stream",
            };
            load.run(&mut Poller::new()?, number(connections)? as usize)
        }
        _ => Err(io::Error::other("usage: mock PORT | relay PORT TO | load PORT PATH CONNECTIONS SECONDS whole|stream")),
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
    text.bytes()
        .try_fold(0, |sum, byte| (b'a'..=b'p').contains(&byte).then(|| sum << 4 | u64::from(byte - b'a')))
}

#[derive(Default)]
struct Measured {
    first: Vec<f64>,
    end: Vec<f64>,
    way: Vec<f64>,
    lost: usize,
    errors: usize,
}

struct Load {
    address: String,
    request: String,
    lasts: Duration,
    streams: bool,
}

/// One connection, and how far its answer has come.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    begun: Instant,
    body: Option<Body>,
    words: Words,
}

/// How the body of an answer ends.
enum Body {
    Length(usize),
    /// The text of the events so far, and an unfinished line.
    Chunks {
        text: String,
        line: String,
    },
}

impl Load {
    fn run(&self, poller: &mut Poller, connections: usize) -> io::Result<()> {
        let mut clients = (0..connections)
            .map(|name| self.connect(poller, name).map(Some))
            .collect::<io::Result<Vec<_>>>()?;
        // Only now: how long connecting takes is not what is measured.
        let begun = Instant::now();
        let until = begun + self.lasts;
        for client in clients.iter_mut().flatten() {
            client.ask(self)?;
        }
        let mut measured = Measured::default();
        let mut open = connections;
        while open > 0 && measured.errors <= ERRORS && Instant::now() < until + LONGEST {
            for name in poller.wait(Some(LONGEST))? {
                let Some(client) = clients.get_mut(name).and_then(Option::as_mut) else { continue };
                match client.take(self, &mut measured) {
                    Ok(false) => {}
                    Ok(true) if Instant::now() >= until => {
                        clients[name] = None;
                        open -= 1;
                    }
                    Ok(true) => client.ask(self)?,
                    Err(_) => {
                        measured.errors += 1;
                        let mut anew = self.connect(poller, name)?;
                        anew.ask(self)?;
                        clients[name] = Some(anew);
                    }
                }
            }
        }
        // What never came is an error too.
        measured.errors += open;
        report(&measured, begun.elapsed());
        Ok(())
    }

    fn connect(&self, poller: &Poller, name: usize) -> io::Result<Client> {
        let stream = TcpStream::connect(&self.address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        poller.add(&stream, name)?;
        Ok(Client { stream, buffer: Vec::new(), begun: Instant::now(), body: None, words: Words::default() })
    }
}

impl Client {
    fn ask(&mut self, load: &Load) -> io::Result<()> {
        self.begun = Instant::now();
        self.words = Words::default();
        self.stream.write_all(load.request.as_bytes())
    }

    /// Takes what came. Whether the answer is whole.
    fn take(&mut self, load: &Load, measured: &mut Measured) -> io::Result<bool> {
        if !fill(&self.stream, &mut self.buffer)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.body.is_none() {
            let Some(head) = head(&mut self.buffer) else { return Ok(false) };
            if !head.starts_with("http/1.1 200") {
                return Err(io::Error::other(head));
            }
            self.body = Some(if head.contains("transfer-encoding: chunked") {
                Body::Chunks { text: String::new(), line: String::new() }
            } else {
                Body::Length(length(&head))
            });
        }
        let text = match &mut self.body {
            Some(Body::Length(length)) if self.buffer.len() >= *length => {
                let whole = String::from_utf8_lossy(&self.buffer[..*length]).into_owned();
                self.buffer.drain(..*length);
                if load.streams {
                    let text: String = whole.lines().map(said).collect();
                    self.words.take(&text, self.begun, measured);
                    text
                } else {
                    whole
                }
            }
            Some(Body::Chunks { text, line }) => {
                let mut whole = false;
                while let Some(chunk) = chunk(&mut self.buffer)? {
                    whole = chunk.is_empty();
                    line.push_str(&String::from_utf8_lossy(&chunk));
                    while let Some(end) = line.find('\n') {
                        text.push_str(said(&line[..end]));
                        line.drain(..=end);
                    }
                }
                if load.streams {
                    self.words.take(text, self.begun, measured);
                }
                if !whole {
                    return Ok(false);
                }
                std::mem::take(text)
            }
            _ => return Ok(false),
        };
        self.body = None;
        if load.streams {
            measured.lost += PIECES - self.words.count.min(PIECES);
        } else if text.matches("word ").count() != 180 {
            return Err(io::Error::other("the answer was changed"));
        }
        measured.end.push(self.begun.elapsed().as_secs_f64() * 1e3);
        Ok(true)
    }
}

/// What a line of a stream adds to the answer; the answers of the mock hold nothing that JSON escapes.
fn said(line: &str) -> &str {
    let Some(start) = line.find("\"content\":").map(|at| at + 10) else { return "" };
    let value = line[start..].trim_start();
    value.strip_prefix('"').and_then(|value| value.split('"').next()).unwrap_or("")
}

/// The next whole chunk; the last one is empty.
fn chunk(buffer: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let Some(line) = buffer.windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
    let size = usize::from_str_radix(String::from_utf8_lossy(&buffer[..line]).trim(), 16)
        .map_err(io::Error::other)?;
    let end = line + 2 + size;
    if buffer.len() < end + 2 {
        return Ok(None);
    }
    let data = buffer[line + 2..end].to_vec();
    buffer.drain(..end + 2);
    Ok(Some(data))
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

fn report(measured: &Measured, elapsed: Duration) {
    let sorted = |values: &[f64]| {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        values
    };
    let at = |values: &[f64], share: f64| {
        values
            .get(((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1)))
            .copied()
            .unwrap_or(0.0)
    };
    print!("{} {} {:.4}", measured.end.len(), measured.errors, elapsed.as_secs_f64());
    for values in [&measured.first, &measured.end, &measured.way] {
        let values = sorted(values);
        print!(" {:.4} {:.4}", at(&values, 0.5), at(&values, 0.99));
    }
    println!(" {} {}", measured.way.len(), measured.lost);
}
