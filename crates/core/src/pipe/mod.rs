//! Pipes: a subscription, a mapping, a sink; each message lands once.
//!
//! A [`Pipe`] reads a topic in batches, maps each message to [`Row`]s and hands the batch to a [`Sink`], which lands rows and
//! position in one transaction; only then the batch is settled. Whatever dies in between, the sink recognises what
//! it has already landed.

mod row;
mod run;

pub use row::{Row, Table, Value, Write};
pub use run::{Pipe, PipeTotals, Piping};

use std::fmt::Debug;

use async_trait::async_trait;

use crate::bus::{Message, Position};
use crate::{Result, Timestamp};

/// Where a pipe ends.
///
/// # Contract
/// 1. `write` answered `Ok` ⇒ the verdicts are durable, as durable as the store behind the sink is configured to be.
/// 2. Rows land at most once: an item whose position in its topic and partition isn't beyond the last one landed is a
///    [`Landed::Repeat`]. Where items carry no fencing token or no offset, the message id is the key instead.
/// 3. An item whose fencing token is below one already seen for its partition lands nothing: [`Landed::Fenced`].
/// 4. An item the store refuses for good (a constraint, a type) is [`Landed::Dead`] and doesn't hold back the others. The
///    verdict is kept with the position: the same item gets it again.
/// 5. `Err` means nothing of the batch landed, or nothing is known: writing it again is safe.
#[async_trait]
pub trait Sink: Send + Sync + Debug {
    /// Lands a batch; one verdict each, in order. Items of one partition come in offset order.
    ///
    /// # Errors
    /// When the store is away, full or too slow: the pipe tries again for as long as it holds the messages. `Config` ends the
    /// pipe: offsets began anew, because the topic was removed and made again, so that positions no longer tell what has landed.
    async fn write(&self, topic: &str, batch: &[Item]) -> Result<Vec<Landed>>;
}

/// One message on its way into a sink.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Where the message stands in its topic.
    pub position: Position,
    /// When the engine stored it. In a partition it never falls from one offset to the next.
    pub time: Timestamp,
    /// The fencing token of the partition's owner; 0 if the subscription has no order.
    pub fence: u64,
    /// The message, for sinks that keep what they refuse.
    pub message: Message,
    /// What it means in rows; it may be nothing.
    pub rows: Vec<Row>,
}

/// What became of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Landed {
    /// Its rows are in.
    Applied,
    /// It was in before.
    Repeat,
    /// The store refuses it for good, for this reason.
    Dead(String),
    /// A later owner of the partition has written: this pipe no longer owns it.
    Fenced,
}

#[cfg(test)]
mod tests;
