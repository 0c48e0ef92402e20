//! Messages: topics, groups, publishers and consumers, the same on every engine.
//!
//! [`Bus`] is the handle. [`BusEngine`] and [`Subscription`] are what an engine implements, and carry the contract.

mod bridge;
mod consumer;
mod dead;
mod engine;
mod gate;
mod handle;
mod layer;
mod layers;
mod memory;
mod message;
mod name;
mod partition;
mod publisher;
mod share;
mod subscriber;
mod topic;

pub use crate::scheme::Info;
pub use bridge::{Bridge, BridgeTotals, Bridging};
pub use consumer::{Consumer, Failure, Running, Totals};
pub use dead::*;
pub use engine::*;
pub use gate::Gate;
pub use handle::Bus;
pub use layer::Layer;
pub use layers::{Chaos, RateLimit, RetryLayer};
pub use memory::MemoryBus;
pub use message::{Delivery, Headers, Message, MessageId, Position, Receipt};
pub use name::{check_name, check_options};
pub use partition::{Partitioner, Round, murmur2};
pub use publisher::{Publisher, PublisherOptions, Stored};
pub use share::{Candidate, shares};
pub use subscriber::Subscriber;
pub use topic::{CONTENT_TYPE, Typed, TypedTopic};
