//! The suite that every engine has to pass: cases, targets, faults, and deliberately broken engines that show the suite sees.
//!
//! A [`cell`](crate::results) is one case on one target. It is a pass, a failure, declared absent — the engine's
//! [`Caps`](linchpin::bus::Caps), or for ids its target, say it can't, and a check of its own proves that it really can't — or
//! it wasn't run.
//! A case cannot skip itself. Engines run bare: no retry layer hides what they do.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "the whole crate is a test: a panic is how a case fails"
)]

mod absent;
mod broken;
mod bus;
mod case;
mod child;
mod coord;
mod ids;
pub mod protocol;
pub mod results;
mod server;
mod suite;
mod target;
mod tools;
mod world;

pub use suite::run;
