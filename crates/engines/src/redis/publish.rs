//! Storing messages.

use futures_util::future::join_all;
use linchpin_core::bus::{Message, Partitioner, Position};
use linchpin_core::{Error, Kind, Result};
use redis::{Pipeline, Value};

use super::core::Core;
use super::entry::{EntryId, add, encode};
use super::error::{error, no_topic};
use super::script::{Call, DELAY};
use super::topic::{Known, lost_stream};

/// Batches of more messages are worth a pipeline for each partition.
const LARGE: usize = 256;

/// A message of a call, with its place in the call and its partition.
pub(super) type Item = (usize, u32, Message);

impl Core {
    /// Stores messages in the way of the engine.
    pub(super) async fn store_all(
        &self,
        topic: &str,
        messages: Vec<Message>,
        partitioner: Partitioner,
    ) -> Vec<Result<Position>> {
        if self.form.lists {
            self.push(topic, messages, partitioner).await
        } else {
            self.publish(topic, messages, partitioner).await
        }
    }

    async fn publish(
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
            match accept(&known, &message, partitioner) {
                Ok(partition) => items.push((at, partition, message)),
                Err(e) => put(&mut answers, at, Err(e)),
            }
        }
        let waits = |(_, _, message): &&Item| message.delay.is_some_and(|delay| !delay.is_zero());
        let (mut delayed, mut now): (Vec<_>, Vec<_>) = items.iter().partition(waits);
        let told = !now.is_empty();
        let storing = self.split(&mut now).into_iter().map(|batch| self.store(&known, batch));
        let keeping = by_partition(&mut delayed).map(|batch| self.keep(&known, batch));
        let (stored, kept) = futures_util::join!(join_all(storing), join_all(keeping));
        for (at, answer) in stored.into_iter().chain(kept).flatten() {
            put(&mut answers, at, answer);
        }
        if told {
            let channel = self.keys.hints(topic);
            self.wake(Some(&channel));
            if self.link.is_cluster() {
                self.link.hint(channel, String::new());
            }
        }
        self.explain(topic, &mut answers).await;
        answers.into_iter().map(|answer| answer.map_err(named)).collect()
    }

    /// A cluster takes one batch per slot. A single server works on a large batch's first partition while the next one is
    /// encoded.
    fn split<'b, 'i>(&self, batch: &'b mut [&'i Item]) -> Vec<&'b [&'i Item]> {
        if self.link.is_cluster() || batch.len() > LARGE {
            by_partition(batch).collect()
        } else {
            vec![batch]
        }
    }

    async fn store(&self, topic: &Known, batch: &[&Item]) -> Vec<(usize, Result<Position>)> {
        if batch.is_empty() {
            return Vec::new();
        }
        let mut pipeline = Pipeline::with_capacity(batch.len() + 1);
        let mut id = String::new();
        for (_, partition, message) in batch {
            let Some(stream) = topic.streams.get(*partition as usize) else { continue };
            pipeline.add_command(add(stream, message, &mut id));
        }
        if !self.link.is_cluster() {
            pipeline.cmd("PUBLISH").arg(self.keys.hints(&topic.name)).arg("");
        }
        let first = batch.first().and_then(|(_, partition, _)| topic.streams.get(*partition as usize));
        let key = first.map(String::as_str).unwrap_or_default();
        let answers = match self.link.pipeline(pipeline, key, "publish").await {
            Ok(answers) => answers,
            Err(e) => return batch.iter().map(|(at, ..)| (*at, Err(e.clone()))).collect(),
        };
        let read = batch.iter().zip(answers);
        read.map(|((at, partition, _), answer)| (*at, position(topic, *partition, answer))).collect()
    }

    /// Keeps delayed messages of one partition back.
    async fn keep(&self, topic: &Known, batch: &[&Item]) -> Vec<(usize, Result<Position>)> {
        let Some(partition) = batch.first().map(|(_, partition, _)| *partition) else { return Vec::new() };
        let stream = self.keys.stream(&topic.name, partition);
        let mut call = Call::new(&DELAY).key(stream.clone()).key(self.keys.delayed(&topic.name, partition));
        call = call.text(&self.keys.hints(&topic.name));
        for (_, _, message) in batch {
            let fields = encode(message);
            // Rounded up: never sooner than asked.
            let delay = message.delay.unwrap_or_default().as_micros().div_ceil(1_000);
            call = call.number(delay).number(fields.len());
            call = fields.iter().fold(call, |call, field| call.bytes(field));
        }
        let answer = self.link.call::<bool>(&call, "publish").await;
        let answer = answer.and_then(|there| there.then_some(()).ok_or_else(|| lost_stream(&stream)));
        let nowhere = Position { partition, offset: None };
        batch.iter().map(|(at, ..)| (*at, answer.clone().map(|()| nowhere))).collect()
    }

    /// A stream that is missing may mean that the topic was removed meanwhile.
    pub(super) async fn explain(&self, topic: &str, answers: &mut [Result<Position>]) {
        if !answers.iter().any(|a| a.as_ref().is_err_and(|e| e.kind() == Kind::Corrupt)) {
            return;
        }
        let gone = match self.look_up(topic, "publish").await {
            Err(e) if e.kind() == Kind::NotFound => no_topic(topic),
            _ => return,
        };
        for answer in answers {
            if answer.as_ref().is_err_and(|e| e.kind() == Kind::Corrupt) {
                *answer = Err(gone.clone());
            }
        }
    }
}

pub(super) fn put(answers: &mut [Result<Position>], at: usize, answer: Result<Position>) {
    if let Some(slot) = answers.get_mut(at) {
        *slot = answer;
    }
}

/// The partition of a message, if the topic takes it.
pub(super) fn accept(topic: &Known, message: &Message, partitioner: Partitioner) -> Result<u32> {
    let (size, limit) = (message.size() as u64, topic.options.max_message);
    if size > limit {
        return Err(error(Kind::Invalid, format!("a message of {size} bytes is over the limit of {limit}"))
            .help("raise the topic's `max_message`, or store the content elsewhere and send a reference"));
    }
    partitioner.choose(message, topic.options.partitions, &topic.round).map_err(|e| e.engine(super::NAME))
}

/// Those of one partition together, in their order.
pub(super) fn by_partition<'b, 'i>(batch: &'b mut [&'i Item]) -> impl Iterator<Item = &'b [&'i Item]> {
    batch.sort_by_key(|(_, partition, _)| *partition);
    batch.chunk_by(|(_, one, _), (_, other, _)| one == other)
}

fn position(topic: &Known, partition: u32, answer: Result<Value>) -> Result<Position> {
    let stream = topic.streams.get(partition as usize).map(String::as_str).unwrap_or_default();
    let id = match answer.map_err(|e| e.with("key", stream))? {
        Value::BulkString(id) => EntryId::parse(&id),
        Value::Nil => return Err(lost_stream(stream)),
        _ => None,
    };
    let id = id.ok_or_else(|| error(Kind::Unexpected, "the server answered no entry id"))?;
    Ok(id.position(partition))
}
