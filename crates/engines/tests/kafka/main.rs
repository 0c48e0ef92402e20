//! Kafka with Kafka's own tools beside it: `cargo test -p linchpin-engines --features kafka,live --test kafka`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::collections::HashSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use linchpin_core::bus::{
    BusEngine, Delivery, Message, Position, PublishOptions, Settle, SubscribeOptions, TopicOptions,
};
use linchpin_core::{Kind, Result};
use linchpin_harness::Running;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

#[cfg(feature = "kafka-tls")]
mod secure;

const SOON: Duration = Duration::from_secs(20);

fn server() -> Running {
    linchpin_harness::find("kafka").unwrap().start().unwrap()
}

async fn open(url: &str) -> Result<Arc<dyn BusEngine>> {
    linchpin_engines::kafka::open(&url.parse()?).await
}

fn brokers(server: &Running) -> &str {
    server.url().strip_prefix("kafka://").unwrap()
}

async fn topic(bus: &Arc<dyn BusEngine>, name: &str, partitions: u32) {
    bus.ensure(name, &TopicOptions { partitions, ..TopicOptions::default() }).await.unwrap();
}

async fn publish(bus: &Arc<dyn BusEngine>, topic: &str, message: Message) -> Result<()> {
    let mut answers = bus.publish(topic, vec![message], &PublishOptions::default()).await;
    answers.remove(0).map(drop)
}

async fn one(bus: &Arc<dyn BusEngine>, topic: &str, group: &str) -> Delivery {
    let sub = bus.subscribe(topic, &SubscribeOptions::group(group)).await.unwrap();
    let delivery = sub.next(1, SOON).await.unwrap().remove(0);
    sub.settle(vec![(delivery.receipt, Settle::Ack)]).await.remove(0).unwrap();
    sub.close(SOON).await.unwrap();
    delivery
}

