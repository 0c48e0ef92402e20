//! What cases have in common: receiving, settling, and saying what was seen.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use linchpin::bus::{
    Bus, Delivery, Message, Order, PublishOptions, Receipt, Settle, SubscribeOptions, Subscription,
};
use linchpin::{Error, Kind, Result};
use tokio::time::Instant;

/// How long a case waits for what should come at once.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// How long a case waits for much to come from many.
pub(crate) const LONG: Duration = Duration::from_secs(30);
/// How long a case waits to see that nothing comes.
pub(crate) const MOMENT: Duration = Duration::from_millis(200);
/// How late the contract lets things come.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

thread_local! {
    /// The shortest lease of the engine that is tried on this thread.
    static LEASE: Cell<Duration> = const { Cell::new(Duration::from_secs(1)) };
}

/// The shortest lease the engine has: [`Target::lease`](crate::target::Target::lease).
pub(crate) fn lease() -> Duration {
    LEASE.get()
}

/// The same in milliseconds, as children are told it.
pub(crate) fn lease_ms() -> u64 {
    u64::try_from(lease().as_millis()).unwrap()
}

/// Sets it for the cases on this thread.
pub(crate) fn set_lease(lease: Duration) {
    LEASE.set(lease);
}

pub(crate) type Sub = Box<dyn Subscription>;

/// A group whose lease plays no part.
pub(crate) fn group(name: &str) -> SubscribeOptions {
    SubscribeOptions::group(name)
}

/// A group with the shortest lease the engine has.
pub(crate) fn brief(name: &str) -> SubscribeOptions {
    SubscribeOptions { ack_wait: lease(), ..SubscribeOptions::group(name) }
}

/// A group that keeps the order of keys.
pub(crate) fn by_key(name: &str) -> SubscribeOptions {
    SubscribeOptions { order: Order::Key, ..SubscribeOptions::group(name) }
}

pub(crate) async fn join(bus: &Bus, topic: &str, options: &SubscribeOptions) -> Sub {
    bus.engine().subscribe(topic, options).await.unwrap()
}

/// Publishes the numbers in one call; they have no key.
pub(crate) async fn publish(bus: &Bus, topic: &str, numbers: std::ops::Range<u64>) {
    send(bus, topic, numbers.map(|n| Message::new(n.to_string())).collect()).await;
}

/// Publishes the numbers in one call, each under the key that `key` makes of it.
pub(crate) async fn publish_by(
    bus: &Bus,
    topic: &str,
    numbers: std::ops::Range<u64>,
    key: impl Fn(u64) -> u64,
) {
    send(bus, topic, numbers.map(|n| Message::new(n.to_string()).key(key(n).to_string())).collect()).await;
}

pub(crate) async fn send(bus: &Bus, topic: &str, messages: Vec<Message>) {
    for answer in bus.engine().publish(topic, messages, &PublishOptions::default()).await {
        answer.unwrap();
    }
}

/// Exactly `count` deliveries, as soon as they come.
pub(crate) async fn take(sub: &Sub, count: usize) -> Vec<Delivery> {
    let deadline = Instant::now() + SOON;
    let mut all = Vec::new();
    while all.len() < count {
        let left = deadline.saturating_duration_since(Instant::now());
        let batch = sub.next(count - all.len(), left).await.unwrap();
        let few = &all[..all.len().min(50)];
        assert!(!batch.is_empty(), "{} of {count} came within {SOON:?}: {:?}", all.len(), texts(few));
        all.extend(batch);
    }
    all
}

/// The one delivery that comes.
pub(crate) async fn one(sub: &Sub) -> Delivery {
    take(sub, 1).await.remove(0)
}

/// Takes and acknowledges until nothing comes for a moment.
pub(crate) async fn drain(sub: &Sub) -> Vec<Delivery> {
    let mut all = Vec::new();
    loop {
        let batch = sub.next(500, MOMENT).await.unwrap();
        if batch.is_empty() {
            return all;
        }
        ack(sub, &batch).await;
        all.extend(batch);
    }
}

/// Nothing comes within `wait`.
pub(crate) async fn silence(sub: &Sub, wait: Duration) {
    let came = sub.next(500, wait).await.unwrap();
    assert!(came.is_empty(), "nothing was to come, but {:?} did", texts(&came));
}

pub(crate) async fn settle(sub: &Sub, receipt: Receipt, how: Settle) -> Result<()> {
    let mut answers = sub.settle(vec![(receipt, how)]).await;
    assert_eq!(answers.len(), 1, "one answer for one settle");
    answers.remove(0)
}

pub(crate) async fn ack(sub: &Sub, deliveries: &[Delivery]) {
    let batch = deliveries.iter().map(|d| (d.receipt, Settle::Ack)).collect();
    for answer in sub.settle(batch).await {
        answer.unwrap();
    }
}

pub(crate) async fn nack(sub: &Sub, delivery: &Delivery, delay: Duration) {
    settle(sub, delivery.receipt, Settle::Nack { delay, reason: "not now".into() }).await.unwrap();
}

pub(crate) async fn close(sub: &Sub) {
    sub.close(Duration::from_secs(5)).await.unwrap();
}

/// The answer is `Fenced`.
pub(crate) fn fenced(answer: Result<()>) {
    assert_kind(answer, Kind::Fenced);
}

/// The answer is an error of this kind.
pub(crate) fn assert_kind<T>(answer: Result<T>, kind: Kind) -> Error {
    match answer {
        Ok(_) => panic!("Ok, instead of {kind:?}"),
        Err(error) => {
            assert_eq!(error.kind(), kind, "{error}");
            error
        }
    }
}

pub(crate) fn text(delivery: &Delivery) -> &str {
    std::str::from_utf8(&delivery.message.payload).unwrap()
}

pub(crate) fn texts(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(text).collect()
}

pub(crate) fn number(delivery: &Delivery) -> u64 {
    text(delivery).parse().unwrap()
}

pub(crate) fn numbers(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(number).collect()
}

/// Each of `0..count` is there, and none twice.
pub(crate) fn assert_each_once(seen: impl IntoIterator<Item = u64>, count: u64) {
    let mut times: BTreeMap<u64, u64> = (0..count).map(|n| (n, 0)).collect();
    for n in seen {
        *times.entry(n).or_default() += 1;
    }
    let few = |wanted: fn(u64) -> bool| times.iter().filter(move |(_, t)| wanted(**t)).take(20);
    let (lost, doubled): (Vec<_>, Vec<_>) = (few(|t| t == 0).collect(), few(|t| t > 1).collect());
    assert!(lost.is_empty() && doubled.is_empty(), "of {count}, lost {lost:?}, more than once {doubled:?}");
}

/// It happened no sooner than `after` and within `after` + [`GRACE`].
pub(crate) fn assert_timely(started: Instant, after: Duration) {
    let took = started.elapsed();
    assert!(took >= after, "after {took:?}, too soon for {after:?}");
    assert!(took <= after + GRACE, "after {took:?}, too late for {after:?} + {GRACE:?}");
}
