//! Publish, deliver, settle.

use std::time::{Duration, Instant};

use linchpin_core::Kind;
use linchpin_core::bus::*;

use super::help::*;

#[tokio::test]
async fn a_message_comes_back_as_it_was_sent() {
    let place = Place::new();
    let bus = bus(&place, 1).await;
    let plain = Message::new("plain");
    let full = Message::new(vec![0_u8, 255]).id("own-id").key("k").header("a", "1").header("a", "2");
    let empty = Message::new("").key("");
    let sent = vec![plain, full, empty];
    let positions = send(&bus, sent.clone()).await;
    assert_eq!(positions, [0, 1, 2].map(|offset| Position::new(0, offset)));
    let sub = member(&bus, &group()).await;
    let got = get(&*sub, 3).await;
    for ((got, sent), position) in got.iter().zip(&sent).zip(positions) {
        assert_eq!(got.message, *sent);
        assert_eq!((got.position, got.attempt, got.fence), (position, 1, 0));
        assert!(got.time.duration_since(linchpin_core::Timestamp::now()).as_secs().abs() < 5);
    }
    ack(&*sub, &got).await;
    nothing(&*sub, Duration::ZERO).await;
    assert_eq!(stats(&bus, "t").await.groups[0].in_flight, 0);
}

#[tokio::test]
async fn progress_and_attempts_survive_reopening() {
    let place = Place::new();
    let bus1 = bus(&place, 2).await;
    send(&bus1, numbered(0..10)).await;
    let sub = member(&bus1, &group()).await;
    let got = get(&*sub, 10).await;
    ack(&*sub, &got[..7]).await;
    settle(&*sub, &got[7..8], nack(Duration::ZERO)).await;
    let mut left: Vec<_> = got[7..].iter().map(text).collect();
    bus1.close().await.unwrap();
    assert_eq!(sub.next(1, SECOND).await.unwrap_err().kind(), Kind::Closed);
    drop((sub, bus1));
    let bus = place.open().await;
    let sub = member(&bus, &group()).await;
    let again = get(&*sub, 3).await;
    let mut came = texts(&again);
    left.sort();
    came.sort();
    assert_eq!(came, left);
    assert!(again.iter().all(|d| d.attempt == 2));
    ack(&*sub, &again).await;
    nothing(&*sub, Duration::ZERO).await;
}

#[tokio::test]
async fn a_waiting_member_is_woken_by_a_publish_here_and_through_another_handle() {
    let place = Place::new();
    let (here, there) = (bus(&place, 1).await, place.open().await);
    let sub = member(&here, &group()).await;
    for bus in [&here, &there] {
        let late = async {
            tokio::time::sleep(Duration::from_millis(60)).await;
            let sent = Instant::now();
            send(bus, numbered(0..1)).await;
            sent
        };
        let (got, sent) = tokio::join!(sub.next(1, 5 * SECOND), late);
        assert_eq!(got.unwrap().len(), 1);
        assert!(sent.elapsed() < SECOND / 2, "{:?}", sent.elapsed());
    }
}

#[tokio::test]
async fn next_waits_no_longer_than_it_was_told() {
    let place = Place::new();
    let bus = bus(&place, 1).await;
    let sub = member(&bus, &group()).await;
    let began = Instant::now();
    nothing(&*sub, Duration::from_millis(300)).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(300) && took < SECOND, "{took:?}");
}

#[tokio::test]
async fn a_nacked_message_comes_back_in_time_and_dies_at_its_last_attempt() {
    let place = Place::new();
    let bus = bus(&place, 2).await;
    send(&bus, vec![Message::new("x").key("k").header("h", "1").partition(1)]).await;
    let sub = member(&bus, &SubscribeOptions { max_attempts: 2, ..group() }).await;
    let got = get(&*sub, 1).await;
    let began = Instant::now();
    settle(&*sub, &got, nack(Duration::from_millis(400))).await.remove(0).unwrap();
    assert_eq!(stats(&bus, "t").await.groups[0].waiting, 1);
    let again = get(&*sub, 1).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(400) && took < Duration::from_millis(1400), "{took:?}");
    assert_eq!(again[0].attempt, 2);
    settle(&*sub, &again, nack(Duration::ZERO)).await.remove(0).unwrap();
    nothing(&*sub, Duration::from_millis(50)).await;
    let dead = stats(&bus, "t.g.dead").await;
    assert_eq!((dead.messages, dead.options.partitions, dead.options.retention_age), (1, 2, None));
    let reader = bus.subscribe("t.g.dead", &group()).await.unwrap();
    let letter = get(&*reader, 1).await.remove(0).message;
    assert_eq!((letter.id, letter.key), (got[0].message.id.clone(), got[0].message.key.clone()));
    for (name, value) in [
        (DEAD_REASON, "no"),
        (DEAD_ATTEMPTS, "2"),
        (DEAD_TOPIC, "t"),
        (DEAD_GROUP, "g"),
        (DEAD_POSITION, "1/0"),
        ("h", "1"),
    ] {
        assert_eq!(letter.headers.text(name), Some(value), "{name}");
    }
}

