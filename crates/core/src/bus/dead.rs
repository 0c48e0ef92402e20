//! Dead letters: where they go, what they carry, and the way back.

use std::time::Duration;

use super::{Bus, Message, Position, PublishOptions, Settle, SubscribeOptions};
use crate::{Error, Kind, Result, Timestamp};

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

/// The topic that keeps what `group` couldn't handle of `topic`: `<topic>.<group>.dead`. It appears with the first dead letter,
/// has as many partitions as `topic`, each letter in the one it came from, and keeps letters until they are removed.
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

impl Bus {
    /// Sends up to `limit` dead letters of `group` back to `topic`, oldest first, and says how many went.
    ///
    /// Only `group` handles them: subscribers of other groups skip them. Attempts start over. A crash in the middle may send a
    /// message twice (same id), never lose one.
    ///
    /// # Errors
    /// `NotFound` if there is no such topic or it has no dead letters; what publishing says otherwise.
    pub async fn redrive(&self, topic: &str, group: &str, limit: u64) -> Result<u64> {
        let dead = dead_topic(topic, group);
        let options = SubscribeOptions { max_attempts: u32::MAX, ..SubscribeOptions::group("lp-redrive") };
        let letters = self.engine().subscribe(&dead, &options).await.map_err(|e| match e.kind() {
            Kind::NotFound => Error::new(Kind::NotFound, format!("no dead letters in {dead:?}"))
                .help("the topic appears with the first dead letter of that group"),
            _ => e,
        })?;
        let mut sent = 0;
        let result = loop {
            let room = usize::try_from(limit - sent).unwrap_or(usize::MAX).min(512);
            if room == 0 {
                break Ok(sent);
            }
            let batch = match letters.next(room, Duration::from_millis(500)).await {
                Ok(batch) if batch.is_empty() => break Ok(sent),
                Ok(batch) => batch,
                Err(error) => break Err(error),
            };
            let receipts: Vec<_> = batch.iter().map(|d| d.receipt).collect();
            let messages = batch.into_iter().map(|d| revived(d.message, group)).collect();
            let stored = self.engine().publish(topic, messages, &PublishOptions::default()).await;
            let mut failed = None;
            let settles = receipts.into_iter().zip(stored).map(|(receipt, stored)| match stored {
                Ok(_) => (receipt, Settle::Ack),
                Err(error) => {
                    let nack = Settle::Nack { delay: Duration::ZERO, reason: error.to_string() };
                    failed = Some(error);
                    (receipt, nack)
                }
            });
            let settles: Vec<_> = settles.collect();
            sent += settles.iter().filter(|(_, s)| *s == Settle::Ack).count() as u64;
            let settled = letters.settle(settles).await;
            if let Some(error) = failed.or_else(|| settled.into_iter().find_map(Result::err)) {
                break Err(error);
            }
        };
        letters.close(Duration::from_secs(5)).await?;
        result
    }
}

/// The message as it was, for `group` alone, bound for the partition it failed in: its key belongs there.
fn revived(mut message: Message, group: &str) -> Message {
    let origin = message.headers.text(DEAD_POSITION).and_then(|position| position.split_once('/'));
    message.partition = origin.and_then(|(partition, _)| partition.parse().ok());
    for name in ALL.into_iter().chain([REDRIVE_GROUP]) {
        message.headers.remove(name);
    }
    message.header(REDRIVE_GROUP, group.to_owned())
}
