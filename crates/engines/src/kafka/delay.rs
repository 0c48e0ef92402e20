//! Delayed messages: they wait in a topic of their own, and enter theirs when due.
//!
//! `lp-delayed.<topic>` has as many partitions as the topic, each message in the one it is bound for. Every bus that
//! subscribed to the topic, or published a delayed message to it, is a member of the group that moves them. A crash
//! between the two steps moves a message twice (same id), never loses it.

use std::sync::Arc;
use std::time::Duration;

use linchpin_core::bus::{
    Delivery, Message, Position, PublishOptions, Settle, SubscribeOptions, TopicOptions,
};
use linchpin_core::time::plus;
use linchpin_core::{Kind, Result, Timestamp};

use super::core::Core;
use super::hub::Hub;
use super::topic::{Known, kafka_group, kafka_name};
use super::wire::DUE;

/// The group that moves them.
const GROUP: &str = "lp-delay";
/// How soon another process goes on when one dies: the shortest that brokers allow by default.
const LEASE: Duration = Duration::from_secs(6);
/// How many are moved at once.
const BATCH: usize = 512;
/// The pause after something failed.
const AGAIN: Duration = Duration::from_millis(500);

/// Where the delayed messages of a topic wait.
pub(super) fn waiting_room(topic: &str) -> String {
    format!("lp-delayed.{topic}")
}

/// Stores delayed messages of a topic that is known; one answer each.
pub(super) async fn publish(
    core: &Arc<Core>,
    topic: &str,
    known: &Known,
    messages: Vec<Message>,
    options: &PublishOptions,
) -> Vec<Result<Position>> {
    let count = messages.len();
    let room = waiting_room(topic);
    let opened = open(core, &room, known).await;
    // The delay runs from when it can be stored.
    let now = Timestamp::now();
    let addressed = messages.into_iter().map(|message| address(known, message, options, now));
    let (mut answers, mut bound) = (Vec::with_capacity(count), Vec::new());
    for (at, message) in addressed.enumerate() {
        answers.push(message.as_ref().map(|_| Position { partition: 0, offset: None }).map_err(Clone::clone));
        bound.extend(message.ok().map(|message| (at, message)));
    }
    let (places, bound): (Vec<_>, Vec<_>) = bound.into_iter().unzip();
    let stored = match opened {
        Ok(()) => core.store(&room, bound, &PublishOptions::default()).await,
        Err(error) => places.iter().map(|_| Err(error.clone())).collect(),
    };
    for (at, stored) in places.into_iter().zip(stored) {
        if let Some(answer) = answers.get_mut(at) {
            // It takes its offset when it is due.
            *answer = stored.map(|position| Position { offset: None, ..position });
        }
    }
    keep_moving(core, topic);
    answers
}

/// The message with its due time, bound for the partition it will have.
fn address(known: &Known, mut message: Message, options: &PublishOptions, now: Timestamp) -> Result<Message> {
    super::publish::check_size(&message, known.options.max_message)?;
    let partition = options.partitioner.choose(&message, known.options.partitions, &known.round)?;
    let due = plus(now, message.delay.take().unwrap_or_default());
    Ok(message.partition(partition).header(DUE, (due.as_millisecond() + 1).to_string()))
}

async fn open(core: &Arc<Core>, room: &str, known: &Known) -> Result<()> {
    match core.known(room, "publish").await {
        Err(error) if error.kind() == Kind::NotFound => {}
        other => return other.map(drop),
    }
    let options = TopicOptions {
        partitions: known.options.partitions,
        // What was moved isn't needed any more.
        retention_age: Some(Duration::from_millis(1)),
        retention_length: None,
        max_message: known.options.max_message + 1024,
    };
    core.control.ensure(room, &kafka_name(&core.config.prefix, room), &options).await
}

/// Moves the delayed messages of a topic if there can be any, as long as the bus is open.
pub(super) async fn look(core: &Arc<Core>, topic: &str) {
    if core.known(&waiting_room(topic), "subscribe").await.is_ok() {
        keep_moving(core, topic);
    }
}

fn keep_moving(core: &Arc<Core>, topic: &str) {
    if !core.begins_to_move(topic) {
        return;
    }
    let (core, topic) = (core.clone(), topic.to_owned());
    tokio::spawn(async move {
        while let Err(error) = move_all(&core, &topic).await {
            tracing::debug!(%error, topic, "delayed messages aren't moved");
            if matches!(error.kind(), Kind::NotFound | Kind::Closed) || core.is_closed() {
                break;
            }
            tokio::time::sleep(AGAIN).await;
        }
        core.ends_to_move(&topic);
    });
}

async fn move_all(core: &Arc<Core>, topic: &str) -> Result<()> {
    let options =
        SubscribeOptions { ack_wait: LEASE, max_attempts: u32::MAX, ..SubscribeOptions::group(GROUP) };
    let (hub, seat) = core.hub(&waiting_room(topic), &options).await?;
    loop {
        let batch = hub.next(seat, BATCH, LEASE).await;
        let moved = match batch {
            Ok(batch) if batch.is_empty() => continue,
            Ok(batch) => move_batch(core, topic, &hub, seat, batch).await,
            Err(error) => Err(error),
        };
        if let Err(error) = moved {
            hub.abandon(seat);
            return Err(error);
        }
    }
}

async fn move_batch(
    core: &Arc<Core>,
    topic: &str,
    hub: &Arc<Hub>,
    seat: u64,
    batch: Vec<Delivery>,
) -> Result<()> {
    let receipts: Vec<_> = batch.iter().map(|delivery| delivery.receipt).collect();
    let bound = batch.into_iter().map(|delivery| delivery.message.partition(delivery.position.partition));
    let stored = core.store(topic, bound.collect(), &PublishOptions::default()).await;
    let mut failed = Ok(());
    let settles = receipts.into_iter().zip(stored).map(|(receipt, stored)| match stored {
        Ok(_) => (receipt, Settle::Ack),
        Err(error) => {
            let reason = error.to_string();
            failed = Err(error);
            (receipt, Settle::Nack { delay: AGAIN, reason })
        }
    });
    let settles = settles.collect();
    hub.settle(seat, settles).await.into_iter().collect::<Result<()>>()?;
    match failed {
        Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Closed) => Err(error),
        _ => Ok(()),
    }
}

/// How many messages of a topic wait.
pub(super) async fn count(core: &Arc<Core>, topic: &str) -> Result<u64> {
    let room = waiting_room(topic);
    let known = match core.known(&room, "stats").await {
        Ok(known) => known,
        Err(error) if error.kind() == Kind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let partitions = known.options.partitions;
    let ends = core.control.ends(&known.kafka, partitions, "stats").await?;
    let group = kafka_group(&core.config.prefix, &room, GROUP);
    let progress = core.control.progress(&known.kafka, group, partitions, "stats").await?;
    let left = ends.iter().map(|(n, low, high)| {
        progress.iter().find(|(m, _)| m == n).map_or(high - low, |(_, tracker)| tracker.left(*high))
    });
    Ok(left.sum())
}
