//! etcd with its own interface beside it, members that die, and servers that say no:
//! `cargo test -p linchpin-engines --features etcd,live --test etcd`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod cluster;
mod contract;
mod doctor;
mod encrypted;
mod refusals;
mod server;
mod watch;
