//! What the bus and [coordination](coord) do on any relational database, free of drivers.
//!
//! # The schema in words
//! Every table is named `lp_*`, so it can live in a user's database beside their own.
//!
//! | table | a row is |
//! |---|---|
//! | `lp_schema` | the one row with the schema's [`VERSION`] |
//! | `lp_topic`, `lp_partition` | a topic; a partition with its first and next offset |
//! | `lp_message` | a message at its place (partition, offset) |
//! | `lp_delayed` | a message that waits for its publish delay, with no offset yet |
//! | `lp_group`, `lp_cursor` | a group; how far it was handed each partition, and the partition's owner and fence |
//! | `lp_claim` | a range of messages below the cursor that aren't settled: a [`Span`] |
//! | `lp_member` | a living member of a group |
//!
//! # The protocol in words
//! What lies at or above a group's cursor was never handed out; what lies below is settled, or in a claim.
//! A claim is a range with a bitmap, not a row per message: a batch handed out is one insert, settled whole it is one
//! delete, settled in part a rewritten bitmap. A claim is *held* (it has an owner, and `due` ends its lease) or
//! *waiting* (no owner, and it may be taken from `due` on); `attempt` says how often its messages were handed out.
//! A claim that changes hands gets a new id, and ids are never used twice: the id is the fencing token of everything
//! that is settled.

mod claim;
mod clock;
pub mod coord;
mod fetching;
pub(crate) mod group;
pub(crate) mod hand;
mod headers;
pub(crate) mod hub;
pub(crate) mod ids;
pub(crate) mod incoming;
pub(crate) mod lease;
pub(crate) mod member;
mod order;
mod ordered;
pub mod sink;
mod span;
pub(crate) mod store;
pub(crate) mod subscription;
pub(crate) mod topic;
mod window;

pub use claim::{Plan, plan};
pub use clock::MonotoneClock;
pub use headers::{decode_headers, encode_headers};
pub use ids::IdOptions;
pub use span::{MAX_SPAN, Span};

/// The version of the schema that this build reads and writes.
pub const VERSION: i64 = 1;
