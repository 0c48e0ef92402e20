//! RabbitMQ: a group is a quorum queue for each partition.
//!
//! # URL
//! `amqp://user:password@host:5672/vhost`, `amqps:` for TLS. The options are listed at [`Config`]. RabbitMQ 3.10 or later
//! is needed.
//!
//! # How it works
//! A topic is a direct exchange of its name; the number of a partition is the routing key. A group is a quorum queue for
//! each partition, bound to it, so its members compete as RabbitMQ's consumers do. What any AMQP client publishes
//! there is delivered, and any client that binds a queue of its own reads what Linchpin publishes: the payload is the body, the id
//! is `message_id`, headers are headers, the key is the header `lp-key`. Before a topic has a group its messages wait in the
//! queues that the first group takes over. Which topics and groups there are stands in a record, `~topics`: AMQP
//! can't list queues.
//!
//! *Acknowledging.* `basic.ack` has no answer. `settle` answers when a marker, a message that expires at once, was confirmed
//! behind it on the same channel through the same queue.
//!
//! *Attempts.* The queue counts what it takes back (`x-delivery-count`, `x-acquired-count` since 4.3), whether it was handed out
//! or only fetched. So a living member never lets it take anything back without saying what that means: the attempts of a
//! message are those it carries itself plus what the queue counted since. Without order a member puts a copy in
//! place of the message, with its attempts in `lp-attempts`; under an order, where the place matters, it leaves a note beside the
//! queue. What the queue counts beyond that are deaths.
//!
//! *Order.* Each partition has a queue with one message, the turn: who has it in hand owns the partition, and reads
//! it once the queue has no other consumer, which is when it has taken back, in order, what the owner before had. The fence is
//! stored in the notes, by each owner before it hands anything out; so is that an owner left by itself, so that what the queue took
//! back then counts as nobody's death.
//!
//! *New queues.* A server that is killed within seconds of making a quorum queue may have forgotten which log belongs to it, and
//! begins an empty one (rabbitmq/ra#443; 3.10.8 does it, releases with that change shouldn't). Nothing is stored in a queue before each node was made to
//! write its log's name down, which costs a short-lived queue `~seal-…` whenever a topic, a group or a delay is new.
//!
//! *Delay.* A message waits in stages, queues with one time to live each, 2^n milliseconds, and goes on by itself; the members of a group send it
//! from stage to stage until it is due.
//!
//! # Limits of the engine
//! * `ack_wait` is at least 3 s: the server hears of a frozen member by its heartbeat.
//! * A member that dies counts as handed out what it had fetched ahead, at most 1,024 messages of a partition, and what the death of a
//!   connection takes from a living member counts, too. Without order so does what is on its way to a member in the moment in which it
//!   is taken to have stopped asking, 250 ms after its last `next` or `settle` ended.
//! * That a new queue is written down survives the death of a server, not a power failure in the seconds after.
//! * Queues have no past: a group that isn't the first begins with what is published from then on. What was settled is gone.
//! * [`GroupStats::in_flight`](linchpin_core::bus::GroupStats::in_flight) and
//!   [`TopicStats::oldest`](linchpin_core::bus::TopicStats::oldest) tell of members of the same process. `lag` counts markers that
//!   wait behind messages.
//! * Under [`Order::Key`](linchpin_core::bus::Order::Key) a partition is read at most 1,024 messages beyond the first that
//!   waits for its key.
//! * That a queue isn't there is learnt by asking for it, and lapin logs each such refusal as an error: `lapin=off` in a filter of
//!   `tracing` keeps it quiet. What matters comes back as an error of the call.
//! * Messages that other clients publish without a `message_id` get another id each time they are delivered.
//! * A listener without a group misses what is published while its connection is down.

mod admin;
mod book;
mod bus;
mod core;
mod delay;
mod doctor;
mod driver;
mod error;
mod fetch;
mod link;
mod member;
mod message;
mod names;
mod notes;
mod ordered;
mod publish;
mod send;
mod settle;
mod source;
mod state;
mod stats;
mod subscription;
mod topic;
mod turns;
mod url;

use std::sync::Arc;
use std::time::Duration;

use linchpin_core::Result;
use linchpin_core::bus::BusEngine;
use linchpin_core::url::EngineUrl;

pub use self::bus::RabbitBus;
pub use self::doctor::examine;
pub use self::url::Config;

/// The engine's name in errors and in the matrix.
pub const NAME: &str = "rabbitmq";

/// The shortest lease.
const LEASE: Duration = Duration::from_secs(3);

/// Connects to the server that `url` names.
///
/// # Errors
/// `Config` for wrong options; `Denied` for wrong credentials; `NotFound` for a virtual host that isn't there;
/// `Unavailable` or `Timeout` for a server that can't be reached.
pub async fn open(url: &EngineUrl) -> Result<Arc<dyn BusEngine>> {
    let bus = RabbitBus::open(Config::from_url(url)?).await?;
    Ok(Arc::new(bus))
}
