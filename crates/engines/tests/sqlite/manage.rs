//! Start, seek, delay, retention, broadcast, removal.

use std::time::{Duration, Instant};

use linchpin_core::bus::*;
use linchpin_core::{Kind, Timestamp};
use linchpin_engines::sqlite;

use super::help::*;

async fn drain(sub: &dyn Subscription) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let got = sub.next(100, Duration::from_millis(30)).await.unwrap();
        if got.is_empty() {
            return all;
        }
        all.extend(texts(&got));
        ack(sub, &got).await;
    }
}

fn from(start: Start, name: &str) -> SubscribeOptions {
    SubscribeOptions { start, ..SubscribeOptions::group(name) }
}

#[tokio::test]
async fn groups_start_where_they_are_told() {
    let place = Place::new();
    let bus = bus(&place, 1).await;
    send(&bus, numbered(0..3)).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let middle = Timestamp::now();
    tokio::time::sleep(Duration::from_millis(5)).await;
    send(&bus, numbered(3..5)).await;
    for (name, start, expected) in [
        ("old", Start::Oldest, vec!["0", "1", "2", "3", "4"]),
        ("new", Start::Newest, vec![]),
        ("at", Start::At(Position::new(0, 2)), vec!["2", "3", "4"]),
        ("beyond", Start::At(Position::new(0, 99)), vec![]),
        ("time", Start::Time(middle), vec!["3", "4"]),
        ("past", Start::Time(Timestamp::UNIX_EPOCH), vec!["0", "1", "2", "3", "4"]),
    ] {
        let sub = member(&bus, &from(start, name)).await;
        assert_eq!(drain(&*sub).await, expected, "{name}");
    }
    let wrong = from(Start::At(Position::new(1, 0)), "wrong");
    assert_eq!(bus.subscribe("t", &wrong).await.unwrap_err().kind(), Kind::Invalid);
}

