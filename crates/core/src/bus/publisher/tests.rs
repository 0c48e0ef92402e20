//! The publisher, on the memory bus with a paused clock.

use async_trait::async_trait;
use tokio::time::sleep;

use super::*;
use crate::bus::{
    BusEngine, Caps, Info, MemoryBus, Start, SubscribeOptions, Subscription, TopicOptions, TopicStats,
};

async fn bus() -> Bus {
    let bus = Bus::new(MemoryBus::new());
    bus.ensure("t", &TopicOptions { partitions: 1, ..TopicOptions::default() }).await.unwrap();
    bus
}

#[tokio::test(start_paused = true)]
async fn answers_come_per_message_and_in_order() {
    let bus = bus().await;
    let publisher = bus.publisher("t", PublisherOptions { max_batch: 3, ..PublisherOptions::default() });
    let mut answers = Vec::new();
    for n in 0..10 {
        let message = Message::new(n.to_string());
        let message = if n == 4 { message.partition(9) } else { message };
        answers.push(publisher.send(message).await.unwrap());
    }
    let mut offsets = Vec::new();
    for answer in answers {
        offsets.push(answer.await.map(|p| p.offset).map_err(|e| e.kind()));
    }
    let stored: Vec<_> = offsets.iter().filter_map(|o| o.ok().flatten()).collect();
    assert_eq!(stored, (0..9).collect::<Vec<_>>());
    assert_eq!(offsets[4], Err(Kind::Invalid));
    assert_eq!(publisher.flush().await.unwrap_err().kind(), Kind::Invalid);
    assert!(publisher.flush().await.is_ok(), "the error is told once");
}

#[tokio::test(start_paused = true)]
async fn no_batch_is_larger_than_asked_and_a_flush_takes_them_all() {
    let bus = bus().await;
    let options = PublisherOptions { max_batch: 4, ..PublisherOptions::default() };
    let publisher = bus.publisher("t", options);
    let mut answers = Vec::new();
    for n in 0..10 {
        answers.push(publisher.send(Message::new(n.to_string())).await.unwrap());
    }
    let sizes: Vec<_> =
        publisher.shared.lock().waiting.iter().map(|filling| filling.messages.len()).collect();
    assert_eq!(sizes, [4, 4, 2]);
    publisher.flush().await.unwrap();
    assert_eq!(bus.stats(Some("t")).await.unwrap()[0].messages, 10);
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.await.unwrap().offset, Some(n as u64));
    }
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded() {
    let bus = bus().await;
    let options = PublisherOptions {
        linger: Duration::from_secs(1),
        max_memory: 4 * OVERHEAD,
        ..PublisherOptions::default()
    };
    let publisher = bus.publisher("t", options);
    for _ in 0..100 {
        publisher.send(Message::new("x".repeat(OVERHEAD))).await.unwrap();
        assert!(publisher.shared.lock().bytes <= options.max_memory);
    }
    publisher.close().await.unwrap();
    assert_eq!(bus.stats(Some("t")).await.unwrap()[0].messages, 100);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_room_while_a_batch_lingers() {
    let bus = bus().await;
    let options = PublisherOptions {
        linger: Duration::from_secs(3600),
        max_memory: 16 * OVERHEAD,
        ..PublisherOptions::default()
    };
    let (publisher, started) = (bus.publisher("t", options), Instant::now());
    for _ in 0..100 {
        publisher.send(Message::new("x")).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn closing_and_dropping_lose_nothing() {
    let bus = bus().await;
    let publisher = bus.publisher("t", PublisherOptions::default());
    publisher.send(Message::new("1")).await.unwrap();
    let clone = publisher.clone();
    publisher.close().await.unwrap();
    assert_eq!(clone.send(Message::new("2")).await.unwrap_err().kind(), Kind::Closed);

    let publisher = bus.publisher("t", PublisherOptions::default());
    let stored = publisher.send(Message::new("3")).await.unwrap();
    drop(publisher);
    stored.await.unwrap();
    assert_eq!(bus.stats(Some("t")).await.unwrap()[0].messages, 2);
}

/// Stores at once and answers a second later; two calls may be under way.
#[derive(Debug)]
struct Far(Arc<dyn BusEngine>, Arc<Mutex<Vec<usize>>>);

#[async_trait]
impl BusEngine for Far {
    fn info(&self) -> &Info {
        self.0.info()
    }
    fn caps(&self) -> Caps {
        self.0.caps()
    }
    async fn ensure(&self, topic: &str, options: &TopicOptions) -> Result<()> {
        self.0.ensure(topic, options).await
    }
    async fn remove(&self, topic: &str, group: Option<&str>) -> Result<()> {
        self.0.remove(topic, group).await
    }
    async fn publish(
        &self,
        topic: &str,
        messages: Vec<Message>,
        options: &PublishOptions,
    ) -> Vec<Result<Position>> {
        self.1.lock().unwrap().push(messages.len());
        let answers = self.0.publish(topic, messages, options).await;
        sleep(Duration::from_secs(1)).await;
        answers
    }
    fn publishes_at_once(&self) -> usize {
        2
    }
    async fn subscribe(&self, topic: &str, options: &SubscribeOptions) -> Result<Box<dyn Subscription>> {
        self.0.subscribe(topic, options).await
    }
    async fn stats(&self, topic: Option<&str>) -> Result<Vec<TopicStats>> {
        self.0.stats(topic).await
    }
    async fn seek(&self, topic: &str, group: &str, to: Start) -> Result<()> {
        self.0.seek(topic, group, to).await
    }
    async fn trim(&self, topic: &str) -> Result<u64> {
        self.0.trim(topic).await
    }
    async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_goes_along_where_calls_keep_their_order_and_a_flush_waits_for_all() {
    let begun = Arc::<Mutex<Vec<usize>>>::default();
    let bus = Bus::new(Arc::new(Far(MemoryBus::new(), begun.clone())));
    bus.ensure("t", &TopicOptions { partitions: 1, ..TopicOptions::default() }).await.unwrap();
    let options = PublisherOptions { max_batch: 4, ..PublisherOptions::default() };
    let (publisher, started) = (bus.publisher("t", options), Instant::now());
    let mut answers = Vec::new();
    for n in 0..18 {
        answers.push(publisher.send(Message::new(n.to_string())).await.unwrap());
    }
    sleep(Duration::from_millis(100)).await;
    assert_eq!(*begun.lock().unwrap(), [4, 4], "two are under way");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(*begun.lock().unwrap(), [4, 4, 4, 4], "what isn't full doesn't go along");
    publisher.flush().await.unwrap();
    assert_eq!((started.elapsed().as_secs(), &**begun.lock().unwrap()), (3, &[4, 4, 4, 4, 2][..]));
    assert!(publisher.shared.lock().under_way.is_empty());
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.await.unwrap().offset, Some(n as u64));
    }
}
