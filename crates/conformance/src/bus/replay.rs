//! Moving a group, and where new groups begin.

use linchpin::bus::{Delivery, Message, Position, Settle, Start, SubscribeOptions};
use linchpin::{Kind, Timestamp};

use crate::tools::*;
use crate::world::World;

fn sorted(deliveries: &[Delivery]) -> Vec<u64> {
    let mut numbers = numbers(deliveries);
    numbers.sort_unstable();
    numbers
}

pub(super) async fn seeking_the_oldest_replays_all(w: World) {
    w.topic("t", 4).await;
    publish(&w.bus, "t", 0..20).await;
    let sub = join(&w.bus, "t", &group("g")).await;
    let other = join(&w.bus, "t", &group("other")).await;
    assert_each_once(numbers(&drain(&sub).await), 20);
    assert_each_once(numbers(&drain(&other).await), 20);
    w.bus.seek("t", "g", Start::Oldest).await.unwrap();
    let again = drain(&sub).await;
    assert_each_once(numbers(&again), 20);
    assert!(again.iter().all(|d| d.attempt == 1), "a replay is a new beginning");
    silence(&other, MOMENT).await;
}

pub(super) async fn seeking_the_newest_skips_all(w: World) {
    w.topic("t", 4).await;
    publish(&w.bus, "t", 0..20).await;
    let sub = join(&w.bus, "t", &group("g")).await;
    // Some in hand, some handed back, some never seen.
    let held = take(&sub, 10).await;
    nack(&sub, &held[0], MOMENT / 4).await;
    w.bus.seek("t", "g", Start::Newest).await.unwrap();
    silence(&sub, MOMENT).await;
    publish(&w.bus, "t", 20..23).await;
    assert_eq!(sorted(&drain(&sub).await), [20, 21, 22]);
    let of = w.bus.stats(Some("t")).await.unwrap()[0].groups[0].clone();
    assert_eq!((of.lag, of.in_flight, of.waiting), (0, 0, 0));
    // A group that isn't there yet is made where it is to begin.
    w.bus.seek("t", "new", Start::Newest).await.unwrap();
    publish(&w.bus, "t", 23..24).await;
    assert_eq!(sorted(&drain(&join(&w.bus, "t", &group("new")).await).await), [23]);
}

pub(super) async fn seeking_a_position_moves_one_partition(w: World) {
    w.topic("t", 2).await;
    let messages: Vec<_> = (0..20_u32).map(|n| Message::new(n.to_string()).partition(n % 2)).collect();
    let answers = w.bus.publish_all("t", messages, &linchpin::bus::PublishOptions::default()).await;
    let places: Vec<_> = answers.into_iter().map(|a| a.unwrap()).collect();
    let sub = join(&w.bus, "t", &group("g")).await;
    assert_each_once(numbers(&drain(&sub).await), 20);
    w.bus.seek("t", "g", Start::At(places[13])).await.unwrap();
    assert_eq!(sorted(&drain(&sub).await), [13, 15, 17, 19]);
    // Beyond the end is the newest.
    w.bus.seek("t", "g", Start::At(Position::new(1, u64::MAX / 2))).await.unwrap();
    send(&w.bus, "t", vec![Message::new("20").partition(1), Message::new("21").partition(0)]).await;
    assert_eq!(sorted(&drain(&sub).await), [20, 21]);
    assert_kind(w.bus.seek("t", "g", Start::At(Position::new(2, 0))).await, Kind::Invalid);
}

pub(super) async fn seeking_fences_what_is_in_hand(w: World) {
    w.topic("t", 2).await;
    publish(&w.bus, "t", 0..10).await;
    let sub = join(&w.bus, "t", &group("g")).await;
    let held = take(&sub, 10).await;
    ack(&sub, &held[..3]).await;
    w.bus.seek("t", "g", Start::Oldest).await.unwrap();
    for delivery in &held {
        fenced(settle(&sub, delivery.receipt, Settle::Ack).await);
    }
    assert_each_once(numbers(&drain(&sub).await), 10);
}

/// Three batches of ten numbers with a time between each.
async fn in_batches(w: &World) -> [Timestamp; 2] {
    let mut between = Vec::new();
    for batch in 0..3 {
        if batch > 0 {
            // The engine's clock counts milliseconds; the moment stands clear of both batches.
            tokio::time::sleep(MOMENT / 4).await;
            between.push(now(w).await);
            tokio::time::sleep(MOMENT / 4).await;
        }
        publish(&w.bus, "t", batch * 10..(batch + 1) * 10).await;
    }
    [between[0], between[1]]
}

/// The engine's clock, as it stamps messages.
async fn now(w: &World) -> Timestamp {
    w.topic("clock", 1).await;
    let sub = join(&w.bus, "clock", &SubscribeOptions::broadcast()).await;
    publish(&w.bus, "clock", 0..1).await;
    let time = one(&sub).await.time;
    close(&sub).await;
    time
}

pub(super) async fn seeking_a_time_replays_from_there(w: World) {
    w.topic("t", 4).await;
    let [first, second] = in_batches(&w).await;
    let sub = join(&w.bus, "t", &group("g")).await;
    assert_each_once(numbers(&drain(&sub).await), 30);
    w.bus.seek("t", "g", Start::Time(second)).await.unwrap();
    assert_eq!(sorted(&drain(&sub).await), (20..30).collect::<Vec<_>>());
    w.bus.seek("t", "g", Start::Time(first)).await.unwrap();
    assert_eq!(sorted(&drain(&sub).await), (10..30).collect::<Vec<_>>());
    let never = first.checked_add(std::time::Duration::from_secs(3600)).unwrap();
    w.bus.seek("t", "g", Start::Time(never)).await.unwrap();
    silence(&sub, MOMENT).await;
    w.bus.seek("t", "g", Start::Time(Timestamp::UNIX_EPOCH)).await.unwrap();
    assert_each_once(numbers(&drain(&sub).await), 30);
}

pub(super) async fn groups_start_where_they_are_told(w: World) {
    w.topic("t", 1).await;
    let [first, _] = in_batches(&w).await;
    let probe = join(&w.bus, "t", &group("probe")).await;
    let mut places: Vec<_> = drain(&probe).await.iter().map(|d| d.position).collect();
    places.sort_unstable();
    // Offsets rise, and needn't be dense.
    let beyond = Position::new(0, places[29].offset.unwrap() + 99);
    let cases = [
        ("oldest", Start::Oldest, 0),
        ("time", Start::Time(first), 10),
        ("position", Start::At(places[17]), 17),
        ("beyond", Start::At(beyond), 30),
    ];
    for (name, start, expected) in cases {
        let sub = join(&w.bus, "t", &SubscribeOptions { start, ..group(name) }).await;
        assert_eq!(sorted(&drain(&sub).await), (expected..30).collect::<Vec<_>>(), "{name}");
    }
    let out = SubscribeOptions { start: Start::At(Position::new(1, 0)), ..group("out") };
    assert_kind(w.bus.engine().subscribe("t", &out).await, Kind::Invalid);
}
