//! What an engine that keeps counters implements.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::{Info, Result};

/// Counters that several programs take numbers from.
#[async_trait]
pub trait IdEngine: Send + Sync + Debug {
    /// Name, URL and durability.
    fn info(&self) -> &Info;

    /// Takes the next numbers of the counter `name`: `count` of them, or as many as the engine has been told to give
    /// out at a time. No number is ever given out twice; numbers are lost when the answer is.
    ///
    /// # Errors
    /// `NotFound` if there is no such counter and the engine doesn't make them by itself, `Limited` if it is used up.
    async fn take(&self, name: &str, count: Option<u64>) -> Result<Segment>;
}

/// Numbers that belong to whoever took them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The first.
    pub first: i64,
    /// The last, itself included.
    pub last: i64,
    /// How many the engine gives out at a time unless told otherwise.
    pub step: u64,
}