#[tokio::test]
async fn seeking_replays_and_fences_what_was_delivered() {
    let place = Place::new();
    for order in [Order::None, Order::Key] {
        let bus = bus(&place, 2).await;
        let name = format!("{order:?}");
        send(&bus, (0..6).map(|n| Message::new(n.to_string()).partition(n % 2)).collect()).await;
        let sub = member(&bus, &SubscribeOptions { order, ..SubscribeOptions::group(&name) }).await;
        let held = get(&*sub, 6).await;
        settle(&*sub, &held[..2], nack(Duration::ZERO)).await;
        bus.seek("t", &name, Start::Newest).await.unwrap();
        let late = settle(&*sub, &held[2..3], Settle::Ack).await.remove(0).unwrap_err();
        assert_eq!(late.kind(), Kind::Fenced);
        nothing(&*sub, Duration::from_millis(50)).await;
        bus.seek("t", &name, Start::At(Position::new(1, 1))).await.unwrap();
        let mut again = get(&*sub, 2).await;
        again.sort_by_key(|d| d.position);
        assert_eq!(texts(&again), ["3", "5"]);
        assert!(again.iter().all(|d| d.attempt == 1));
        ack(&*sub, &again).await;
        bus.seek("t", &name, Start::Oldest).await.unwrap();
        assert_eq!(drain(&*sub).await.len(), 6);
        bus.remove("t", None).await.unwrap();
    }
    let bus = bus(&place, 1).await;
    bus.seek("t", "fresh", Start::Newest).await.unwrap();
    assert_eq!(stats(&bus, "t").await.groups[0].group, "fresh");
    assert_eq!(bus.seek("nope", "g", Start::Oldest).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn a_delayed_message_enters_the_topic_when_it_is_due() {
    let place = Place::new();
    let bus1 = bus(&place, 1).await;
    let sub = member(&bus1, &group()).await;
    let began = Instant::now();
    let delayed = Message::new("late").delay(Duration::from_millis(400));
    let positions = send(&bus1, vec![delayed, Message::new("soon")]).await;
    assert_eq!(positions, [Position { partition: 0, offset: None }, Position::new(0, 0)]);
    assert_eq!(stats(&bus1, "t").await.delayed, 1);
    let soon = get(&*sub, 1).await;
    ack(&*sub, &soon).await;
    let late = get(&*sub, 1).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(400) && took < Duration::from_millis(1400), "{took:?}");
    assert_eq!((text(&late[0]), late[0].position), ("late".into(), Position::new(0, 1)));
    assert!(late[0].time > soon[0].time);
    // It survives the one who sent it.
    send(&bus1, vec![Message::new("later").delay(Duration::from_millis(300))]).await;
    bus1.close().await.unwrap();
    let bus = place.open().await;
    let sub = member(&bus, &group()).await;
    assert_eq!(texts(&get(&*sub, 2).await), ["late", "later"]);
}

#[tokio::test]
async fn retention_spares_what_a_group_has_not_settled() {
    let place = Place::new();
    let bus = place.open().await;
    let options = TopicOptions { partitions: 2, retention_length: Some(4), ..TopicOptions::default() };
    bus.ensure("t", &options).await.unwrap();
    let sub = member(&bus, &group()).await;
    send(&bus, (0..10).map(|n| Message::new(n.to_string()).partition(n % 2)).collect()).await;
    assert_eq!(bus.trim("t").await.unwrap(), 0, "nothing is settled");
    let mut got = get(&*sub, 10).await;
    got.sort_by_key(text);
    ack(&*sub, &got[..5]).await;
    ack(&*sub, &got[6..]).await;
    // "5", the third of its partition, is still in hand: the length is kept at the cost of the other partition.
    bus.trim("t").await.unwrap();
    assert_eq!(stats(&bus, "t").await.messages, 4);
    ack(&*sub, &got[5..6]).await;
    assert_eq!(bus.trim("t").await.unwrap(), 0);
    let again = member(&bus, &from(Start::Oldest, "late")).await;
    let mut kept = drain(&*again).await;
    kept.sort();
    assert_eq!(kept, ["5", "7", "8", "9"]);
    let from_trimmed = member(&bus, &from(Start::At(Position::new(0, 0)), "trimmed")).await;
    assert_eq!(drain(&*from_trimmed).await.len(), 4);
}

#[tokio::test]
async fn old_messages_go_by_themselves() {
    let place = Place::new();
    let bus = place.open().await;
    let age = Some(Duration::from_millis(300));
    bus.ensure("t", &TopicOptions { retention_age: age, ..TopicOptions::default() }).await.unwrap();
    send(&bus, numbered(0..3000)).await;
    assert_eq!(stats(&bus, "t").await.messages, 3000);
    let began = Instant::now();
    while stats(&bus, "t").await.messages > 0 {
        assert!(began.elapsed() < 5 * SECOND, "still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(stats(&bus, "t").await.oldest, None);
    assert_eq!(send(&bus, vec![Message::new("x").partition(0)]).await[0].offset, Some(750), "offsets go on");
}

#[tokio::test]
async fn broadcast_gets_all_from_now_on_and_leaves_nothing_behind() {
    let place = Place::new();
    let (here, there) = (bus(&place, 2).await, place.open().await);
    send(&here, numbered(0..2)).await;
    let one = member(&here, &SubscribeOptions::broadcast()).await;
    let two = member(&there, &SubscribeOptions { max_attempts: 1, ..SubscribeOptions::broadcast() }).await;
    send(&here, numbered(2..5)).await;
    for sub in [&one, &two] {
        let got = get(&**sub, 3).await;
        let mut came = texts(&got);
        came.sort();
        assert_eq!(came, ["2", "3", "4"]);
        ack(&**sub, &got[1..]).await;
        settle(&**sub, &got[..1], nack(Duration::ZERO)).await.remove(0).unwrap();
    }
    assert_eq!(get(&*one, 1).await[0].attempt, 2);
    nothing(&*two, Duration::from_millis(50)).await;
    assert!(stats(&here, "t").await.groups.is_empty());
    one.close(SECOND).await.unwrap();
    two.close(SECOND).await.unwrap();
    assert_eq!(here.stats(None).await.unwrap().len(), 1, "no dead letters of nobody");
    let raw = rusqlite::Connection::open(place.file()).unwrap();
    let left: i64 = raw.query_row("SELECT count(*) FROM lp_group", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn partitions_can_be_restricted() {
    let place = Place::new();
    let bus = bus(&place, 4).await;
    send(&bus, (0..4).map(|p| Message::new(p.to_string()).partition(p)).collect()).await;
    let only = |list: &[u32]| SubscribeOptions { partitions: Some(list.to_vec()), ..group() };
    let one = member(&bus, &only(&[1, 3])).await;
    let mut got = get(&*one, 2).await;
    got.sort_by_key(|d| d.position);
    assert_eq!(texts(&got), ["1", "3"]);
    settle(&*one, &got, nack(Duration::ZERO)).await;
    let two = member(&bus, &only(&[2, 0])).await;
    assert_eq!(get(&*two, 2).await.len(), 2);
    nothing(&*two, Duration::from_millis(50)).await;
    assert_eq!(get(&*one, 2).await.len(), 2);
    assert_eq!(bus.subscribe("t", &only(&[4])).await.unwrap_err().kind(), Kind::Invalid);
}

#[tokio::test]
async fn what_is_removed_is_not_found() {
    let place = Place::new();
    let (bus, other) = (bus(&place, 2).await, place.open().await);
    send(&bus, numbered(0..5000)).await;
    send(&other, numbered(0..1)).await;
    let subs = [
        member(&bus, &group()).await,
        member(&other, &SubscribeOptions { order: Order::Key, ..SubscribeOptions::group("o") }).await,
    ];
    for sub in &subs {
        get(&**sub, 1).await;
    }
    bus.remove("t", Some("g")).await.unwrap();
    assert_eq!(bus.remove("t", Some("g")).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(subs[0].next(1, SECOND).await.unwrap_err().kind(), Kind::NotFound);
    bus.remove("t", None).await.unwrap();
    let gone = async {
        loop {
            match subs[1].next(1, Duration::from_millis(50)).await {
                Ok(_) => {}
                Err(error) => return error.kind(),
            }
        }
    };
    assert_eq!(tokio::time::timeout(2 * SECOND, gone).await.unwrap(), Kind::NotFound);
    assert_eq!(bus.remove("t", None).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(
        bus.publish("t", numbered(0..1), &PublishOptions::default()).await[0].as_ref().unwrap_err().kind(),
        Kind::NotFound
    );
    let raw = rusqlite::Connection::open(place.file()).unwrap();
    let left: i64 = raw
        .query_row(
            "SELECT (SELECT count(*) FROM lp_message) + (SELECT count(*) FROM lp_partition)",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(left, 0);
    // Made anew elsewhere with other partitions, it is another topic, also for the handle that knew the old one.
    bus.ensure("t", &TopicOptions { partitions: 1, ..TopicOptions::default() }).await.unwrap();
    assert_eq!(send(&other, numbered(0..2)).await, [Position::new(0, 0), Position::new(0, 1)]);
}

#[tokio::test]
async fn ensuring_again_changes_what_may_change() {
    let place = Place::new();
    let (bus, other) = (bus(&place, 2).await, place.open().await);
    send(&other, vec![Message::new("x".repeat(50))]).await;
    let smaller =
        TopicOptions { partitions: 2, max_message: 20, retention_age: None, retention_length: Some(9) };
    bus.ensure("t", &smaller).await.unwrap();
    assert_eq!(stats(&other, "t").await.options, smaller);
    let refused =
        other.publish("t", vec![Message::new("x".repeat(50))], &PublishOptions::default()).await.remove(0);
    assert_eq!(refused.unwrap_err().kind(), Kind::Invalid, "seen by a handle that knew the old limit");
    let other_count = TopicOptions { partitions: 3, ..smaller };
    assert_eq!(bus.ensure("t", &other_count).await.unwrap_err().kind(), Kind::AlreadyExists);
    assert_eq!(bus.ensure("bad name", &TopicOptions::default()).await.unwrap_err().kind(), Kind::Invalid);
    bus.ensure("a", &TopicOptions::default()).await.unwrap();
    let names: Vec<_> = bus.stats(None).await.unwrap().into_iter().map(|t| t.topic).collect();
    assert_eq!(names, ["a", "t"]);
    assert_eq!(bus.stats(Some("b")).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_new_file_is_opened_by_many_at_once() {
    for _ in 0..40 {
        let place = Place::new();
        let opening = (0..8).map(|n| {
            let url = format!("sqlite://{}", place.file().display()).parse().unwrap();
            tokio::spawn(async move {
                match n % 2 {
                    0 => sqlite::open(&url).await.map(drop),
                    _ => sqlite::open_coord(&url).await.map(drop),
                }
            })
        });
        for opened in opening.collect::<Vec<_>>() {
            opened.await.unwrap().unwrap();
        }
    }
}
