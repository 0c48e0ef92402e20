//! Kafka: topics, partitions and consumer groups as they are, with a settle per message on top.
//!
//! # URL
//! `kafka://host:9092,host:9092`, with user and password before the hosts if there is a login. The options are
//! listed at [`Config`].
//!
//! # How it works
//! A message is a record: payload as value, key as key, headers as headers, and its id in one more header, `lp-id`. A
//! record without it has an id made of its place. A group is the Kafka group `<topic>/<group>`: Linchpin's groups
//! belong to a topic, so groups of one name on two topics don't rebalance each other.
//!
//! The subscriptions of one bus to one group are one member of the Kafka group and compete for its partitions' messages;
//! other processes get other partitions (cooperative rebalancing). Each partition has a tracker: the lowest unsettled
//! offset is what is committed, and what is known above it — settled, in hand, handed back, how often, until when —
//! goes into the text beside it. It is committed before `next` hands out and before `settle` answers; one commit is
//! under way at a time, and the next one carries everything since. So attempts and delays survive SIGKILL. Where many
//! messages wait unsettled in no order the text may near its 4 KiB; then a partition hands out one by one.
//!
//! A partition that goes to another process waits a moment for what is in hand. A member that was silent for `ack_wait`
//! (its session timeout) is out: a settle of its answers `Fenced`. The brokers' `group.min.session.timeout.ms` (6 s by
//! default) is the shortest `ack_wait` they take; beyond 30 min the session timeout stays at 30 min.
//!
//! Topics made here have no retention of Kafka's: Linchpin deletes records that every group has settled. They are stamped
//! by the brokers' clocks. Topics made by others keep their settings until `ensure` changes them.
//!
//! # Limits of the engine
//! * The order between members is a property of the group: processes that ask for another one get `Conflict`.
//! * Partitions chosen by hand are Kafka's `assign`: not together with members that share (`Conflict`), and two processes
//!   that choose the same one both get its messages.
//! * A group with members in other processes can be moved and removed by them only (`Conflict`).
//! * Kafka forgets a group without members after `offsets.retention.minutes`, 7 days by default.
//! * Delayed messages wait in the topic `lp-delayed.<topic>` and enter theirs only while a bus that subscribed to it, or
//!   published them, is open.
//! * What is about to be handed to a quick consumer is written down ahead, up to 16,384 messages. When its process dies these
//!   have used an attempt that nobody saw: their first, and never their last.
//! * Due times of nacks that don't fit into a commit's text any more come sooner after a change of owner.
//! * With `acks=none` and `leader` a change of the partition's leader may lose what was answered.

mod bus;
mod client;
mod commits;
mod core;
mod delay;
mod doctor;
mod error;
mod hand;
mod hands;
mod hub;

mod member;
mod part;
mod publish;
mod pump;
mod retain;
mod runs;
mod seek;
mod settle;
mod start;
mod state;
mod stats;
mod subscription;
mod topic;
mod tracker;
mod url;
mod wire;

use std::sync::Arc;

use linchpin_core::Result;
use linchpin_core::bus::BusEngine;
use linchpin_core::url::EngineUrl;

pub use self::bus::KafkaBus;
pub use self::doctor::examine;
pub use self::url::{Acks, Config, Login, Sasl, Tls};

/// The engine's name in errors and in the matrix.
pub const NAME: &str = "kafka";

/// Opens the bus on the cluster that `url` names.
///
/// # Errors
/// `Config` for wrong options; `Denied` for a wrong password; `Unavailable` or `Timeout` if no broker answers.
pub async fn open(url: &EngineUrl) -> Result<Arc<dyn BusEngine>> {
    let bus = KafkaBus::open(Config::from_url(url)?).await?;
    Ok(Arc::new(bus))
}
