//! Ids that never repeat.

mod engine;

pub use engine::{IdEngine, Segment};
