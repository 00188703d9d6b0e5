//! Every kernel of every set equals the scalar definition, bit for bit.
#![expect(unsafe_code, reason = "products write through a shared output")]
#![expect(clippy::unwrap_used, reason = "a test ends where its input is wrong")]

mod attention;
mod extremes;
mod fp8;
mod golden;
mod products;
mod vectors;
mod version;
