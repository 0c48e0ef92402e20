//! The bridge, on memory buses with a paused clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::Retry;
use crate::bus::{
    BusEngine, Chaos, Delivery, Layer, MemoryBus, Message, Position, PublishOptions, REDRIVE_GROUP, Settle,
};

const MESSAGES: usize = 2000;
const KEYS: usize = 16;

async fn bus(topic: &str, partitions: u32) -> Bus {
    let bus = Bus::new(MemoryBus::new());
    let options = TopicOptions { partitions, retention_length: Some(1 << 20), ..TopicOptions::default() };
    bus.ensure(topic, &options).await.unwrap();
    bus
}

fn message(n: usize) -> Message {
    Message::new(n.to_string()).id(format!("m-{n}").as_str()).key(format!("k-{}", n % KEYS)).header("n", "1")
}

async fn filled() -> Bus {
    let bus = bus("t", 3).await;
    for n in 0..MESSAGES {
        bus.publish("t", message(n)).await.unwrap();
    }
    bus
}

async fn read(bus: &Bus, topic: &str) -> Vec<Delivery> {
    let options = SubscribeOptions { order: Order::Partition, ..SubscribeOptions::group("reader") };
    let reader = bus.engine().subscribe(topic, &options).await.unwrap();
    let mut all = Vec::new();
    loop {
        let batch = reader.next(1000, Duration::from_millis(100)).await.unwrap();
        if batch.is_empty() {
            return all;
        }
        reader.settle(batch.iter().map(|d| (d.receipt, Settle::Ack)).collect()).await;
        all.extend(batch);
    }
}

/// All there, each key in one partition and first stored in order; gives the number of repeats.
fn check(copies: &[Delivery]) -> usize {
    let mut keys: BTreeMap<_, (u32, Vec<usize>)> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for copy in copies {
        let n: usize = std::str::from_utf8(&copy.message.payload).unwrap().parse().unwrap();
        assert_eq!(copy.message, message(n));
        let (partition, numbers) =
            keys.entry(copy.message.key.clone()).or_insert_with(|| (copy.position.partition, Vec::new()));
        assert_eq!(*partition, copy.position.partition);
        if ids.insert(n) {
            numbers.push(n);
        }
    }
    assert_eq!((ids.len(), keys.len()), (MESSAGES, KEYS));
    assert!(keys.values().all(|(_, numbers)| numbers.is_sorted()));
    copies.len() - MESSAGES
}

fn chaos(refuse: f64, lose_reply: f64, fail_settle: f64) -> Chaos {
    let mut chaos = Chaos::seeded(1);
    (chaos.refuse, chaos.lose_reply, chaos.fail_settle) = (refuse, lose_reply, fail_settle);
    chaos
}

