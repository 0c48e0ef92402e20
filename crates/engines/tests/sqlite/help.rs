//! A bus in a folder of its own, and short hands.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use linchpin_core::Result;
use linchpin_core::bus::*;
use linchpin_engines::sqlite;
use tempfile::TempDir;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// A file that goes with the test.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.0.path().join("bus.db")
    }

    pub(crate) async fn open(&self) -> Arc<dyn BusEngine> {
        self.open_with("").await
    }

    pub(crate) async fn open_with(&self, options: &str) -> Arc<dyn BusEngine> {
        open(&format!("sqlite://{}?{options}", self.file().display())).await.unwrap()
    }
}

pub(crate) async fn open(url: &str) -> Result<Arc<dyn BusEngine>> {
    sqlite::open(&url.parse()?).await
}

/// A bus with a topic "t" of this many partitions.
pub(crate) async fn bus(place: &Place, partitions: u32) -> Arc<dyn BusEngine> {
    let bus = place.open().await;
    bus.ensure("t", &TopicOptions { partitions, ..TopicOptions::default() }).await.unwrap();
    bus
}

pub(crate) fn numbered(range: std::ops::Range<u32>) -> Vec<Message> {
    range.map(|n| Message::new(n.to_string())).collect()
}

pub(crate) async fn send(bus: &Arc<dyn BusEngine>, messages: Vec<Message>) -> Vec<Position> {
    let answers = bus.publish("t", messages, &PublishOptions::default()).await;
    answers.into_iter().map(Result::unwrap).collect()
}

pub(crate) async fn member(bus: &Arc<dyn BusEngine>, options: &SubscribeOptions) -> Box<dyn Subscription> {
    bus.subscribe("t", options).await.unwrap()
}

pub(crate) fn group() -> SubscribeOptions {
    SubscribeOptions::group("g")
}

pub(crate) fn text(delivery: &Delivery) -> String {
    String::from_utf8(delivery.message.payload.to_vec()).unwrap()
}

pub(crate) fn texts(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(text).collect()
}

/// Exactly `count` deliveries.
pub(crate) async fn get(sub: &dyn Subscription, count: usize) -> Vec<Delivery> {
    let mut out = Vec::new();
    while out.len() < count {
        let more = sub.next(count - out.len(), 5 * SECOND).await.unwrap();
        assert!(!more.is_empty(), "only {} of {count} came", out.len());
        out.extend(more);
    }
    out
}

pub(crate) async fn nothing(sub: &dyn Subscription, wait: Duration) {
    assert_eq!(texts(&sub.next(10, wait).await.unwrap()), Vec::<String>::new());
}

pub(crate) async fn settle(sub: &dyn Subscription, of: &[Delivery], how: Settle) -> Vec<Result<()>> {
    sub.settle(of.iter().map(|d| (d.receipt, how.clone())).collect()).await
}

pub(crate) async fn ack(sub: &dyn Subscription, of: &[Delivery]) {
    settle(sub, of, Settle::Ack).await.into_iter().for_each(|answer| answer.unwrap());
}

pub(crate) fn nack(delay: Duration) -> Settle {
    Settle::Nack { delay, reason: "no".into() }
}

pub(crate) async fn stats(bus: &Arc<dyn BusEngine>, topic: &str) -> TopicStats {
    bus.stats(Some(topic)).await.unwrap().remove(0)
}
