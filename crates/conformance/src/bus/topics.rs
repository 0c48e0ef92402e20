//! Topics and groups: made, changed, measured, removed; and what is refused.

use std::time::Duration;

use linchpin::Kind;
use linchpin::bus::{Message, PublishOptions, Settle, Start, SubscribeOptions, TopicOptions};

use crate::tools::*;
use crate::world::World;

pub(super) async fn ensure_is_idempotent(w: World) {
    let options = TopicOptions { partitions: 3, ..TopicOptions::default() };
    w.bus.ensure("t", &options).await.unwrap();
    publish(&w.bus, "t", 0..5).await;
    w.bus.ensure("t", &options).await.unwrap();
    let changed = TopicOptions {
        retention_age: None,
        retention_length: Some(1_000_000),
        max_message: 100,
        ..options.clone()
    };
    w.bus.ensure("t", &changed).await.unwrap();
    let stats = w.bus.stats(Some("t")).await.unwrap();
    // What nobody can come for later needn't be stored.
    let stored = if w.bus.caps().groups { 5 } else { 0 };
    assert_eq!((stats[0].messages, &stats[0].options), (stored, &changed));
    let other = TopicOptions { partitions: 4, ..options };
    assert_kind(w.bus.ensure("t", &other).await, Kind::AlreadyExists);
    assert_eq!(w.bus.stats(Some("t")).await.unwrap()[0].options, changed, "a refusal changes nothing");
}

pub(super) async fn a_missing_topic_is_not_found(w: World) {
    let answers = w.bus.engine().publish("no", vec![Message::new("x"); 2], &PublishOptions::default()).await;
    assert_eq!(answers.len(), 2);
    let mut errors: Vec<_> = answers.into_iter().map(|a| assert_kind(a, Kind::NotFound)).collect();
    errors.push(assert_kind(w.bus.engine().subscribe("no", &group("g")).await, Kind::NotFound));
    errors.push(assert_kind(w.bus.stats(Some("no")).await, Kind::NotFound));
    errors.push(assert_kind(w.bus.remove("no", None).await, Kind::NotFound));
    errors.push(assert_kind(w.bus.remove("no", Some("g")).await, Kind::NotFound));
    errors.push(assert_kind(w.bus.trim("no").await, Kind::NotFound));
    if w.bus.caps().replay {
        errors.push(assert_kind(w.bus.seek("no", "g", Start::Oldest).await, Kind::NotFound));
    }
    for error in errors {
        assert!(error.message().contains("\"no\""), "{error} names the topic");
        assert!(error.remedy().is_some_and(|r| r.contains("ensure")), "{error} names the remedy");
    }
    w.topic("t", 1).await;
    assert_kind(w.bus.remove("t", Some("g")).await, Kind::NotFound);
}

pub(super) async fn wrong_names_are_refused(w: World) {
    w.topic("t", 1).await;
    let long = "x".repeat(250);
    for name in ["", ".", "..", "a b", "ö", "a/b", "a'b", long.as_str()] {
        assert_kind(w.bus.ensure(name, &TopicOptions::default()).await, Kind::Invalid);
        assert_kind(w.bus.engine().subscribe("t", &group(name)).await, Kind::Invalid);
        if w.bus.caps().replay {
            assert_kind(w.bus.seek("t", name, Start::Oldest).await, Kind::Invalid);
        }
    }
    for name in ["a", "A.b_c-9", &"x".repeat(249)] {
        w.bus.ensure(name, &TopicOptions::default()).await.unwrap();
        join(&w.bus, name, &group(name)).await;
    }
}

