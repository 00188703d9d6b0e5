//! What a backend is made from.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use nearfield_api::openai::MaxTokensField;

use crate::Secret;

/// How long to wait for what. There is no limit for a whole answer, which may rightly take long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// From sending the request to the head of the reply.
    pub first_byte: Duration,
    /// From sending the request to the first token. Until then comments that keep the connection alive count as signs
    /// of life, but not beyond this.
    pub first_token: Duration,
    /// Between two events of an answer.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_byte: Duration::from_mins(2),
            first_token: Duration::from_mins(10),
            idle: Duration::from_mins(2),
        }
    }
}

/// All that [`crate::OpenAiCompatible`] needs.
#[derive(Clone, Debug)]
pub struct OpenAiCompatibleOptions {
    /// The backend's name in configuration, ledger and replies.
    pub name: String,
    /// The address of its API, such as `https://host/v1`: https, or http to this machine.
    pub base_url: String,
    /// Sent as a bearer token.
    pub key: Option<Secret>,
    /// Models that may be asked for by their own names. Empty, and without `model_map`, any model may.
    pub models: Vec<String>,
    /// Further models that may be asked for, with their names at the backend.
    pub model_map: BTreeMap<String, String>,
    /// The name of the token limit on the chat route.
    pub max_tokens_field: MaxTokensField,
    /// A PEM file of the only certificate authorities to trust, in place of the system's.
    pub certificates: Option<PathBuf>,
    /// Allows plain http to other machines.
    pub allow_plaintext: bool,
    /// A proxy to go through; the environment's are ignored.
    pub proxy: Option<String>,
    /// A Unix socket through which every connection goes, in place of the network; `base_url` then only says the path.
    pub socket: Option<PathBuf>,
    /// How long to wait for what.
    pub timeouts: Timeouts,
}

impl OpenAiCompatibleOptions {
    /// A backend without a key, for any model.
    pub fn new(name: impl Into<String>, base_url: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            base_url: base_url.into(),
            key: None,
            models: Vec::new(),
            model_map: BTreeMap::new(),
            max_tokens_field: MaxTokensField::default(),
            certificates: None,
            allow_plaintext: false,
            proxy: None,
            socket: None,
            timeouts: Timeouts::default(),
        }
    }
}
