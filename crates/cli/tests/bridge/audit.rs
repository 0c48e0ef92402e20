//! What is to be copied, and a look at what came.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use linchpin::bus::{Delivery, Message, Order, PublishOptions, Settle, SubscribeOptions, Subscriber};
use linchpin::{Bus, Open, TopicOptions};

pub(crate) const MESSAGES: usize = 20_000;
const KEYS: usize = 64;
const WAIT: Duration = Duration::from_secs(30);

fn message(n: usize) -> Message {
    let key = format!("k-{}", n * 31 % KEYS);
    Message::new(n.to_string()).id(format!("m-{n}").as_str()).key(key).header("n", n.to_string())
}

pub(crate) async fn open(url: &str) -> Bus {
    Bus::open(url).await.unwrap()
}

pub(crate) async fn fill(bus: &Bus, topic: &str) {
    bus.ensure(topic, &TopicOptions { partitions: 3, ..TopicOptions::default() }).await.unwrap();
    let messages = (0..MESSAGES).map(message).collect();
    let stored = bus.publish_all(topic, messages, &PublishOptions::default()).await;
    assert!(stored.iter().all(Result::is_ok));
}

/// Reads the target while it fills, and keeps what it saw.
pub(crate) struct Audit {
    reader: Subscriber,
    /// Partition and numbers of each key, in the order they were first stored.
    keys: HashMap<Vec<u8>, (u32, Vec<usize>)>,
    ids: HashSet<usize>,
    copies: usize,
}

impl Audit {
    pub(crate) async fn start(to: &Bus, topic: &str) -> Self {
        to.ensure(topic, &TopicOptions { partitions: 5, ..TopicOptions::default() }).await.unwrap();
        let options = SubscribeOptions { order: Order::Partition, ..SubscribeOptions::group("audit") };
        let reader = to.subscribe(topic, &options).await.unwrap();
        Self { reader, keys: HashMap::new(), ids: HashSet::new(), copies: 0 }
    }

    /// Waits until so many different messages are there.
    pub(crate) async fn until(&mut self, ids: usize) {
        while self.ids.len() < ids {
            let batch = self.reader.next(500, WAIT).await.unwrap();
            assert!(!batch.is_empty(), "{} of {ids} are there", self.ids.len());
            self.note(batch).await;
        }
    }

    async fn note(&mut self, mut batch: Vec<Delivery>) {
        batch.sort_by_key(|delivery| delivery.position);
        for delivery in &batch {
            let n: usize = std::str::from_utf8(&delivery.message.payload).unwrap().parse().unwrap();
            assert_eq!(delivery.message, message(n));
            let key = delivery.message.key.as_ref().unwrap().to_vec();
            let (partition, numbers) =
                self.keys.entry(key).or_insert_with(|| (delivery.position.partition, Vec::new()));
            assert_eq!(*partition, delivery.position.partition, "a key in two partitions");
            if self.ids.insert(n) {
                numbers.push(n);
            }
            self.copies += 1;
        }
        let acks = batch.into_iter().map(|delivery| (delivery, Settle::Ack)).collect();
        assert!(self.reader.settle(acks).await.iter().all(Result::is_ok));
    }

    /// Nothing lost, and every key in order; gives the number of repeats.
    pub(crate) async fn finish(mut self) -> usize {
        self.until(MESSAGES).await;
        let rest = self.reader.next(500, Duration::from_millis(200)).await.unwrap();
        self.note(rest).await;
        assert_eq!((self.ids.len(), self.keys.len()), (MESSAGES, KEYS));
        for (key, (_, numbers)) in &self.keys {
            assert!(numbers.is_sorted(), "{} is out of order", String::from_utf8_lossy(key));
        }
        self.copies - MESSAGES
    }
}