pub(super) async fn options_out_of_range_are_refused(w: World) {
    let fine = TopicOptions::default();
    for wrong in [
        TopicOptions { partitions: 0, ..fine.clone() },
        TopicOptions { partitions: 1025, ..fine.clone() },
        TopicOptions { max_message: 0, ..fine.clone() },
        TopicOptions { retention_age: Some(Duration::ZERO), ..fine.clone() },
        TopicOptions { retention_length: Some(0), ..fine.clone() },
    ] {
        assert_kind(w.bus.ensure("t", &wrong).await, Kind::Invalid);
    }
    assert_kind(w.bus.stats(Some("t")).await, Kind::NotFound);
    w.topic("t", 4).await;
    for wrong in [
        SubscribeOptions { ack_wait: Duration::from_millis(999), ..group("g") },
        SubscribeOptions { ack_wait: Duration::from_secs(12 * 3600 + 1), ..group("g") },
        SubscribeOptions { max_attempts: 0, ..group("g") },
        SubscribeOptions { max_in_flight: 0, ..group("g") },
        SubscribeOptions { partitions: Some(vec![]), ..group("g") },
        SubscribeOptions { partitions: Some(vec![0, 4]), ..group("g") },
    ] {
        assert_kind(w.bus.engine().subscribe("t", &wrong).await, Kind::Invalid);
    }
    assert_eq!(w.bus.stats(Some("t")).await.unwrap()[0].groups, [], "a refusal makes no group");
}

pub(super) async fn a_removed_topic_ends_its_subscriptions(w: World) {
    w.topic("t", 1).await;
    let listener = match w.bus.caps().broadcast {
        true => Some(join(&w.bus, "t", &SubscribeOptions::broadcast()).await),
        false => None,
    };
    let (sub, waiting) = (join(&w.bus, "t", &group("g")).await, join(&w.bus, "t", &group("waits")).await);
    publish(&w.bus, "t", 0..20).await;
    let held = one(&sub).await;
    // One that waits is told as well as one that asks.
    assert_each_once(numbers(&drain(&waiting).await), 20);
    let waiting = tokio::spawn(async move { waiting.next(1, SOON).await });
    tokio::task::yield_now().await;
    w.bus.remove("t", None).await.unwrap();
    let told = tokio::time::timeout(SOON / 2, waiting).await.expect("told at once").unwrap();
    assert_kind(told, Kind::NotFound);
    // What was fetched ahead is gone too.
    assert_kind(sub.next(1, MOMENT).await, Kind::NotFound);
    assert!(settle(&sub, held.receipt, Settle::Ack).await.is_err());
    if let Some(listener) = &listener {
        assert_kind(listener.next(1, MOMENT).await, Kind::NotFound);
    }
    assert_kind(w.bus.publish("t", Message::new("x")).await, Kind::NotFound);
    close(&sub).await;
}

pub(super) async fn a_removed_group_ends_its_subscriptions(w: World) {
    w.topic("t", 1).await;
    let (old, kept) = (join(&w.bus, "t", &group("g")).await, join(&w.bus, "t", &group("kept")).await);
    publish(&w.bus, "t", 0..20).await;
    let held = one(&old).await;
    w.bus.remove("t", Some("g")).await.unwrap();
    // What was fetched ahead is gone too.
    assert_kind(old.next(1, MOMENT).await, Kind::NotFound);
    let new = join(&w.bus, "t", &group("g")).await;
    assert_kind(old.next(1, MOMENT).await, Kind::NotFound);
    fenced(settle(&old, held.receipt, Settle::Ack).await);
    let again = if w.bus.caps().replay { 20 } else { 0 };
    assert_each_once(numbers(&drain(&new).await), again);
    assert_each_once(numbers(&drain(&kept).await), 20);
}

pub(super) async fn a_topic_made_again_is_empty(w: World) {
    w.topic("t", 1).await;
    publish(&w.bus, "t", 0..3).await;
    let old = join(&w.bus, "t", &group("g")).await;
    one(&old).await;
    w.bus.remove("t", None).await.unwrap();
    w.topic("t", 2).await;
    let new = join(&w.bus, "t", &group("g")).await;
    silence(&new, MOMENT).await;
    publish(&w.bus, "t", 0..1).await;
    assert_eq!(one(&new).await.attempt, 1);
}

