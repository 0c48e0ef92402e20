//! ZooKeeper in trouble: `cargo test -p linchpin-engines --features zookeeper,live --test zookeeper`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod access;
mod doctor;
mod encrypted;
mod many;
mod quorum;
mod races;
mod tools;
