//! Why a backend cannot be set up.

use std::path::PathBuf;

use crate::SecretError;

/// A configuration of a backend that cannot be used. No text holds a credential, nor an address that may hold one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// The base URL cannot be used.
    #[error("backend `{backend}`: base_url {reason}")]
    BaseUrl {
        /// The backend's name.
        backend: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// The key cannot be had.
    #[error("backend `{backend}`: key: {source}")]
    Key {
        /// The backend's name.
        backend: String,
        /// Why not.
        source: SecretError,
    },
    /// A setting has a value that makes no sense.
    #[error("backend `{backend}`: {setting} {reason}")]
    Setting {
        /// The backend's name.
        backend: String,
        /// The setting.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The file of certificates cannot be used.
    #[error("backend `{backend}`: certificates {}: {reason}", path.display())]
    Certificates {
        /// The backend's name.
        backend: String,
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// No HTTP client can be made.
    #[error(
        "backend `{backend}`: TLS cannot be set up: {reason}; install the system's CA certificates or set `certificates` \
         to a PEM file"
    )]
    Tls {
        /// The backend's name.
        backend: String,
        /// Why not.
        reason: String,
    },
}
