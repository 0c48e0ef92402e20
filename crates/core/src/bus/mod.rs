//! Messages: topics, groups, publishers and consumers, the same on every engine.
//!
//! [`Bus`] is the handle. [`BusEngine`] and [`Subscription`] are what an engine implements, and carry the contract.

mod dead;
mod engine;
mod gate;
mod message;
mod name;
mod partition;

pub use dead::*;
pub use engine::*;
pub use gate::Gate;
pub use message::{Delivery, Headers, Message, MessageId, Position, Receipt};
pub use name::{check_name, check_options};
pub use partition::{Partitioner, Round, murmur2};
