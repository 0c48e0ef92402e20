//! Storing messages in lists.

use futures_util::future::join_all;
use linchpin_core::bus::{Message, Partitioner, Position};
use linchpin_core::{Error, Kind, Result};

use crate::redis::core::Core;
use crate::redis::error::{error, map};
use crate::redis::member::Member;
use crate::redis::publish::{Item, accept, by_partition, put};
use crate::redis::script::{Call, LIST_PUSH};
use crate::redis::state::Grip;
use crate::redis::topic::Known;

impl Core {
    pub(in crate::redis) async fn push(
        &self,
        topic: &str,
        messages: Vec<Message>,
        partitioner: Partitioner,
    ) -> Vec<Result<Position>> {
        let count = messages.len();
        let named = |e: Error| e.op("publish").with("topic", topic);
        let known = match self.known(topic, "publish").await {
            Ok(known) => known,
            Err(e) => return vec![Err(named(e)); count],
        };
        let nothing = || Err(error(Kind::Unexpected, "the server gave no answer"));
        let mut answers: Vec<Result<Position>> = (0..count).map(|_| nothing()).collect();
        let mut items: Vec<Item> = Vec::with_capacity(count);
        for (at, message) in messages.into_iter().enumerate() {
            match bare(&message).and_then(|()| accept(&known, &message, partitioner)) {
                Ok(partition) => items.push((at, partition, message)),
                Err(e) => put(&mut answers, at, Err(e)),
            }
        }
        let mut batch: Vec<_> = items.iter().collect();
        let pushing = by_partition(&mut batch).map(|batch| self.push_part(&known, batch));
        for (at, answer) in join_all(pushing).await.into_iter().flatten() {
            put(&mut answers, at, answer);
        }
        self.wake(Some(&self.keys.hints(topic)));
        self.explain(topic, &mut answers).await;
        answers.into_iter().map(|answer| answer.map_err(named)).collect()
    }

    /// Stores messages of one partition: all of them or none.
    async fn push_part(&self, topic: &Known, batch: &[&Item]) -> Vec<(usize, Result<Position>)> {
        let Some(partition) = batch.first().map(|(_, partition, _)| *partition) else { return Vec::new() };
        let (keys, name) = (&self.keys, &topic.name);
        let record = keys.record(name, partition);
        let call = Call::new(&LIST_PUSH).key(keys.stream(name, partition)).key(record.clone());
        let mut call = call.key(keys.delayed(name, partition)).text(&keys.hints(name));
        for (_, _, message) in batch {
            // Rounded up: never sooner than asked.
            let delay = message.delay.unwrap_or_default().as_micros().div_ceil(1_000);
            call = call.number(delay).bytes(&message.payload);
        }
        let answer = self.link.call::<bool>(&call, "publish").await;
        let answer = answer.and_then(|there| there.then_some(()).ok_or_else(|| lost(&record)));
        let place = Position { partition, offset: None };
        batch.iter().map(|(at, ..)| (*at, answer.clone().map(|()| place))).collect()
    }
}

impl Member {
    /// What the server keeps of a message in hand.
    pub(in crate::redis) async fn payload_of(&self, grip: &Grip) -> Result<Message> {
        let mut cmd = redis::cmd("HGET");
        let [_, record, ..] = self.core.keys.part(&self.topic.name, grip.partition, &self.joined.group);
        cmd.arg(format!("{record}:t")).arg(grip.id.to_string());
        let answer = self.core.link.command(&cmd, "settle").await?;
        let payload: Option<Vec<u8>> =
            redis::from_redis_value(answer).map_err(|e| map(e.into(), "settle"))?;
        payload.map(Message::new).ok_or_else(crate::redis::error::fenced)
    }
}

/// Refuses what isn't a payload.
fn bare(message: &Message) -> Result<()> {
    if message.key.is_none() && message.headers.is_empty() {
        return Ok(());
    }
    Err(error(Kind::Unsupported, "an element of a list has no place for a key or headers")
        .help("leave them out, or use redis://, where they are fields of the entry"))
}

/// The record of a partition of a topic that exists is missing.
fn lost(record: &str) -> Error {
    error(Kind::Corrupt, format!("the key {record:?} is missing on the server, though its topic exists"))
        .help("somebody deleted it, or the server lost it: remove the topic and make it anew")
}
