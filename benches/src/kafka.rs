//! On Kafka: beside rdkafka used well, on a broker of the same settings.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;

use crate::harness::{Claim, Job, Result, Side};
use crate::{broker, work};

const MESSAGES: usize = 500_000;
const TOPIC: &str = "readings";
/// Answers awaited at once.
const IN_FLIGHT: usize = 50_000;

pub(crate) const PUBLISH: Claim = Claim {
    name: "kafka_publish",
    what: "100-byte messages stored by one Kafka broker, each answered; acks=all, idempotent",
    unit: "messages/s",
    goal: 0.97,
    floor: 0.0,
    cost: false,
    ours: Side {
        what: "`Publisher` on `kafka:`, every answer awaited; 4 partitions, ids, keys, default options",
        messages: MESSAGES,
        settings: &[0],
        run: |job| Box::pin(broker::publish(job, "kafka", 100)),
    },
    theirs: Side {
        what: "rdkafka by hand: a `FutureProducer` with a linger of 5 or 20 ms, every answer awaited; payload, id and \
               key, 4 partitions",
        messages: MESSAGES,
        settings: &[5, 20],
        run: |job| Box::pin(publishing(job, 100)),
    },
    needs: Some("java"),
    memory: false,
};

pub(crate) const PUBLISH_1K: Claim = Claim {
    name: "kafka_publish_1k",
    what: "1-KiB messages stored by one Kafka broker, each answered; acks=all, idempotent",
    ours: Side { run: |job| Box::pin(broker::publish(job, "kafka", 1024)), ..PUBLISH.ours },
    theirs: Side { run: |job| Box::pin(publishing(job, 1024)), ..PUBLISH.theirs },
    ..PUBLISH
};

pub(crate) const CONSUME: Claim = Claim {
    name: "kafka_consume",
    what: "100-byte messages read from Kafka by a group, handled, and acknowledged one by one",
    goal: 0.95,
    ours: Side {
        what: "`Consumer` on `kafka:`, default options",
        run: |job| Box::pin(broker::consume(job, "kafka", 100)),
        ..PUBLISH.ours
    },
    theirs: Side {
        what: "rdkafka by hand: a `StreamConsumer`, its position committed after every 10,000 messages; timed \
               from its first message, as Linchpin is",
        settings: &[10_000],
        run: |job| Box::pin(consuming(job, 100)),
        ..PUBLISH.theirs
    },
    ..PUBLISH
};

pub(crate) const CONSUME_1K: Claim = Claim {
    name: "kafka_consume_1k",
    what: "1-KiB messages read from Kafka by a group, handled, and acknowledged one by one",
    ours: Side { run: |job| Box::pin(broker::consume(job, "kafka", 1024)), ..CONSUME.ours },
    theirs: Side { run: |job| Box::pin(consuming(job, 1024)), ..CONSUME.theirs },
    ..CONSUME
};

fn config(url: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", url.trim_start_matches("kafka://"));
    config
}

async fn create(url: &str) -> Result {
    let admin: AdminClient<_> = config(url).create()?;
    let topic = NewTopic::new(TOPIC, 4, TopicReplication::Fixed(1));
    for outcome in admin.create_topics([&topic], &AdminOptions::new()).await? {
        outcome.map_err(|(topic, code)| format!("{topic}: {code}"))?;
    }
    Ok(())
}

async fn publish(url: &str, job: &Job, size: usize, linger: usize) -> Result<Duration> {
    let producer: FutureProducer = config(url)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", linger.to_string())
        .set("queue.buffering.max.messages", "100000")
        .create()?;
    let start = Instant::now();
    let mut answers = VecDeque::with_capacity(IN_FLIGHT);
    for n in 0..job.messages {
        if answers.len() == IN_FLIGHT
            && let Some(answer) = answers.pop_front()
        {
            delivered(answer).await?;
        }
        let (id, key, body) = (work::id(), work::key(n), work::body(n, size));
        let headers = OwnedHeaders::new().insert(Header { key: "id", value: Some(&id) });
        let record = FutureRecord::to(TOPIC).key(&key).payload(&body[..]).headers(headers);
        answers.push_back(producer.send_result(record).map_err(|(error, _)| error)?);
    }
    for answer in answers {
        delivered(answer).await?;
    }
    Ok(start.elapsed())
}

async fn delivered(answer: rdkafka::producer::DeliveryFuture) -> Result {
    answer.await?.map_err(|(error, _)| error)?;
    Ok(())
}

async fn publishing(job: Job, size: usize) -> Result<Duration> {
    let server = broker::start("kafka").await?;
    create(server.url()).await?;
    publish(server.url(), &job, size, job.setting).await
}

async fn consuming(job: Job, size: usize) -> Result<Duration> {
    let server = broker::start("kafka").await?;
    create(server.url()).await?;
    publish(server.url(), &job, size, 5).await?;
    let consumer: StreamConsumer = config(server.url())
        .set("group.id", "bench")
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // By default a queue that was full once stays unfilled for a second.
        .set("fetch.queue.backoff.ms", "10")
        .create()?;
    consumer.subscribe(&[TOPIC])?;
    let mut start = None;
    for n in 1..=job.messages {
        let message = consumer.recv().await?;
        start.get_or_insert_with(Instant::now);
        if message.payload().is_some_and(|payload| payload.len() == size) {
            consumer.store_offset_from_message(&message)?;
        }
        if n % job.setting == 0 {
            consumer.commit_consumer_state(CommitMode::Async)?;
        }
    }
    consumer.commit_consumer_state(CommitMode::Sync)?;
    consumer.fetch_metadata(Some(TOPIC), Timeout::After(Duration::from_secs(10)))?;
    Ok(start.ok_or("nothing came")?.elapsed())
}
