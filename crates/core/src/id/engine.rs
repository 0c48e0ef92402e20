//! What an engine that keeps counters implements.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::{Info, Result};

/// Counters that several programs take numbers from, each by its name.
///
/// # Contract
/// 1. No number of a counter is given out twice, whoever asks, as long as the engine keeps what it stored.
/// 2. Numbers whose [`take`](IdEngine::take) was answered by an error are given to nobody: they are lost.
/// 3. Every call is answered within the engine's timeout.
#[async_trait]
pub trait IdEngine: Send + Sync + Debug {
    /// Name, URL and durability.
    fn info(&self) -> &Info;

    /// The counter that the URL names, if it does.
    fn name(&self) -> Option<&str>;

    /// Takes the next numbers of the counter `name`: `count` of them, or [`Segment::step`] if none is said. An engine may
    /// give fewer.
    ///
    /// # Errors
    /// `NotFound` if there is no such counter and the engine doesn't make it (the error names some that there are),
    /// `Limited` if it is used up, `Config` if its step is nothing to go by.
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
