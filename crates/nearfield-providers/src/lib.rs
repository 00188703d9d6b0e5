//! Cloud backends: what the configuration says of them, and how they are asked.
//!
//! [`OpenAiCompatible`] is the one backend so far. Three rules hold for every request that it sends:
//!
//! * What leaves is written anew from the [`nearfield_api::Request`]; bytes of the client's never pass through.
//! * The key goes to the configured address and nowhere else: redirects are not followed, and plain HTTP is only for
//!   this machine unless the configuration says otherwise. No error or debug text holds the key, also when the
//!   provider quotes it.
//! * An answer that was cut is an error, never a whole answer. Dropping an answer closes its connection.

mod answer;
mod base_url;
mod client;
mod config;
mod error;
mod openai_compatible;
mod options;
mod secret;
mod upstream;

pub use config::{MaxTokens, OpenAiCompatibleConfig};
pub use error::ProviderError;
pub use openai_compatible::OpenAiCompatible;
pub use options::{OpenAiCompatibleOptions, Timeouts};
pub use secret::{Secret, SecretError, SecretRef};
