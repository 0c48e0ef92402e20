//! Messages of its own through a topic of its own; a key of its own under a lease of its own.

use std::time::{Duration, Instant};

use linchpin::bus::{Message, Settle, SubscribeOptions};
use linchpin::coord::{Coord, DEFAULT_TTL, When};
use linchpin::{Bus, Error, Kind, Result, TopicOptions};
use serde_json::json;

use super::{Report, time};
use crate::out;

/// How many messages are published one by one to learn how long that takes.
const PROBES: usize = 100;
/// Longer than this for most messages is worth a look.
const SLOW: Duration = Duration::from_millis(20);
/// Longer than this to get a message back is an error.
const LOST: Duration = Duration::from_secs(10);

/// Publishes, consumes, compares, and removes the topic whatever happened.
pub(super) async fn publish_and_consume(bus: &Bus, report: &mut Report) -> Result<()> {
    let topic = format!("lp-doctor-{:016x}", fastrand::u64(..));
    let mut interrupts = crate::Interrupts::listen()?;
    bus.ensure(&topic, &TopicOptions { partitions: 1, ..TopicOptions::default() }).await?;
    let probed = tokio::select! {
        probed = probe(bus, &topic, report) => probed,
        () = interrupts.next() => Err(Error::new(Kind::Closed, "interrupted")),
    };
    probed.and(bus.remove(&topic, None).await)
}

/// Puts a key under a lease, and ends the lease whatever happened.
pub(super) async fn hold_a_key(coord: &Coord) -> Result<()> {
    let key = format!("lp-doctor/{:016x}", fastrand::u64(..));
    let session = coord.session(DEFAULT_TTL).await?;
    let held = match session.put(&key, "doctor", When::Absent).await {
        Ok(rev) => coord.get(&key).await.map(|entry| entry.is_some_and(|entry| entry.rev == rev)),
        Err(error) => Err(error),
    };
    let closed = session.close().await;
    let missing = |what| Err(Error::new(Kind::Unexpected, format!("the key {key:?} {what}")));
    if !held? {
        return missing("isn't there after it was put");
    }
    closed?;
    match coord.get(&key).await? {
        Some(_) => missing("is there after its lease was revoked"),
        None => Ok(()),
    }
}

async fn probe(bus: &Bus, topic: &str, report: &mut Report) -> Result<()> {
    let mut took = Vec::with_capacity(PROBES);
    let mut sent = Vec::with_capacity(PROBES);
    for n in 0..PROBES {
        let message = Message::new(format!("probe {n}")).key("doctor").header("n", n.to_string());
        sent.push(message.clone());
        let started = Instant::now();
        bus.publish(topic, message).await?;
        took.push(started.elapsed());
    }
    took.sort_unstable();
    let at = |share: usize| took.get(took.len() * share / 100).copied().unwrap_or_default();
    let (half, most) = (at(50), at(99));
    let times = json!({ "messages": PROBES, "p50_us": half.as_micros(), "p99_us": most.as_micros() });
    report.facts.insert("publish".into(), times);
    let text = format!("a stored message takes {} (p50), {} (p99)", time(half), time(most));
    if half > SLOW {
        report.look("publish", text)
    } else {
        report.well("publish", text)
    }
    let started = Instant::now();
    let back = receive(bus, topic).await?;
    let same = back.len() == sent.len() && back.iter().all(|message| sent.contains(message));
    if !same {
        let message =
            format!("{} of {} came back as they were sent", back.len(), out::count(PROBES as u64, "message"));
        return Err(Error::new(Kind::Corrupt, message));
    }
    report.well("consume", format!("all {PROBES} came back in {}", time(started.elapsed())));
    Ok(())
}

/// Everything in the topic, acknowledged.
async fn receive(bus: &Bus, topic: &str) -> Result<Vec<Message>> {
    let group = bus.subscribe(topic, &SubscribeOptions::group("doctor")).await?;
    let started = Instant::now();
    let mut messages = Vec::with_capacity(PROBES);
    while messages.len() < PROBES && started.elapsed() < LOST {
        let batch = group.next(PROBES, Duration::from_secs(1)).await?;
        messages.extend(batch.iter().map(|delivery| delivery.message.clone()));
        let done = batch.into_iter().map(|delivery| (delivery, Settle::Ack)).collect();
        group.settle(done).await.into_iter().collect::<Result<()>>()?;
    }
    group.close(Duration::from_secs(5)).await?;
    Ok(messages)
}
