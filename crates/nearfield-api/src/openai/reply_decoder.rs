//! Reads a whole answer.

use serde_json::Value;

use super::ChunkDecoder;
use super::chunk_decoder::{Form, malformed};
use crate::{Error, Event, Request};

/// Reads the body of a reply with status 200 to `request`, which was sent for the backend's model `upstream_model`.
/// The events are those of a stream: started, text, ends, done.
///
/// # Errors
/// The error that the body tells, or [`crate::ErrorKind::Upstream`] for one that is no complete answer.
pub fn decode_reply(body: &[u8], request: &Request, upstream_model: &str) -> Result<Vec<Event>, Error> {
    let tree: Value = serde_json::from_slice(body).map_err(|_| malformed("it is not JSON"))?;
    let mut decoder = ChunkDecoder::new(request, upstream_model);
    let mut events = Vec::new();
    decoder.take(&tree, Form::Whole, &mut events)?;
    for index in 0..request.choices as usize {
        decoder.accept_blank_reason(index, &mut events);
    }
    decoder.finish(&mut events)?;
    Ok(events)
}
