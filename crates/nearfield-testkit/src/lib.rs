//! What the tests of several crates share: servers that misbehave, and writers of model files.

pub mod cloud_dialects;
pub mod cloud_faults;
pub mod cloud_server;
pub mod cloud_streams;
pub mod file_server;
pub mod gguf_conversion;
pub mod gguf_writer;
pub mod real_models;
pub mod recordings;
pub mod tiny_model;
