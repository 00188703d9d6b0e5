//! What the tests of several crates share: a backend and servers that do what a test tells them, the suite that every
//! backend passes, and writers of model files.

pub mod cloud_dialects;
pub mod cloud_faults;
pub mod cloud_server;
pub mod cloud_streams;
pub mod conformance;
pub mod file_server;
pub mod gguf_conversion;
pub mod gguf_writer;
pub mod plays;
pub mod puppet_model;
pub mod real_models;
pub mod recordings;
pub mod scripted;
pub mod tiny_model;