async fn copied(bridge: Bridge) -> Bridging {
    let mut bridging = bridge.run().await.unwrap();
    bridging.wait().await.unwrap();
    bridging
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_whole_and_leaves_the_source_alone() {
    let (from, to) = (filled().await, Bus::new(MemoryBus::new()));
    let bridging = copied(Bridge::new(&from, "t", &to, "u").partitions(7)).await;
    assert!(bridging.complete() && bridging.ordered());
    let whole = MESSAGES as u64;
    assert_eq!(bridging.totals(), BridgeTotals { waiting: whole, stored: whole, again: 0 });
    assert_eq!(bridging.stop().await.unwrap().stored, whole, "stopping what has ended is fine");
    let there = to.stats(Some("u")).await.unwrap().remove(0);
    assert_eq!((there.options.partitions, there.options.retention_length), (7, Some(1 << 20)));
    assert_eq!(check(&read(&to, "u").await), 0);
    assert!(from.stats(Some("t")).await.unwrap()[0].groups.is_empty());
    assert_eq!(check(&read(&from, "t").await), 0);
}

#[tokio::test(start_paused = true)]
async fn runs_that_end_early_go_on_from_there() {
    let (from, to) = (filled().await, bus("t", 5).await);
    let mut slow = chaos(0.0, 0.0, 0.0);
    slow.delay = Duration::from_millis(20);
    let bridge = Bridge::new(&from, "t", &to.clone().layer(slow), "t").batch(50);
    let mut runs = 0;
    loop {
        runs += 1;
        let bridging = bridge.clone().run().await.unwrap();
        while bridging.totals().stored < 300 && !bridging.complete() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if bridging.complete() {
            break;
        }
        // A clean stop and a death in turn.
        if runs % 2 == 0 {
            bridging.stop().await.unwrap();
        }
    }
    assert!(runs > 4, "{runs}");
    assert!(check(&read(&to, "t").await) <= 50 * runs);
}

#[tokio::test(start_paused = true)]
async fn faults_on_both_sides_lose_and_reorder_nothing() {
    let from = filled().await.layer(chaos(0.0, 0.0, 0.2));
    let to = bus("t", 5).await.layer(chaos(0.2, 0.2, 0.0));
    copied(Bridge::new(&from, "t", &to, "t").batch(50)).await;
    assert!(check(&read(&to, "t").await) > 0);
}

/// Refuses one message in ten, and stores those behind it.
#[derive(Debug)]
struct Picky(Mutex<fastrand::Rng>);

#[async_trait]
impl Layer for Picky {
    async fn publish(
        &self,
        topic: &str,
        messages: Vec<Message>,
        options: &PublishOptions,
        inner: &dyn BusEngine,
    ) -> Vec<Result<Position>> {
        let refuse: Vec<bool> = messages.iter().map(|_| self.0.lock().unwrap().u8(..10) == 0).collect();
        let taken = messages.into_iter().zip(&refuse).filter(|(_, refuse)| !**refuse).map(|(m, _)| m);
        let mut stored = inner.publish(topic, taken.collect(), options).await.into_iter();
        let busy = Error::new(Kind::Limited, "busy").retry_as(Retry::Safe { after: Duration::ZERO });
        let answer = |refuse| if refuse { Err(busy.clone()) } else { stored.next().unwrap() };
        refuse.into_iter().map(answer).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_copies_are_in_order_when_some_of_a_batch_are_refused() {
    let (from, to) = (filled().await, bus("t", 5).await);
    let picky = to.clone().layer(Picky(Mutex::new(fastrand::Rng::with_seed(1))));
    let policy = Policy { attempts: 100, ..Policy::default() };
    let bridging = copied(Bridge::new(&from, "t", &picky, "t").batch(100).retry(policy)).await;
    assert_eq!(bridging.totals().stored, MESSAGES as u64);
    let mut last = BTreeMap::new();
    for (place, copy) in read(&to, "t").await.iter().enumerate() {
        let n: usize = std::str::from_utf8(&copy.message.payload).unwrap().parse().unwrap();
        last.insert(n, place);
    }
    assert_eq!(last.len(), MESSAGES);
    for key in 0..KEYS {
        let places: Vec<_> = (key..MESSAGES).step_by(KEYS).map(|n| last[&n]).collect();
        assert!(places.is_sorted(), "k-{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_stays_away_ends_it_and_costs_nothing() {
    let (from, to) = (filled().await, bus("t", 5).await);
    let away = to.clone().layer(chaos(1.0, 0.0, 0.0));
    let mut bridging = Bridge::new(&from, "t", &away, "t").run().await.unwrap();
    let error = bridging.wait().await.unwrap_err();
    assert_eq!((error.kind(), bridging.complete()), (Kind::Unavailable, false));
    assert_eq!(bridging.trouble().unwrap().kind(), Kind::Unavailable);
    copied(Bridge::new(&from, "t", &to, "t")).await;
    assert_eq!(check(&read(&to, "t").await), 0);
}

#[tokio::test(start_paused = true)]
async fn a_move_is_for_good_and_following_goes_on() {
    let (from, to) = (filled().await, bus("t", 3).await);
    copied(Bridge::new(&from, "t", &to, "t").group("billing")).await;
    let second = copied(Bridge::new(&from, "t", &to, "t").group("billing")).await;
    assert_eq!(second.totals(), BridgeTotals::default());
    let following = Bridge::new(&from, "t", &to, "t").group("billing").follow().run().await.unwrap();
    from.publish("t", Message::new("late").header(REDRIVE_GROUP, "others")).await.unwrap();
    while following.totals().stored < 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(following.stop().await.unwrap().stored, 1);
    let mut copies = read(&to, "t").await;
    copies.retain(|copy| copy.message.payload != "late");
    assert_eq!(check(&copies), 0);
    assert_eq!(to.stats(Some("t")).await.unwrap()[0].messages, MESSAGES as u64 + 1);
}

#[tokio::test(start_paused = true)]
async fn publishing_that_never_rests_does_not_hold_up_the_end() {
    let (from, to) = (filled().await, bus("t", 3).await);
    let source = from.clone();
    let busy = tokio::spawn(async move {
        loop {
            source.publish("t", Message::new("more")).await.unwrap();
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_micros(1)).await;
        }
    });
    let bridging = copied(Bridge::new(&from, "t", &to, "t").ack_wait(Duration::from_secs(1))).await;
    busy.abort();
    assert!(bridging.totals().stored >= MESSAGES as u64);
    let mut copies = read(&to, "t").await;
    copies.retain(|copy| copy.message.payload != "more");
    assert_eq!(check(&copies), 0);
}

#[tokio::test(start_paused = true)]
async fn what_another_member_holds_is_waited_for_and_then_named() {
    let (from, to) = (filled().await, bus("t", 3).await);
    let bridge = Bridge::new(&from, "t", &to, "t").group("g").ack_wait(Duration::from_secs(2));
    let one = SubscribeOptions {
        order: Order::Partition,
        max_in_flight: 1,
        ack_wait: Duration::from_secs(3600),
        ..SubscribeOptions::group("g")
    };
    let other = from.subscribe("t", &one).await.unwrap();
    let held = other.next(1, Duration::from_secs(1)).await.unwrap();
    let mut bridging = bridge.clone().run().await.unwrap();
    let error = bridging.wait().await.unwrap_err();
    assert!(error.kind() == Kind::Timeout && error.to_string().contains("nobody hands out"), "{error}");
    assert_eq!(held.len(), 1);
    other.close(Duration::ZERO).await.unwrap();
    assert_eq!(copied(bridge).await.totals().again, 1);
    assert_eq!(check(&read(&to, "t").await), 0);
}

#[tokio::test(start_paused = true)]
async fn wrong_input_is_named() {
    let (from, to) = (bus("t", 3).await, bus("t", 3).await);
    let fails = async |bridge: Bridge, kind, what: &str| {
        let error = bridge.run().await.unwrap_err();
        assert!(error.kind() == kind && error.to_string().contains(what), "{error}");
        assert!(error.remedy().is_some(), "{error}");
    };
    fails(Bridge::new(&from, "t", &from, "t"), Kind::Invalid, "both source and target").await;
    from.publish("t", message(0)).await.unwrap();
    let otherwise_spelled = from.clone().layer(chaos(0.0, 0.0, 0.0));
    fails(Bridge::new(&from, "t", &otherwise_spelled, "t"), Kind::Invalid, "both source and target").await;
    fails(Bridge::new(&from, "nothing", &to, "t"), Kind::NotFound, "\"nothing\"").await;
    fails(Bridge::new(&from, "t", &to, "t").partitions(4), Kind::AlreadyExists, "has 3 partitions").await;
    fails(Bridge::new(&from, "t", &to, "a b"), Kind::Invalid, "isn't allowed").await;
    fails(Bridge::new(&from, "t", &to, "u").partitions(0), Kind::Invalid, "0 partitions").await;

    let caps = from.caps();
    let no_groups = check_source(Caps { groups: false, ..caps }, true).unwrap_err();
    let no_replay = check_source(Caps { replay: false, ..caps }, false).unwrap_err();
    assert_eq!((no_groups.kind(), no_replay.kind()), (Kind::Unsupported, Kind::Unsupported));
    assert!(no_replay.remedy().unwrap().contains("move the topic"));
    check_source(Caps { replay: false, ..caps }, true).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_the_target_refuses_ends_it_and_stays() {
    let (from, to) = (bus("t", 1).await, Bus::new(MemoryBus::new()));
    to.ensure("t", &TopicOptions { max_message: 100, ..TopicOptions::default() }).await.unwrap();
    for n in 0..10 {
        from.publish("t", Message::new(vec![b'x'; n * 20]).id(n.to_string().as_str())).await.unwrap();
    }
    let mut bridging = Bridge::new(&from, "t", &to, "t").run().await.unwrap();
    let error = bridging.wait().await.unwrap_err();
    assert_eq!((error.kind(), bridging.totals().stored), (Kind::Invalid, 5));
    assert!(error.to_string().contains("message=5"), "{error}");
    to.ensure("t", &TopicOptions::default()).await.unwrap();
    assert_eq!(copied(Bridge::new(&from, "t", &to, "t")).await.totals().stored, 5);
    assert_eq!(read(&to, "t").await.len(), 10);
}
