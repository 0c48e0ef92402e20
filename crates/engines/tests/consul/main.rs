//! Consul as its documentation shows it: no server can be had, so one in here answers with the recorded shapes of the HTTP
//! interface, and checks what is asked. `cargo test -p linchpin-engines --features consul --test consul`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod agent;
mod keys;
mod leases;
mod refusals;
mod watch;
