//! One file per family: its tensors, and how its settings are read from each file kind.

pub(super) mod gemma3;
pub(super) mod gemma4;
mod gemma4_gguf;
pub(super) mod llama;
mod plain;
pub(super) mod qwen;
pub(super) mod qwen3_5;
