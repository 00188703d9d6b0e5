//! Waiting for many sockets at once, to the microsecond: Linux's epoll, by the C library that the standard library links.

use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

const IN: u32 = 1;
const ADD: i32 = 1;
const CLOSE_ON_EXEC: i32 = 0o2_000_000;
const EVENTS: usize = 256;

#[derive(Clone, Copy)]
#[cfg_attr(target_arch = "x86_64", repr(C, packed))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C))]
struct Event {
    events: u32,
    data: u64,
}

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

unsafe extern "C" {
    fn epoll_create1(flags: i32) -> i32;
    fn epoll_ctl(epoll: i32, operation: i32, fd: i32, event: *mut Event) -> i32;
    fn listen(socket: i32, backlog: i32) -> i32;
    fn epoll_pwait2(epoll: i32, events: *mut Event, count: i32, timeout: *const Timespec, mask: *const u8) -> i32;
}

/// Sockets that are waited for. A closed one leaves by itself.
pub struct Poller(OwnedFd);

impl Poller {
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointer is passed; what is returned is a new file descriptor or an error.
        let fd = check(unsafe { epoll_create1(CLOSE_ON_EXEC) })?;
        // SAFETY: the descriptor is open, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Waits for this socket from now on; `name` is what [`Poller::wait`] calls it.
    pub fn add(&self, socket: &impl AsRawFd, name: usize) -> io::Result<()> {
        let mut event = Event { events: IN, data: name as u64 };
        // SAFETY: both descriptors are open, and the event outlives the call.
        check(unsafe { epoll_ctl(self.0.as_raw_fd(), ADD, socket.as_raw_fd(), &raw mut event) })?;
        Ok(())
    }

    /// The sockets that can be read; none when the time is up.
    pub fn wait(&self, time: Option<Duration>) -> io::Result<Vec<usize>> {
        let mut events = [Event { events: 0, data: 0 }; EVENTS];
        let time = time.map(|time| Timespec {
            seconds: time.as_secs() as i64,
            nanoseconds: i64::from(time.subsec_nanos()),
        });
        let timeout = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the array has room for as many events as are asked for; array and time outlive the call.
        let count = check(unsafe {
            epoll_pwait2(self.0.as_raw_fd(), events.as_mut_ptr(), EVENTS as i32, timeout, std::ptr::null())
        })?;
        Ok(events[..count as usize].iter().map(|event| event.data as usize).collect())
    }
}

/// Lets so many connections come at once as ever will; the standard library's 128 have some wait a second.
pub fn widen(listener: &TcpListener) -> io::Result<()> {
    // SAFETY: the descriptor is open and is a socket's.
    check(unsafe { listen(listener.as_raw_fd(), 4096) })?;
    Ok(())
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
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
