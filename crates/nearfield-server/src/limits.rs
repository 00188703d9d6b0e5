//! How much of anything a caller may use. Every bound of the server stands here.

use std::time::Duration;

/// The server's limits. The defaults suit a machine that serves a team.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one request's line and headers.
    pub header_bytes: usize,
    /// Header lines of one request.
    pub headers: usize,
    /// Time for the headers of a request to arrive, from the opening of the connection (or the end of the request
    /// before) on. A TLS handshake has the same time.
    pub header_read: Duration,
    /// Time for a request's body to arrive.
    pub body_read: Duration,
    /// Bounds of what a request's body says; `requests.json.bytes` bounds the body itself.
    pub requests: nearfield_api::openai::Limits,
    /// Bytes of all bodies that are being read at one moment.
    pub bodies_in_flight_bytes: usize,
    /// Open connections. More are refused at once.
    pub connections: usize,
    /// Requests at one moment on one HTTP/2 connection.
    pub http2_streams: u32,
    /// Time after which a connection without a request in progress is closed.
    pub idle: Duration,
    /// Time for which a peer may refuse to take any byte before its connection is cut.
    pub write_stall: Duration,
    /// Bytes of one answer that is collected before it is sent.
    pub answer_bytes: usize,
    /// How long a streamed answer's status is held back for its first token, so that an error before it can still
    /// have a proper status.
    pub first_event: Duration,
    /// Silence on a stream after which a comment is sent to keep it alive.
    pub keep_alive: Duration,
    /// Time that running requests get to finish when the server stops.
    pub grace: Duration,
    /// Silence of all running requests together after which `/health` says that something is wrong.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 32 << 10,
            headers: 100,
            header_read: Duration::from_secs(15),
            body_read: Duration::from_mins(1),
            requests: nearfield_api::openai::Limits::default(),
            bodies_in_flight_bytes: 256 << 20,
            connections: 1024,
            http2_streams: 128,
            idle: Duration::from_secs(75),
            write_stall: Duration::from_mins(1),
            answer_bytes: 32 << 20,
            first_event: Duration::from_secs(15),
            keep_alive: Duration::from_secs(15),
            grace: Duration::from_secs(30),
            stall: Duration::from_mins(2),
        }
    }
}