#[tokio::test]
async fn a_silent_member_loses_its_deliveries_and_is_fenced() {
    let place = Place::new();
    let bus = bus(&place, 1).await;
    send(&bus, numbered(0..4)).await;
    let options = SubscribeOptions { ack_wait: SECOND, max_attempts: 2, ..group() };
    let (a, b) = (member(&bus, &options).await, member(&bus, &options).await);
    let held = get(&*a, 4).await;
    ack(&*a, &held[..1]).await;
    settle(&*a, &held[3..], Settle::Dead { reason: "hopeless".into() }).await.remove(0).unwrap();
    let began = Instant::now();
    tokio::time::sleep(Duration::from_millis(700)).await;
    settle(&*a, &held[2..3], Settle::Extend).await.remove(0).unwrap();
    let lost = get(&*b, 1).await;
    assert!(began.elapsed() < 2 * SECOND);
    assert_eq!((text(&lost[0]), lost[0].attempt), ("1".to_owned(), 2));
    let late = settle(&*a, &held[1..2], Settle::Ack).await.remove(0).unwrap_err();
    assert_eq!(late.kind(), Kind::Fenced);
    ack(&*a, &held[2..3]).await;
    drop(b);
    // The last attempt ends in silence.
    let began = Instant::now();
    while bus.stats(Some("t.g.dead")).await.unwrap()[0].messages < 2 {
        nothing(&*a, Duration::from_millis(100)).await;
        assert!(began.elapsed() < 3 * SECOND, "no dead letter");
    }
    let graves = bus.subscribe("t.g.dead", &group()).await.unwrap();
    let letters = get(&*graves, 2).await;
    let reason = |n: usize| letters[n].message.headers.text(DEAD_REASON).unwrap().to_owned();
    assert_eq!([reason(0), reason(1)], ["hopeless", NO_REPLY]);
}

#[tokio::test]
async fn settling_twice_or_what_was_never_delivered_is_fenced() {
    let place = Place::new();
    let bus = bus(&place, 1).await;
    send(&bus, numbered(0..2)).await;
    let sub = member(&bus, &group()).await;
    let got = get(&*sub, 2).await;
    let (r0, r1) = (got[0].receipt, got[1].receipt);
    let batch = vec![(r0, Settle::Ack), (r0, nack(SECOND)), (Receipt(99), Settle::Ack), (r1, Settle::Ack)];
    let kinds: Vec<_> = sub.settle(batch).await.into_iter().map(|a| a.err().map(|e| e.kind())).collect();
    assert_eq!(kinds, [None, Some(Kind::Fenced), Some(Kind::Fenced), None]);
    let again = sub.settle(vec![(r0, Settle::Ack)]).await.remove(0);
    assert_eq!(again.unwrap_err().kind(), Kind::Fenced);
}

#[tokio::test]
async fn closing_hands_back_at_once_and_counts_only_what_was_handed_out() {
    let place = Place::new();
    let bus = bus(&place, 1).await;
    send(&bus, numbered(0..100)).await;
    let (a, b) = (member(&bus, &group()).await, member(&bus, &group()).await);
    // Fast calls make it fetch ahead.
    let mut held = Vec::new();
    for _ in 0..8 {
        held.extend(get(&*a, 2).await);
    }
    a.close(SECOND).await.unwrap();
    a.close(SECOND).await.unwrap();
    assert_eq!(a.next(1, SECOND).await.unwrap_err().kind(), Kind::Closed);
    assert_eq!(settle(&*a, &held[..1], Settle::Ack).await.remove(0).unwrap_err().kind(), Kind::Fenced);
    let began = Instant::now();
    let got = get(&*b, 100).await;
    assert!(began.elapsed() < SECOND);
    for delivery in &got {
        let was_held = held.iter().any(|h| h.position == delivery.position);
        assert_eq!(delivery.attempt, 1 + u32::from(was_held), "{}", delivery.position);
    }
    assert_eq!(stats(&bus, "t").await.groups[0].members, 1);
}

#[tokio::test]
async fn never_more_in_flight_than_allowed_and_slow_members_leave_the_rest() {
    let place = Place::new();
    let bus = bus(&place, 1).await;
    send(&bus, numbered(0..50)).await;
    let a = member(&bus, &SubscribeOptions { max_in_flight: 10, ..group() }).await;
    let held = get(&*a, 10).await;
    nothing(&*a, Duration::from_millis(50)).await;
    let b = member(&bus, &group()).await;
    assert_eq!(get(&*b, 40).await.len(), 40);
    ack(&*a, &held[..1]).await;
    nothing(&*a, Duration::from_millis(50)).await;
}

