//! Cloud backends: what the configuration says of them, and how they are asked.
//!
//! [`Cloud`] speaks the dialects of OpenAI, Anthropic, Google and AWS; [`OpenAiCompatible`] is any server that calls
//! itself so, and a [`Pool`] several of them. Four rules hold for every request that they send:
//!
//! * What leaves is written anew from the [`nearfield_api::Request`]; bytes of the client's never pass through.
//! * The key goes to the configured address and nowhere else: redirects are not followed, and plain HTTP is only for
//!   this machine unless the configuration says otherwise. No error or debug text holds the key, also when the
//!   provider quotes it.
//! * Headers are made anew for each attempt from a short list of our own; none of the caller's is passed on. The
//!   environment's proxies are ignored.
//! * An answer that was cut is an error, never a whole answer. Dropping an answer closes its connection.

mod answer;
mod auth;
mod base_url;
mod client;
mod cloud;
mod cloud_config;
mod config;
mod connection;
mod encoding;
mod error;
mod google_token;
mod labels;
mod openai_compatible;
mod options;
mod pool;
#[cfg(feature = "sabotage")]
mod sabotage;
mod secret;
mod sigv4;
mod upstream;

pub use base_url::is_loopback_url;
pub use cloud::Cloud;
pub use cloud_config::{Api, CloudConfig, CloudKind, LabelChoice};
pub use config::{EndpointConfig, MaxTokens, OpenAiCompatibleConfig};
pub use error::ProviderError;
pub use labels::LabelRule;
pub use openai_compatible::OpenAiCompatible;
pub use options::{OpenAiCompatibleOptions, Timeouts};
pub use pool::{Pool, PoolEndpoint, PoolOptions};
pub use secret::{Secret, SecretError, SecretRef};
