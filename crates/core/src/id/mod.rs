//! Ids that never repeat: UUIDs, snowflakes, and numbers from a counter.
//!
//! [`Ids`] is the handle over all kinds. [`IdEngine`] is what an engine that keeps counters implements, and carries the
//! contract.

mod engine;
mod handle;
mod keeper;
mod layout;
mod mark;
mod memory;
mod mint;
mod numbers;
mod one;
mod snowflake;
mod uuids;
mod worker;

#[cfg(test)]
mod tests;

pub use engine::{IdEngine, Segment};
pub use handle::{Ids, MAX_IDS, uuid_time};
pub use layout::{Layout, Parts};
pub use memory::MemoryIds;
pub use one::{Batch, Id};
