//! Topics and their partitions, as every handle knows them.

use std::time::Duration;

use linchpin_core::bus::{Round, TopicOptions};
use linchpin_core::{Error, Kind};

/// Bits of a place that are the offset: 10^12 messages per partition, and 8 million partitions per database.
const OFFSET_BITS: u32 = 40;
/// The highest id of a partition.
pub(crate) const LAST_PART: i64 = (1 << (63 - OFFSET_BITS)) - 1;

/// Where a message lies in `lp_message`.
pub(crate) fn place(part: i64, offset: u64) -> i64 {
    (part << OFFSET_BITS) | offset.cast_signed()
}

/// The offset of a place.
pub(crate) fn offset(place: i64) -> u64 {
    (place & ((1 << OFFSET_BITS) - 1)).cast_unsigned()
}

/// Milliseconds, held at the end of time.
pub(crate) fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// Milliseconds rounded up: what waits this long never comes early.
pub(crate) fn millis_up(span: Duration) -> i64 {
    millis(span.saturating_add(Duration::from_micros(999)))
}

/// A row of `lp_topic`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Topic {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) partitions: u32,
    /// The id of partition 0; the others follow.
    pub(crate) base: i64,
    pub(crate) age: Option<i64>,
    pub(crate) length: Option<i64>,
    pub(crate) max_message: u64,
}

/// A topic that a handle publishes to.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) topic: Topic,
    pub(crate) round: Round,
}

impl Topic {
    /// The id of a partition.
    pub(crate) fn part(&self, partition: u32) -> i64 {
        self.base + i64::from(partition)
    }

    /// The number of the partition with this id.
    pub(crate) fn partition(&self, part: i64) -> u32 {
        u32::try_from(part - self.base).unwrap_or(u32::MAX)
    }

    /// How it is kept.
    pub(crate) fn options(&self) -> TopicOptions {
        TopicOptions {
            partitions: self.partitions,
            retention_age: self.age.map(|ms| Duration::from_millis(ms.cast_unsigned())),
            retention_length: self.length.map(i64::cast_unsigned),
            max_message: self.max_message,
        }
    }

    /// How its dead letters are kept: until somebody removes them, with room for the headers that say why.
    pub(crate) fn grave_options(&self) -> TopicOptions {
        TopicOptions {
            retention_age: None,
            retention_length: None,
            max_message: (self.max_message + (64 << 10)).min(1 << 30),
            ..self.options()
        }
    }
}

/// Age, length and size limit as `lp_topic` holds them.
pub(crate) fn kept(options: &TopicOptions) -> (Option<i64>, Option<i64>, i64) {
    let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    (options.retention_age.map(millis), options.retention_length.map(whole), whole(options.max_message))
}

pub(crate) fn missing(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("topic {name:?} doesn't exist")).help(format!(
        "create it with `linchpin topic create URL {name}` or `bus.ensure`, or open the URL with auto_create=true"
    ))
}

pub(crate) fn other_partitions(topic: &Topic) -> Error {
    let message = format!("topic {:?} has {} partitions", topic.name, topic.partitions);
    Error::new(Kind::AlreadyExists, message).help("the number of partitions is fixed at creation")
}
