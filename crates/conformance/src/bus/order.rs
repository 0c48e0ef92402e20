//! Order by key and by partition: across members, failures and deaths.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use linchpin::bus::{Delivery, Message, Order, PublishOptions, Settle, SubscribeOptions};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::tools::*;
use crate::world::World;

fn key(delivery: &Delivery) -> String {
    String::from_utf8_lossy(delivery.message.key.as_deref().unwrap()).into_owned()
}

/// Per key or partition, in the order they were done with: the place in the order that must be kept, and the number.
type Lines = BTreeMap<String, Vec<(u64, u64)>>;

/// What all members are done with: a key, or a partition, has one order wherever it is handled.
#[derive(Clone)]
struct Diary {
    order: Order,
    lines: Arc<Mutex<Lines>>,
}

impl Diary {
    fn of(order: Order) -> Self {
        Self { order, lines: Arc::default() }
    }

    fn done(&self, delivery: &Delivery) {
        let (line, place) = match self.order {
            Order::Partition => (delivery.position.partition.to_string(), delivery.position.offset.unwrap()),
            _ => (key(delivery), number(delivery)),
        };
        self.lines.lock().unwrap().entry(line).or_default().push((place, number(delivery)));
    }

    fn len(&self) -> u64 {
        self.lines.lock().unwrap().values().map(|line| line.len() as u64).sum()
    }

    fn assert_ordered(&self, count: u64) {
        let lines = self.lines.lock().unwrap();
        for (name, line) in &*lines {
            let broken = line.windows(2).find(|pair| pair[0].0 >= pair[1].0);
            assert!(broken.is_none(), "{:?} {name} is out of order at {broken:?}: {line:?}", self.order);
        }
        assert_each_once(lines.values().flatten().map(|(_, n)| *n), count);
    }
}

/// Handles what comes, until `diary` holds `until` or nothing more is to be hoped for; leaves the group then.
async fn handle(sub: Sub, diary: Diary, until: u64) {
    let started = Instant::now();
    while diary.len() < until && started.elapsed() < LONG {
        let batch = sub.next(32, MOMENT).await.unwrap();
        batch.iter().for_each(|d| diary.done(d));
        ack(&sub, &batch).await;
    }
    close(&sub).await;
}

pub(super) async fn keys_stay_in_order(w: World) {
    let count = 16_000;
    w.topic("t", 8).await;
    let diary = Diary::of(Order::Key);
    let mut members = JoinSet::new();
    for _ in 0..4 {
        members.spawn(handle(join(&w.bus, "t", &by_key("g")).await, diary.clone(), count));
    }
    for n in 0..count / 500 {
        publish_by(&w.bus, "t", n * 500..(n + 1) * 500, |n| n % 16).await;
    }
    members.join_all().await;
    diary.assert_ordered(count);
}

pub(super) async fn one_of_a_key_at_a_time(w: World) {
    w.topic("t", 1).await;
    publish_by(&w.bus, "t", 0..9, |n| n % 3).await;
    let sub = join(&w.bus, "t", &by_key("g")).await;
    let other = join(&w.bus, "t", &by_key("g")).await;
    for round in 0..3 {
        let held = take_from([&sub, &other], 3).await;
        let mut came: Vec<_> = held.iter().map(|(_, d)| number(d)).collect();
        came.sort_unstable();
        assert_eq!(came, [round * 3, round * 3 + 1, round * 3 + 2]);
        silence(&sub, MOMENT / 2).await;
        silence(&other, MOMENT / 2).await;
        for (member, delivery) in held {
            ack([&sub, &other][member], &[delivery]).await;
        }
    }
}

/// `count` deliveries from either member, with who has it.
async fn take_from(subs: [&Sub; 2], count: usize) -> Vec<(usize, Delivery)> {
    let started = Instant::now();
    let mut all = Vec::new();
    while all.len() < count {
        assert!(started.elapsed() < SOON, "{} of {count} came", all.len());
        for (member, sub) in subs.into_iter().enumerate() {
            let batch = sub.next(count, MOMENT / 10).await.unwrap();
            all.extend(batch.into_iter().map(|d| (member, d)));
        }
    }
    all
}

