//! The engine against its references: other implementations' logits, its own bits, and what it promises to callers.
#![expect(clippy::unwrap_used, reason = "a test ends where its input is wrong")]

mod admission;
mod callers;
mod compressed;
mod drafting;
mod every_way;
mod mutations;
mod parity;
mod prefix;
mod same_bytes;
mod sessions;
mod support;
mod traps;
mod version;
