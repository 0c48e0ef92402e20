//! Groups: the rules that need no database.

use linchpin_core::bus::{Position, Start, SubscribeOptions};
use linchpin_core::{Error, Kind, Timestamp};

use super::store::Scope;
use super::topic::{Topic, millis};

/// A group that a member joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) group: i64,
    pub(crate) member: i64,
}

/// How long a member counts as alive after it last said so, in milliseconds: no longer than its deliveries may stay
/// unsettled.
pub(crate) fn lease(options: &SubscribeOptions) -> i64 {
    millis(options.ack_wait).min(30_000)
}

/// How long after its lease a member is taken out by others, in milliseconds.
pub(crate) const GONE: i64 = 60_000;

/// The partitions a member restricts itself to, as JSON.
pub(crate) fn only(options: &SubscribeOptions) -> Option<String> {
    options.partitions.as_ref().map(|list| serde_json::json!(list).to_string())
}

/// Where in a partition that holds `first..next` a group begins that starts so; `Err` is the time to look for.
pub(crate) fn begin(start: Start, partition: u32, first: u64, next: u64) -> Result<u64, i64> {
    match start {
        Start::Oldest => Ok(first),
        Start::Newest => Ok(next),
        Start::At(Position { partition: at, .. }) if at != partition => Ok(first),
        Start::At(Position { offset: Some(offset), .. }) => Ok(offset.clamp(first, next)),
        Start::At(_) => Ok(next),
        Start::Time(time) => Err(stored_since(time)),
    }
}

/// The first whole millisecond that isn't before `time`: a fraction would find messages stored before it.
fn stored_since(time: Timestamp) -> i64 {
    let at =
        time.as_nanosecond().div_euclid(1_000_000) + i128::from(time.subsec_nanosecond() % 1_000_000 != 0);
    i64::try_from(at).unwrap_or(i64::MAX)
}

/// Refuses a start that names a place the topic can't have.
pub(crate) fn check_start(topic: &Topic, start: Start) -> Result<(), Error> {
    let Start::At(position) = start else { return Ok(()) };
    if position.partition >= topic.partitions {
        let error = Error::new(Kind::Invalid, format!("partition {} doesn't exist", position.partition));
        return Err(error.help(format!("the topic has {}, numbered from 0", topic.partitions)));
    }
    if position.offset.is_none() {
        let error = Error::new(Kind::Invalid, "the position has no offset");
        return Err(error.help("name one, or start at Oldest or Newest"));
    }
    Ok(())
}

/// The partitions that a seek moves.
pub(crate) fn moved(topic: &Topic, to: Start) -> std::ops::Range<u32> {
    match to {
        Start::At(position) => position.partition..position.partition + 1,
        _ => 0..topic.partitions,
    }
}

pub(crate) fn missing(topic: &str, group: &str) -> Error {
    let error = Error::new(Kind::NotFound, format!("topic {topic:?} has no group {group:?}"));
    error.help("it was removed; subscribing creates it anew")
}

/// The group of this scope was removed.
pub(crate) fn gone(scope: &Scope) -> Error {
    missing(&scope.topic.name, scope.name.as_deref().unwrap_or("~"))
}

pub(crate) fn other_order(after: std::time::Duration) -> Error {
    Error::new(Kind::Conflict, "the group has living members with another order")
        .retry_as(linchpin_core::Retry::Safe { after })
        .help("give all members of a group an order, or none of them")
}
