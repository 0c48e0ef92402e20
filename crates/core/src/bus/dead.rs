//! Dead letters: where they go, what they carry, and what they carry.

use super::{Message, Position};
use crate::Timestamp;

/// Header of a dead letter: why.
pub const DEAD_REASON: &str = "lp-dead-reason";
/// Header of a dead letter: how often the message was handed out.
pub const DEAD_ATTEMPTS: &str = "lp-dead-attempts";
/// Header of a dead letter: the topic it came from.
pub const DEAD_TOPIC: &str = "lp-dead-topic";
/// Header of a dead letter: the group it failed in.
pub const DEAD_GROUP: &str = "lp-dead-group";
/// Header of a dead letter: its `partition/offset` in that topic.
pub const DEAD_POSITION: &str = "lp-dead-position";
/// Header of a dead letter: when, RFC 3339.
pub const DEAD_TIME: &str = "lp-dead-time";
/// Header of a redriven message: the only group it is for.
pub const REDRIVE_GROUP: &str = "lp-redrive-group";

const ALL: [&str; 6] = [DEAD_REASON, DEAD_ATTEMPTS, DEAD_TOPIC, DEAD_GROUP, DEAD_POSITION, DEAD_TIME];

/// The reason engines give when the last attempt ended in silence.
pub const NO_REPLY: &str = "not settled in time at the last attempt";

/// The topic that keeps what `group` couldn't handle of `topic`: `<topic>.<group>.dead`.
pub fn dead_topic(topic: &str, group: &str) -> String {
    format!("{topic}.{group}.dead")
}

/// Where a dead letter came from.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The group it failed in.
    pub group: &'a str,
    /// Its place there.
    pub position: Position,
    /// How often it was handed out.
    pub attempts: u32,
}

/// The dead letter made of `message`: same id, key, payload and headers, and the `lp-dead-*` headers.
pub fn dead_letter(mut message: Message, origin: Origin<'_>, reason: &str, now: Timestamp) -> Message {
    for name in ALL {
        message.headers.remove(name);
    }
    let Origin { topic, group, position, attempts } = origin;
    message.partition = None;
    message
        .header(DEAD_REASON, reason.to_owned())
        .header(DEAD_ATTEMPTS, attempts.to_string())
        .header(DEAD_TOPIC, topic.to_owned())
        .header(DEAD_GROUP, group.to_owned())
        .header(DEAD_POSITION, position.to_string())
        .header(DEAD_TIME, now.to_string())
}

/// Whether `group` is to handle this message: a redriven one is only for the group it failed in.
pub fn is_for(message: &Message, group: &str) -> bool {
    message.headers.text(REDRIVE_GROUP).is_none_or(|only| only == group)
}
