//! Every kernel of every set equals the scalar definition, bit for bit.
#![expect(unsafe_code, reason = "products write through a shared output")]

mod products;
