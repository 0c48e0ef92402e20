//! Redis: messages in streams, on one server (`redis:`) or over a cluster (`redis-cluster:`). Weaker, and understood by
//! more programs: [`list`] and [`pubsub`].
//!
//! # URL
//! `redis://user:password@host:6379/0`, `redis-cluster://host:port,host:port`; `rediss://` and `rediss-cluster://` are
//! encrypted. The options are listed at [`Config`]. Redis 7.0 or later is needed.
//!
//! # How it works
//! A partition is a stream named `{topic:partition}`, a group is a native consumer group of it: `XRANGE`, `XREADGROUP` and
//! `XINFO` show what Linchpin stored, and what other programs add with `XADD` is delivered. An entry has the fields
//! `payload`, `lp-id` and, with a key, `lp-key`; headers are fields behind them.
//!
//! Whatever changes more than one thing is a script on the server, and asks there whether the caller still holds what it
//! acts on. What nobody has in hand is pending under the consumer `lp-waiting`: nacked, handed back, or taken from a member that let
//! its lease run out. All keys of a partition share a hash tag, so a cluster keeps them together and spreads partitions.
//!
//! Who stores something says so on a channel, and one connection of each bus listens for all its members: one that waits without
//! an order looks by itself every 2 s at least, or every 200 ms while the channel isn't heard or another member holds messages.
//!
//! Under an order a partition has one owner with a lease and a fence, both kept beside the group.
//!
//! # Limits of the engine
//! * Redis answers before its replicas have the write: a failover may lose the last messages and settles.
//! * How much of what was answered survives the death of the server is the server's to say. Without `appendonly yes` what
//!   came since the last snapshot is lost. Under `appendfsync everysec`, Redis's default, a kill can lose up to two seconds
//!   of it when the disk is busy: the server then holds the log back in its memory. `appendfsync always` loses nothing.
//! * What other programs add is told by nobody: a member that waited for long finds it within 2 s (within `ack_wait` if that is
//!   less), and from then on, as long as such messages come, within 200 ms.
//! * Offsets are made of entry ids (`milliseconds << 20 | sequence`): they rise, and aren't dense.

mod bus;
pub mod coord;
mod core;
mod doctor;
mod entry;
mod error;
mod fetch;
mod form;
mod group;
mod hints;
mod ids;
mod keys;
mod link;
pub mod list;
mod member;
mod ordered;
mod publish;
pub mod pubsub;
mod retain;
mod script;
mod settle;
mod state;
mod stats;
mod subscription;
mod topic;
mod url;
mod wire;

use std::sync::Arc;

use linchpin_core::Result;
use linchpin_core::bus::BusEngine;
use linchpin_core::id::IdEngine;
use linchpin_core::url::EngineUrl;

pub use self::bus::RedisBus;
pub use self::doctor::examine;
use self::error::NAME;
pub use self::ids::RedisIds;
pub use self::url::{Config, Tls};

/// Opens the bus on the server, or the cluster, that `url` names.
///
/// # Errors
/// `Config` for wrong options, `Denied` for a wrong password, `Unavailable` for a server that can't be reached.
pub async fn open(url: &EngineUrl) -> Result<Arc<dyn BusEngine>> {
    let bus = RedisBus::open(Config::from_url(url)?).await?;
    Ok(Arc::new(bus))
}

/// Opens the counters on the server, or the cluster, that `url` names. See [`RedisIds`].
///
/// # Errors
/// Those of [`open`].
pub async fn ids(url: EngineUrl) -> Result<Arc<dyn IdEngine>> {
    Ok(Arc::new(RedisIds::open(&url).await?))
}
