//! What every backend's connection is made from.

use std::path::PathBuf;

use crate::Timeouts;
use crate::auth::Auth;

/// The parts of a backend's options that its connection needs.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) name: String,
    pub(crate) base_url: String,
    pub(crate) auth: Auth,
    pub(crate) certificates: Option<PathBuf>,
    pub(crate) allow_plaintext: bool,
    pub(crate) proxy: Option<String>,
    /// A Unix socket in place of the network.
    pub(crate) socket: Option<PathBuf>,
    pub(crate) timeouts: Timeouts,
}
