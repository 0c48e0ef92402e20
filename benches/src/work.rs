//! The messages, and Linchpin's side of every claim: publish them all, handle and acknowledge them all.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use linchpin::bus::{Message, PublisherOptions};
use linchpin::{Bus, Open, TopicOptions};
use tokio::sync::Notify;

use crate::harness::Result;

const TOPIC: &str = "readings";
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

fn message(n: usize) -> Message {
    Message::new(Bytes::copy_from_slice(&payload(n))).key(key(n))
}

/// A bus in a new file, with a topic. Every commit waits for the disk.
pub(crate) async fn bus(folder: &Path) -> Result<Bus> {
    let bus = Bus::open(&format!("sqlite://{}", folder.join("bench.db").display())).await?;
    bus.ensure(TOPIC, &TopicOptions::default()).await?;
    Ok(bus)
}

/// Publishes, and awaits the answer of every message.
pub(crate) async fn publish(bus: &Bus, messages: usize) -> Result<Duration> {
    let start = Instant::now();
    let publisher = bus.publisher(TOPIC, PublisherOptions::default());
    let mut answers = VecDeque::with_capacity(IN_FLIGHT);
    for n in 0..messages {
        if answers.len() == IN_FLIGHT
            && let Some(answer) = answers.pop_front()
        {
            answer.await?;
        }
        answers.push_back(publisher.send(message(n)).await?);
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
pub(crate) async fn consume(bus: &Bus, messages: usize, handler: Handler) -> Result<Duration> {
    let start = Instant::now();
    let (handled, all) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (count, done) = (handled.clone(), all.clone());
    let running = bus
        .consume(TOPIC)
        .group("bench")
        .run(move |delivery| {
            let last = delivery.message.payload.len() == 100
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
        })
        .await?;
    all.notified().await;
    let totals = running.stop().await?;
    let took = start.elapsed();
    if totals.acked != messages as u64 {
        return Err(format!("{messages} messages, but {totals}").into());
    }
    Ok(took)
}