#[tokio::test]
async fn a_backlog_is_drained_without_pauses_also_without_fetching_ahead() {
    let place = Place::new();
    let bus = place.open_with("sync=off&poll=10s").await;
    bus.ensure("t", &TopicOptions::default()).await.unwrap();
    send(&bus, numbered(0..30)).await;
    for order in [Order::None, Order::Key, Order::Partition] {
        let name = SubscribeOptions::group(format!("{order:?}"));
        let sub = member(&bus, &SubscribeOptions { max_attempts: 1, order, ..name }).await;
        let began = Instant::now();
        for _ in 0..30 {
            let got = get(&*sub, 1).await;
            ack(&*sub, &got).await;
        }
        assert!(began.elapsed() < 5 * SECOND, "{order:?}: {:?}", began.elapsed());
        sub.close(SECOND).await.unwrap();
    }
}

#[tokio::test]
async fn one_oversized_message_does_not_hold_back_the_others() {
    let place = Place::new();
    let bus = place.open().await;
    bus.ensure("t", &TopicOptions { partitions: 2, max_message: 100, ..TopicOptions::default() })
        .await
        .unwrap();
    let batch = vec![
        Message::new("a"),
        Message::new("x".repeat(101)),
        Message::new("b").partition(7),
        Message::new("c"),
    ];
    let answers = bus.publish("t", batch, &PublishOptions::default()).await;
    let error = answers[1].as_ref().unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("117 bytes") && error.to_string().contains("takes 100"), "{error}");
    assert!(answers[2].as_ref().unwrap_err().to_string().contains("partition 7"));
    assert!(answers[0].is_ok() && answers[3].is_ok());
    let missing = bus.publish("nope", numbered(0..2), &PublishOptions::default()).await;
    for answer in missing {
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(
            error.to_string().contains("\"nope\"") && error.to_string().contains("auto_create=true"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn many_publishers_share_commits_and_offsets_have_no_holes() {
    let place = Place::new();
    let bus = bus(&place, 3).await;
    let publishers = (0..40).map(|p| {
        let bus = bus.clone();
        tokio::spawn(async move { send(&bus, numbered(p * 10..p * 10 + 10)).await })
    });
    let mut positions = Vec::new();
    for publisher in publishers.collect::<Vec<_>>() {
        let answered = publisher.await.unwrap();
        for pair in answered.windows(2).filter(|pair| pair[0].partition == pair[1].partition) {
            assert!(pair[0] < pair[1]);
        }
        positions.extend(answered);
    }
    positions.sort();
    positions.dedup();
    assert_eq!(positions.len(), 400);
    for partition in 0..3 {
        let of: Vec<_> =
            positions.iter().filter(|p| p.partition == partition).map(|p| p.offset.unwrap()).collect();
        assert_eq!(of, (0..of.len() as u64).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_members_on_two_handles_lose_and_repeat_nothing() {
    let place = Place::new();
    let (one, two) = (bus(&place, 4).await, place.open().await);
    let publisher = tokio::spawn({
        let bus = two.clone();
        async move {
            for n in 0..20 {
                send(&bus, numbered(n * 100..n * 100 + 100)).await;
            }
        }
    });
    let mut tasks = Vec::new();
    for n in 0..8 {
        let sub = member(if n % 2 == 0 { &one } else { &two }, &group()).await;
        tasks.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            loop {
                let got = sub.next(7, SECOND).await.unwrap();
                if got.is_empty() {
                    sub.close(SECOND).await.unwrap();
                    return seen;
                }
                seen.extend(texts(&got));
                ack(&*sub, &got).await;
            }
        }));
    }
    publisher.await.unwrap();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    assert_eq!(all.len(), 2000);
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 2000);
}

#[tokio::test]
async fn two_groups_each_get_all_and_memory_works_alike() {
    let bus = open("sqlite::memory:").await.unwrap();
    assert!(!bus.caps().durable && !bus.caps().shared);
    bus.ensure("t", &TopicOptions::default()).await.unwrap();
    send(&bus, numbered(0..20)).await;
    for name in ["g", "h"] {
        let sub = member(&bus, &SubscribeOptions::group(name)).await;
        let got = get(&*sub, 20).await;
        ack(&*sub, &got).await;
        nothing(&*sub, Duration::ZERO).await;
    }
    bus.close().await.unwrap();
    bus.close().await.unwrap();
    assert_eq!(bus.stats(None).await.unwrap_err().kind(), Kind::Closed);
}