/// One of Kafka's own command-line tools.
fn tool(class: &str, words: &[&str]) -> Command {
    let jars = linchpin_harness::jars("kafka").unwrap().join("*");
    let mut command = Command::new("java");
    command.args(["-Xmx128m", "-cp"]).arg(jars).arg(class).args(words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn kafkas_own_tools_read_ours_and_write_for_us() {
    let server = server();
    let bus = open(server.url()).await.unwrap();
    topic(&bus, "orders", 1).await;
    let message = Message::new("two lanterns").id("order-17").key("customer-7").header("country", "GB");
    publish(&bus, "orders", message).await.unwrap();
    let address = ["--bootstrap-server", brokers(&server), "--topic", "orders"];
    let read = ["--from-beginning", "--max-messages", "1", "--timeout-ms", "30000"];
    let show = ["--property", "print.headers=true", "--property", "print.key=true"];
    let words = [&address[..], &read, &show].concat();
    let read = tool("org.apache.kafka.tools.consumer.ConsoleConsumer", &words).output().unwrap();
    let text = String::from_utf8(read.stdout).unwrap();
    assert_eq!(text.trim(), "lp-id:order-17,country:GB\tcustomer-7\ttwo lanterns");

    let parse = ["--property", "parse.headers=true", "--property", "parse.key=true"];
    let words = [&address[..], &parse].concat();
    let mut writing = tool("org.apache.kafka.tools.ConsoleProducer", &words).spawn().unwrap();
    writing.stdin.take().unwrap().write_all(b"country:FR\tcustomer-8\tone lantern\n").unwrap();
    assert!(writing.wait().unwrap().success());
    let sub = bus.subscribe("orders", &SubscribeOptions::group("billing")).await.unwrap();
    let mut came = Vec::new();
    while came.len() < 2 {
        let batch = sub.next(2, SOON).await.unwrap();
        assert!(!batch.is_empty(), "only {came:?} came");
        came.extend(batch.into_iter().map(|delivery| delivery.message));
    }
    let theirs = &came[1];
    assert_eq!((theirs.payload.as_ref(), theirs.headers.text("country")), (&b"one lantern"[..], Some("FR")));
    assert_eq!(theirs.key.as_deref(), Some(&b"customer-8"[..]));
    bus.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_record_has_the_same_id_at_each_delivery_and_codecs_agree() {
    let server = server();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let bus = open(&format!("{}?compression={codec}&prefix=x.", server.url())).await.unwrap();
        topic(&bus, codec, 2).await;
        let name = format!("x.{codec}");
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", brokers(&server)).create().unwrap();
        producer.send(BaseRecord::<str, str>::to(&name).payload("raw").partition(1)).unwrap();
        producer.flush(SOON).unwrap();
        let (a, b) = (one(&bus, codec, "a").await, one(&bus, codec, "b").await);
        assert_eq!((a.message.payload.as_ref(), &a.message.id), (&b"raw"[..], &b.message.id));
        let text = "packed ".repeat(100);
        publish(&bus, codec, Message::new(text.clone()).partition(0)).await.unwrap();
        let reader: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers(&server))
            .set("group.id", "raw")
            .set("auto.offset.reset", "earliest")
            .create()
            .unwrap();
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_offset(&name, 0, rdkafka::Offset::Beginning).unwrap();
        reader.assign(&list).unwrap();
        let record = reader.poll(SOON).unwrap().unwrap();
        assert_eq!(rdkafka::Message::payload(&record), Some(text.as_bytes()), "{codec}");
        bus.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_input_is_named_and_nothing_hangs() {
    let started = Instant::now();
    let error = open("kafka://127.0.0.1:1?timeout=2s").await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Unavailable | Kind::Timeout), "{error}");
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    let server = server();
    let bus = open(server.url()).await.unwrap();
    topic(&bus, "t", 2).await;
    let refused = publish(&bus, "t", Message::new("x").partition(2)).await.unwrap_err();
    assert!(refused.kind() == Kind::Invalid && refused.to_string().contains("the topic has 2"), "{refused}");
    let large = publish(&bus, "t", Message::new(vec![0; (1 << 20) + 1])).await.unwrap_err();
    assert!(large.kind() == Kind::Invalid && large.to_string().contains("1048576"), "{large}");
    let missing = publish(&bus, "no", Message::new("x")).await.unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound, "{missing}");
    let found = linchpin_engines::kafka::examine(server.url().parse().unwrap()).await;
    assert!(found.iter().any(|finding| finding.name == "min.insync.replicas"), "{found:?}");
    bus.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn acks_none_answers_no_offset_and_an_order_is_the_groups() {
    use linchpin_core::bus::Order;
    let server = server();
    let bus = open(&format!("{}?acks=none", server.url())).await.unwrap();
    assert!(!bus.caps().offsets && !bus.caps().failover);
    topic(&bus, "t", 1).await;
    publish(&bus, "t", Message::new("x").key("k")).await.unwrap();
    assert_eq!(one(&bus, "t", "g").await.message.payload.as_ref(), b"x");
    // Of another process, as far as the brokers can tell.
    let other = open(server.url()).await.unwrap();
    let by_key = SubscribeOptions { order: Order::Key, ..SubscribeOptions::group("g") };
    let sub = bus.subscribe("t", &by_key).await.unwrap();
    let error = other.subscribe("t", &SubscribeOptions::group("g")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "{error}");
    sub.close(SOON).await.unwrap();
    bus.close().await.unwrap();
    other.close().await.unwrap();
}

/// Takes and acknowledges until so many are known; each comes once, as a first attempt.
async fn drain(bus: &Arc<dyn BusEngine>, seen: &mut HashSet<Position>, until: usize) {
    let sub = bus.subscribe("many", &SubscribeOptions::group("g")).await.unwrap();
    while seen.len() < until {
        let batch = sub.next(1024, SOON).await.unwrap();
        assert!(!batch.is_empty(), "{} came of {until}", seen.len());
        for delivery in &batch {
            assert_eq!(delivery.attempt, 1, "{}", delivery.position);
            assert!(seen.insert(delivery.position), "{} came again", delivery.position);
        }
        let acks = batch.iter().map(|delivery| (delivery.receipt, Settle::Ack)).collect();
        sub.settle(acks).await.into_iter().for_each(|answer| answer.unwrap());
    }
    sub.close(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_staged_ahead_of_a_quick_member_that_closes_is_new_to_the_next() {
    const ALL: usize = 40_000;
    let server = server();
    let bus = open(server.url()).await.unwrap();
    topic(&bus, "many", 3).await;
    let messages = (0..ALL).map(|n| Message::new(n.to_string()).key(format!("k{}", n % 100))).collect();
    let stored = bus.publish("many", messages, &PublishOptions::default()).await;
    assert!(stored.iter().all(Result::is_ok));
    let mut seen = HashSet::new();
    for until in [10_000, 20_000, ALL] {
        drain(&bus, &mut seen, until).await;
    }
    assert_eq!(seen.len(), ALL);
}
