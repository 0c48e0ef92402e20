//! The messages, and Linchpin's side of every claim: publish them all, handle and acknowledge them all.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use linchpin::bus::{Message, MessageId, PublisherOptions};
use linchpin::{Bus, Open, TopicOptions};
use tokio::sync::Notify;

use crate::harness::Result;

pub(crate) const TOPIC: &str = "readings";
/// Answers awaited at once. The publisher bounds itself by memory; this bounds the bench's own list.
const IN_FLIGHT: usize = 50_000;

/// 100 bytes, different for each message.
pub(crate) fn payload(n: usize) -> [u8; 100] {
    let mut payload = [b'.'; 100];
    for (byte, from) in payload.iter_mut().zip(n.to_le_bytes()) {
        *byte = from;
    }
    payload
}

/// One of 1,000 keys.
pub(crate) fn key(n: usize) -> String {
    format!("sensor-{}", n % 1000)
}

/// A new identity as text: what the other side stores with each message, as Linchpin does.
pub(crate) fn id() -> String {
    MessageId::new().to_string()
}

/// `size` bytes, at least 8, different for each message.
pub(crate) fn body(n: usize, size: usize) -> Bytes {
    let mut body = vec![b'.'; size];
    for (byte, from) in body.iter_mut().zip(n.to_le_bytes()) {
        *byte = from;
    }
    body.into()
}

fn message(n: usize, size: usize) -> Message {
    Message::new(body(n, size)).key(key(n))
}

/// A bus in a new file, with a topic. Every commit waits for the disk.
pub(crate) async fn bus(folder: &Path) -> Result<Bus> {
    open(&format!("sqlite://{}", folder.join("bench.db").display())).await
}

/// A bus on what this URL names, with a topic.
pub(crate) async fn open(url: &str) -> Result<Bus> {
    let bus = Bus::open(url).await?;
    bus.ensure(TOPIC, &TopicOptions::default()).await?;
    Ok(bus)
}

/// Publishes, and awaits the answer of every message.
pub(crate) async fn publish(bus: &Bus, messages: usize, size: usize) -> Result<Duration> {
    let start = Instant::now();
    let publisher = bus.publisher(TOPIC, PublisherOptions::default());
    let mut answers = VecDeque::with_capacity(IN_FLIGHT);
    for n in 0..messages {
        if answers.len() == IN_FLIGHT
            && let Some(answer) = answers.pop_front()
        {
            answer.await?;
        }
        answers.push_back(publisher.send(message(n, size)).await?);
    }
    for answer in answers {
        answer.await?;
    }
    Ok(start.elapsed())
}

/// What a handler does beside looking at its message.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Handler {
    /// Nothing: it is done at its first poll.
    Ready,
    /// It lets the others go first, once.
    Yields,
}

/// Handles messages one by one, each acknowledged, until all acknowledgements are stored.
pub(crate) async fn consume(bus: &Bus, messages: usize, size: usize, handler: Handler) -> Result<Duration> {
    consume_as(std::slice::from_ref(bus), messages, size, handler).await
}

/// The same by several members of one group.
pub(crate) async fn consume_together(buses: &[Bus], messages: usize, size: usize) -> Result<Duration> {
    consume_as(buses, messages, size, Handler::Ready).await
}

async fn consume_as(buses: &[Bus], messages: usize, size: usize, handler: Handler) -> Result<Duration> {
    // The first message starts the clock: joining a group isn't what is measured.
    let start = Arc::new(OnceLock::new());
    let (handled, all) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let mut members = Vec::new();
    for bus in buses {
        let (count, done, first) = (handled.clone(), all.clone(), start.clone());
        let handle = move |delivery: linchpin::bus::Delivery| {
            first.get_or_init(Instant::now);
            let last = delivery.message.payload.len() == size
                && count.fetch_add(1, Ordering::Relaxed) + 1 == messages;
            if last {
                done.notify_one();
            }
            async move {
                if handler == Handler::Yields {
                    tokio::task::yield_now().await;
                }
                Ok(())
            }
        };
        members.push(bus.consume(TOPIC).group("bench").run(handle).await?);
    }
    all.notified().await;
    // Leaving the group isn't measured either.
    while members.iter().map(|member| member.totals().acked).sum::<u64>() < messages as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = start.get().ok_or("nothing came")?.elapsed();
    let mut acked = 0;
    for member in members {
        acked += member.stop().await?.acked;
    }
    if acked != messages as u64 {
        return Err(format!("{messages} messages, but {acked} acknowledged").into());
    }
    Ok(took)
}