pub(super) async fn keys_stay_in_order_across_nacks(w: World) {
    let count = 200;
    w.topic("t", 2).await;
    publish_by(&w.bus, "t", 0..count, |n| n % 5).await;
    let sub = join(&w.bus, "t", &by_key("g")).await;
    let diary = Diary::of(Order::Key);
    while diary.len() < count {
        let batch = sub.next(32, SOON).await.unwrap();
        assert!(!batch.is_empty(), "stuck after {}", diary.len());
        for delivery in batch {
            if number(&delivery).is_multiple_of(7) && delivery.attempt < 3 {
                nack(&sub, &delivery, Duration::from_millis(number(&delivery) % 3 * 10)).await;
            } else {
                diary.done(&delivery);
                ack(&sub, &[delivery]).await;
            }
        }
    }
    diary.assert_ordered(count);
}

pub(super) async fn keys_stay_in_order_across_the_death_of_their_owner(w: World) {
    let count = 60;
    w.topic("t", 2).await;
    publish_by(&w.bus, "t", 0..count, |n| n % 6).await;
    let options = SubscribeOptions { order: Order::Key, ..brief("g") };
    let dying = join(&w.bus, "t", &options).await;
    let diary = Diary::of(Order::Key);
    // It dies with one of each key in hand, some of them behind others it is done with.
    let held = take(&dying, 6).await;
    held[..3].iter().for_each(|d| diary.done(d));
    ack(&dying, &held[..3]).await;
    take(&dying, 3).await;
    let started = Instant::now();
    let heir = join(&w.bus, "t", &options).await;
    drop(dying);
    while diary.len() < count {
        let batch = heir.next(32, SOON).await.unwrap();
        assert!(!batch.is_empty(), "stuck after {}", diary.len());
        assert!(started.elapsed() <= lease() + GRACE + MOMENT, "after {:?}", started.elapsed());
        batch.iter().for_each(|d| diary.done(d));
        ack(&heir, &batch).await;
    }
    diary.assert_ordered(count);
}

pub(super) async fn a_poison_key_does_not_block_others(w: World) {
    w.topic("t", 1).await;
    publish_by(&w.bus, "t", 0..60, |n| n % 3).await;
    let sub = join(&w.bus, "t", &by_key("g")).await;
    let mut done = Vec::new();
    while done.len() < 40 {
        let batch = sub.next(8, SOON).await.unwrap();
        assert!(!batch.is_empty(), "key 0 blocks the others: {done:?}");
        for delivery in batch {
            if key(&delivery) == "0" {
                assert_eq!(number(&delivery), 0, "nothing of a key passes the one that fails");
                nack(&sub, &delivery, Duration::from_secs(600)).await;
            } else {
                done.push(number(&delivery));
                ack(&sub, &[delivery]).await;
            }
        }
    }
    silence(&sub, MOMENT).await;
}

pub(super) async fn partitions_stay_in_order_across_nacks(w: World) {
    let count = 60;
    w.topic("t", 2).await;
    let messages: Vec<_> =
        (0..count).map(|n| Message::new(n.to_string()).key((n % 10).to_string())).collect();
    let answers = w.bus.engine().publish("t", messages, &PublishOptions::default()).await;
    // Offsets may have gaps: what comes next is what was published next.
    let mut lines: HashMap<u32, VecDeque<u64>> = HashMap::new();
    for (n, answer) in (0..).zip(answers) {
        lines.entry(answer.unwrap().partition).or_default().push_back(n);
    }
    let options = SubscribeOptions { order: Order::Partition, ..group("g") };
    let sub = join(&w.bus, "t", &options).await;
    let mut done = Vec::new();
    while done.len() < 60 {
        let batch = sub.next(1, SOON).await.unwrap();
        assert_eq!(batch.len(), 1, "stuck after {}", done.len());
        let n = number(&batch[0]);
        let line = lines.get_mut(&batch[0].position.partition).unwrap();
        assert_eq!(line.front(), Some(&n), "number {n} came out of order");
        if n.is_multiple_of(5) && batch[0].attempt < 3 {
            nack(&sub, &batch[0], Duration::from_millis(n % 3 * 10)).await;
        } else {
            ack(&sub, &batch).await;
            line.pop_front();
            done.push(n);
        }
    }
    assert_each_once(done, count);
}

