//! Waiting for many sockets at once, to the microsecond: Linux's epoll.

use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};

/// Sockets that are waited for. A closed one leaves by itself.
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poller {
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, events: Vec::with_capacity(256) })
    }

    /// Waits for this socket from now on; `name` is what [`Poller::wait`] calls it.
    pub fn add(&self, socket: &impl AsFd, name: usize) -> io::Result<()> {
        let name = epoll::EventData::new_u64(name as u64);
        Ok(epoll::add(&self.epoll, socket, name, epoll::EventFlags::IN)?)
    }

    /// The sockets that can be read; none when the time is up.
    pub fn wait(&mut self, time: Option<Duration>) -> io::Result<Vec<usize>> {
        let time = time.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        self.events.clear();
        epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), time.as_ref())?;
        Ok(self.events.iter().map(|event| event.data.u64() as usize).collect())
    }
}

/// Lets so many connections come at once as ever will; the standard library's 128 have some wait a second.
pub fn widen(listener: &TcpListener) -> io::Result<()> {
    Ok(rustix::net::listen(listener, 4096)?)
}

/// Adds what a socket has to a buffer. `false` when its other end has closed it.
pub fn fill(mut stream: &TcpStream, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let mut piece = [0_u8; 16 << 10];
    match stream.read(&mut piece) {
        Ok(count) => {
            buffer.extend_from_slice(&piece[..count]);
            Ok(count > 0)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}

/// The head of a message; what follows stays in the buffer.
pub fn head(buffer: &mut Vec<u8>) -> Option<String> {
    let end = buffer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&buffer[..end + 4]).to_ascii_lowercase();
    buffer.drain(..end + 4);
    Some(head)
}

/// The length that a head in small letters gives to its body.
pub fn length(head: &str) -> usize {
    let value = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}
