//! Redis with its own client beside it, and servers that say no:
//! `cargo test -p linchpin-engines --features redis,live --test redis`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod coord;
mod doctor;
mod encrypted;
mod idle;
mod interop;
mod lists;
mod order;
mod refusals;
mod server;
