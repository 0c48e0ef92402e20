//! The SQLite bus, by itself: what the conformance suite can't see from outside.

mod basic;
mod help;
mod order;