pub(super) async fn partitions_stay_in_order(w: World) {
    let count = 4_000;
    w.topic("t", 4).await;
    let diary = Diary::of(Order::Partition);
    let options = SubscribeOptions { order: Order::Partition, ..group("g") };
    let mut members = JoinSet::new();
    for _ in 0..3 {
        members.spawn(handle(join(&w.bus, "t", &options).await, diary.clone(), count));
    }
    for n in 0..count / 100 {
        publish_by(&w.bus, "t", n * 100..(n + 1) * 100, |n| n % 40).await;
    }
    members.join_all().await;
    diary.assert_ordered(count);
}

/// An owner that lives but doesn't settle in time: its messages go on to another, in order, and it can't settle them.
pub(super) async fn a_silent_owner_is_fenced(w: World) {
    w.topic("t", 1).await;
    publish_by(&w.bus, "t", 0..4, |n| n % 2).await;
    let options = SubscribeOptions { order: Order::Key, ..brief("g") };
    let silent = join(&w.bus, "t", &options).await;
    let held = take(&silent, 2).await;
    let started = Instant::now();
    let other = join(&w.bus, "t", &options).await;
    let again = take(&other, 2).await;
    assert!(started.elapsed() <= lease() + GRACE, "after {:?}", started.elapsed());
    assert_eq!((numbers(&again), again[0].attempt), (vec![0, 1], 2));
    assert!(again[0].fence > held[0].fence, "{} after {}", again[0].fence, held[0].fence);
    for delivery in &held {
        fenced(settle(&silent, delivery.receipt, Settle::Ack).await);
    }
    silence(&other, MOMENT).await;
    ack(&other, &again).await;
    assert_eq!(numbers(&take(&other, 2).await), [2, 3]);
}

pub(super) async fn members_come_and_go_without_disorder(w: World) {
    let count = 6_000;
    w.topic("t", 8).await;
    let (diary, started) = (Diary::of(Order::Key), Instant::now());
    let mut members = JoinSet::new();
    let publishing = async {
        for n in 0..count / 100 {
            publish_by(&w.bus, "t", n * 100..(n + 1) * 100, |n| n % 40).await;
        }
    };
    let changing = async {
        // One stays; others come, work a while, and leave cleanly.
        members.spawn(handle(join(&w.bus, "t", &by_key("g")).await, diary.clone(), count));
        for step in 1..=10 {
            let until = count * step / 12;
            members.spawn(handle(join(&w.bus, "t", &by_key("g")).await, diary.clone(), until));
            while diary.len() < until - count / 12 && started.elapsed() < LONG {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::join!(publishing, changing);
    members.join_all().await;
    diary.assert_ordered(count);
}

pub(super) async fn a_later_owner_has_a_larger_fence(w: World) {
    w.topic("t", 1).await;
    publish_by(&w.bus, "t", 0..3, |n| n).await;
    let mut fences = Vec::new();
    for _ in 0..3 {
        let sub = join(&w.bus, "t", &by_key("g")).await;
        let delivery = one(&sub).await;
        fences.push(delivery.fence);
        ack(&sub, &[delivery]).await;
        close(&sub).await;
    }
    assert!(fences[0] > 0 && fences.is_sorted_by(|a, b| a < b), "{fences:?}");
}

pub(super) async fn members_share_partitions_fairly(w: World) {
    w.topic("t", 4).await;
    let (a, b) = (join(&w.bus, "t", &by_key("g")).await, join(&w.bus, "t", &by_key("g")).await);
    // Engines may need a while to notice each other; then each has two of the four.
    let started = Instant::now();
    loop {
        let from = number_of_messages(&w).await;
        let messages = (0..4).map(|p| linchpin::bus::Message::new((from + p).to_string()));
        let messages = messages.zip(0..4).map(|(m, p)| m.partition(p)).collect();
        send(&w.bus, "t", messages).await;
        let held = take_from([&a, &b], 4).await;
        let of_a = held.iter().filter(|(member, _)| *member == 0).count();
        for (member, delivery) in held {
            ack([&a, &b][member], &[delivery]).await;
        }
        if of_a == 2 {
            return;
        }
        assert!(started.elapsed() < SOON, "one has {of_a} of 4 partitions");
    }
}

async fn number_of_messages(w: &World) -> u64 {
    w.bus.stats(Some("t")).await.unwrap()[0].messages
}
