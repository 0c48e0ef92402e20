//! Which partition a message goes to, and where it stands there.

use std::collections::BTreeMap;

use linchpin::Kind;
use linchpin::bus::{Message, Partitioner, PublishOptions, SubscribeOptions};

use crate::tools::*;
use crate::world::World;

/// Key, and the partition of 12 that Kafka's Java client picks for it: the vectors of its own `UtilsTest`.
const KAFKA: [(&str, u32); 5] = [
    ("21", 0),
    ("foobar", 6),
    ("a-little-bit-long-string", 8),
    ("a-little-bit-longer-string", 11),
    ("abc", 3),
];

pub(super) async fn keys_choose_partitions_as_kafka_does(w: World) {
    w.topic("t", 12).await;
    let keyed = |key: &'static str| Message::new("x").key(key);
    let messages = KAFKA.iter().map(|(key, _)| keyed(key)).collect();
    let answers = w.bus.engine().publish("t", messages, &PublishOptions::default()).await;
    let chosen: Vec<_> =
        KAFKA.iter().zip(answers).map(|((key, _), answer)| (*key, answer.unwrap().partition)).collect();
    assert_eq!(chosen, KAFKA);
    let sub = join(&w.bus, "t", &group("g")).await;
    for delivery in take(&sub, KAFKA.len()).await {
        let key = delivery.message.key.as_deref().unwrap();
        assert!(KAFKA.iter().any(|(k, p)| k.as_bytes() == key && *p == delivery.position.partition));
    }
}

pub(super) async fn partitions_are_chosen_by_hand_or_in_turn(w: World) {
    w.topic("t", 3).await;
    let publish = async |messages: Vec<Message>, partitioner| {
        let answers = w.bus.engine().publish("t", messages, &PublishOptions { partitioner }).await;
        answers.into_iter().map(|a| a.map(|p| p.partition).map_err(|e| e.kind())).collect::<Vec<_>>()
    };
    let by_hand = [2, 0, 3, 1].map(|p| Message::new("x").key("k").partition(p)).to_vec();
    assert_eq!(publish(by_hand, Partitioner::KeyHash).await, [Ok(2), Ok(0), Err(Kind::Invalid), Ok(1)]);
    let keyed = vec![Message::new("x").key("same"); 6];
    let mut turns = publish(keyed, Partitioner::RoundRobin).await;
    turns.sort_by_key(|t| t.ok());
    assert_eq!(turns, [Ok(0), Ok(0), Ok(1), Ok(1), Ok(2), Ok(2)]);
    let random = publish(vec![Message::new("x").key("same"); 60], Partitioner::Random).await;
    assert!((0..3).all(|p| random.contains(&Ok(p))), "{random:?}");
    let mut keyless = publish(vec![Message::new("x"); 3], Partitioner::KeyHash).await;
    keyless.sort_by_key(|t| t.ok());
    assert_eq!(keyless, [Ok(0), Ok(1), Ok(2)], "messages without a key go round");
}

pub(super) async fn offsets_rise(w: World) {
    w.topic("t", 3).await;
    let mut answered: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    let mut sent = BTreeMap::new();
    for n in 0..30_u64 {
        let batch = (0..n % 4 + 1).map(|i| Message::new((n * 4 + i).to_string()).key((i % 3).to_string()));
        let batch: Vec<_> = batch.collect();
        let texts: Vec<_> = batch.iter().map(|m| m.payload.clone()).collect();
        let answers = w.bus.engine().publish("t", batch, &PublishOptions::default()).await;
        for (payload, answer) in texts.into_iter().zip(answers) {
            let position = answer.unwrap();
            answered.entry(position.partition).or_default().push(position.offset.unwrap());
            sent.insert(position, payload);
        }
    }
    for (partition, offsets) in &answered {
        assert!(offsets.windows(2).all(|pair| pair[0] < pair[1]), "partition {partition}: {offsets:?}");
    }
    let sub = join(&w.bus, "t", &group("g")).await;
    for delivery in drain(&sub).await {
        assert_eq!(sent.remove(&delivery.position), Some(delivery.message.payload), "{}", delivery.position);
    }
    assert!(sent.is_empty(), "not delivered: {:?}", sent.keys());
}

pub(super) async fn a_subscription_to_chosen_partitions_gets_only_those(w: World) {
    w.topic("t", 4).await;
    let choosing = |name: &'static str, chosen: &[u32]| {
        let options = SubscribeOptions { partitions: Some(chosen.to_vec()), ..group(name) };
        let bus = w.bus.clone();
        async move { join(&bus, "t", &options).await }
    };
    let subs = [choosing("one", &[2]).await, choosing("two", &[3, 1]).await];
    let messages = (0..40_u32).map(|n| Message::new(n.to_string()).partition(n % 4)).collect();
    send(&w.bus, "t", messages).await;
    for (sub, (name, chosen)) in subs.into_iter().zip([("one", vec![2]), ("two", vec![3, 1])]) {
        let came = drain(&sub).await;
        assert_eq!(came.len(), 10 * chosen.len());
        assert!(came.iter().all(|d| chosen.contains(&d.position.partition)), "{:?}", texts(&came));
        let rest = drain(&join(&w.bus, "t", &group(name)).await).await;
        assert_each_once(numbers(&came).into_iter().chain(numbers(&rest)), 40);
    }
}