pub(super) async fn a_closed_engine_answers_closed(w: World) {
    w.topic("t", 1).await;
    let sub = join(&w.bus, "t", &group("g")).await;
    let waiting = join(&w.bus, "t", &group("other")).await;
    publish(&w.bus, "t", 0..2).await;
    let held = take(&sub, 2).await;
    take(&waiting, 2).await;
    let waiting = tokio::spawn(async move { waiting.next(1, SOON).await });
    tokio::task::yield_now().await;
    w.bus.close().await.unwrap();
    w.bus.close().await.unwrap();
    let told = tokio::time::timeout(SOON / 2, waiting).await.expect("told at once").unwrap();
    assert_kind(told, Kind::Closed);
    assert_kind(w.bus.ensure("t", &TopicOptions::default()).await, Kind::Closed);
    assert_kind(w.bus.remove("t", None).await, Kind::Closed);
    assert_kind(w.bus.publish("t", Message::new("x")).await, Kind::Closed);
    assert_kind(w.bus.engine().subscribe("t", &group("g")).await, Kind::Closed);
    assert_kind(w.bus.stats(None).await, Kind::Closed);
    assert_kind(w.bus.stats(Some("t")).await, Kind::Closed);
    assert_kind(w.bus.seek("t", "g", Start::Oldest).await, Kind::Closed);
    assert_kind(w.bus.trim("t").await, Kind::Closed);
    assert_kind(sub.next(1, MOMENT).await, Kind::Closed);
    assert_kind(settle(&sub, held[0].receipt, Settle::Ack).await, Kind::Closed);
}

pub(super) async fn oversize_is_refused_alone(w: World) {
    let limit = 1_000;
    let options = TopicOptions { partitions: 1, max_message: limit, ..TopicOptions::default() };
    w.bus.ensure("t", &options).await.unwrap();
    let sized = |size: usize| {
        let message = Message::new("").key("key").header("h", "value");
        let rest = size - message.size();
        Message { payload: vec![7; rest].into(), ..message }
    };
    let batch = vec![sized(500), sized(1_001), sized(1_000), sized(2_000), sized(500)];
    assert_eq!(batch.iter().map(Message::size).collect::<Vec<_>>(), [500, 1_001, 1_000, 2_000, 500]);
    let answers = w.bus.engine().publish("t", batch, &PublishOptions::default()).await;
    let kinds: Vec<_> = answers.iter().map(|a| a.as_ref().err().map(|e| e.kind())).collect();
    assert_eq!(kinds, [None, Some(Kind::Invalid), None, Some(Kind::Invalid), None]);
    let error = answers[1].as_ref().unwrap_err().to_string();
    assert!(error.contains("1001") && error.contains("1000"), "{error:?} names size and limit");
    let sub = join(&w.bus, "t", &group("g")).await;
    let sizes: Vec<_> = drain(&sub).await.iter().map(|d| d.message.size()).collect();
    assert_eq!(sizes, [500, 1_000, 500]);
}

pub(super) async fn stats_add_up(w: World) {
    w.topic("t", 2).await;
    w.topic("u", 1).await;
    let a = join(&w.bus, "t", &group("a")).await;
    let b = join(&w.bus, "t", &SubscribeOptions { max_in_flight: 5, ..group("b") }).await;
    publish(&w.bus, "t", 0..20).await;
    send(&w.bus, "t", vec![Message::new("later").delay(Duration::from_secs(600)); 3]).await;
    let held = take(&a, 20).await;
    ack(&a, &held[..8]).await;
    for delivery in &held[8..11] {
        nack(&a, delivery, Duration::from_secs(600)).await;
    }
    take(&b, 5).await;
    let stats = w.bus.stats(Some("t")).await.unwrap();
    let [topic] = stats.as_slice() else { panic!("{stats:?}") };
    assert_eq!((topic.topic.as_str(), topic.messages, topic.delayed), ("t", 20, 3));
    assert!(topic.oldest.is_some());
    let of = |g: &linchpin::bus::GroupStats| (g.group.clone(), g.lag, g.in_flight, g.waiting, g.members);
    let groups: Vec<_> = topic.groups.iter().map(of).collect();
    assert_eq!(groups, [("a".into(), 0, 9, 3, 1), ("b".into(), 15, 5, 0, 1)]);
    close(&b).await;
    let closed = &w.bus.stats(Some("t")).await.unwrap()[0].groups[1];
    assert_eq!((closed.lag + closed.waiting, closed.in_flight, closed.members), (20, 0, 0));
    let names: Vec<_> = w.bus.stats(None).await.unwrap().into_iter().map(|t| t.topic).collect();
    assert_eq!(names, ["t", "u"]);
}
