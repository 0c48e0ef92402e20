//! NATS as other clients see it, and servers that say no.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod encrypted;
mod interop;
mod refusals;
mod server;
