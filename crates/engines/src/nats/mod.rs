//! NATS with JetStream: topics are streams, groups are records beside them.
//!
//! # URL
//! `nats://user:password@host:4222,host:4222`, or `nats+tls:` for TLS. The options are listed at [`Config`].
//!
//! # How it works
//! A topic is a stream of its own, a partition one of its subjects: `orders.0`, `orders.1`, …; an offset is the stream's
//! sequence, so offsets of one partition rise and have gaps. What any NATS client publishes to such a subject is
//! delivered, and any client reads what Linchpin publishes: payload as payload, headers as headers.
//!
//! A group isn't a JetStream consumer: a consumer counts what it sent as an attempt, has one `ack_wait` for all, takes
//! an acknowledgement of a lost delivery for good, and forgets the last ones when the server is killed. Instead a group
//! is a *roster* (who is in it, who is to own which partition) and a *ledger* per partition (how far it is, what is in
//! whose hands, until when). Each is one record in the stream `~state`, written whole and only over the revision it was
//! read at: who was frozen, cut off or late loses that race and is fenced. The owner of a partition reads it through a
//! consumer without acknowledgements and writes down what it hands out; whoever holds a delivery settles it. Edits of
//! concurrent callers go into one write. Leases end by the server's clock.
//!
//! Streams that Linchpin didn't create are topics of one partition; they keep the settings they have.
//!
//! # Limits of the engine
//! * An answer comes before the disk was synced: see [`Info::durability`](linchpin_core::bus::Info::durability), and
//!   the server's `sync_interval`.
//! * Under [`Order::Key`](linchpin_core::bus::Order::Key) a partition is read at most 8,192 messages beyond the first
//!   that waits for its key.
//! * At one time a partition has one member that hands out; others of the group work on other partitions.

mod bus;
mod clock;
mod core;
mod delayed;
mod doctor;
mod driver;
mod error;
mod group;
mod hold;
mod leave;
mod ledger;
mod link;
mod member;
mod message;
mod names;
mod page;
mod publish;
mod reader;
mod roster;
mod settle;
mod shelf;
mod stats;
mod store;
mod subscription;
mod take;
mod topic;
mod trim;
mod url;

use std::sync::Arc;

use linchpin_core::Result;
use linchpin_core::bus::BusEngine;
use linchpin_core::url::EngineUrl;

pub use self::bus::NatsBus;
pub use self::doctor::examine;
pub use self::url::Config;

/// The engine's name in errors and in the matrix.
pub const NAME: &str = "nats";

/// Connects to the server that `url` names.
///
/// # Errors
/// `Config` for wrong options or a server without JetStream; `Denied` for wrong credentials; `Unavailable` or `Timeout`
/// for a server that can't be reached.
pub async fn open(url: &EngineUrl) -> Result<Arc<dyn BusEngine>> {
    let bus = NatsBus::open(Config::from_url(url)?).await?;
    Ok(Arc::new(bus))
}
