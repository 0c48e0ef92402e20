//! The runner, on the memory bus with a paused clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::Failure;
use crate::bus::{Bus, MemoryBus, Message, Order, SubscribeOptions, TopicOptions, dead_topic};
use crate::retry::Backoff;

async fn bus(messages: usize) -> Bus {
    let bus = Bus::new(MemoryBus::new());
    bus.ensure("t", &TopicOptions { partitions: 2, ..TopicOptions::default() }).await.unwrap();
    for n in 0..messages {
        bus.publish("t", Message::new(n.to_string()).key((n % 3).to_string())).await.unwrap();
    }
    bus
}

async fn lag(bus: &Bus) -> (u64, u64) {
    let stats = bus.stats(Some("t")).await.unwrap();
    let group = &stats[0].groups[0];
    (group.lag, group.in_flight + group.waiting)
}

#[tokio::test(start_paused = true)]
async fn handles_everything_and_stops_clean() {
    let bus = bus(100).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let running = bus.consume("t").group("g").run(move |d| {
        let tell = tell.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            tell.send(d.message.payload)?;
            Ok(())
        }
    });
    let running = running.await.unwrap();
    for _ in 0..100 {
        told.recv().await.unwrap();
    }
    let totals = running.stop().await.unwrap();
    assert_eq!((totals.acked, totals.redelivered, totals.lost), (100, 0, 0));
    assert_eq!(lag(&bus).await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn never_more_at_once_than_asked() {
    let bus = bus(200).await;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = (now.clone(), most.clone());
    let running = bus.consume("t").group("g").concurrency(7).run(move |_| {
        let (now, most) = counted.clone();
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(10)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        }
    });
    let running = running.await.unwrap();
    while running.totals().acked < 200 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running.stop().await.unwrap();
    assert_eq!(most.load(Ordering::SeqCst), 7);
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_and_end_as_dead_letters() {
    let bus = bus(1).await;
    let started = Instant::now();
    let consumer = bus.consume("t").group("g").max_attempts(3).retry(Backoff::fixed(Duration::from_secs(10)));
    let running = consumer
        .run(|d| async move {
            if d.attempt == 2 {
                panic!("the second time");
            }
            Err(Failure::retry(format!("attempt {}", d.attempt)))
        })
        .await
        .unwrap();
    while running.totals().dead == 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(started.elapsed() >= Duration::from_secs(20), "two backoffs passed");
    let totals = running.stop().await.unwrap();
    assert_eq!((totals.nacked, totals.dead), (2, 1));
    let dead = bus.subscribe(&dead_topic("t", "g"), &SubscribeOptions::group("audit")).await.unwrap();
    let letters = dead.next(10, Duration::from_secs(1)).await.unwrap();
    assert_eq!(letters[0].message.headers.text(crate::bus::DEAD_REASON), Some("attempt 3"));
    assert_eq!(letters[0].message.headers.text(crate::bus::DEAD_ATTEMPTS), Some("3"));
}

#[tokio::test(start_paused = true)]
async fn a_slow_handler_keeps_its_lease_and_a_hopeless_one_is_told_apart() {
    let bus = bus(2).await;
    let consumer = bus.consume("t").group("g").ack_wait(Duration::from_secs(1));
    let running = consumer
        .run(|d| async move {
            tokio::time::sleep(Duration::from_secs(20)).await;
            if d.message.payload == "1" { Err(Failure::dead("never")) } else { Ok(()) }
        })
        .await
        .unwrap();
    while running.totals().acked + running.totals().dead < 2 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let totals = running.stop().await.unwrap();
    assert_eq!((totals.acked, totals.dead, totals.redelivered, totals.lost), (1, 1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn keys_stay_in_order_across_failures() {
    let bus = bus(300).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let consumer = bus.consume("t").group("g").order(Order::Key).concurrency(32);
    let running = consumer
        .run(move |d| {
            let tell = tell.clone();
            async move {
                let n: u64 = std::str::from_utf8(&d.message.payload)?.parse()?;
                if n.is_multiple_of(10) && d.attempt < 3 {
                    return Err(Failure::retry("not yet"));
                }
                tell.send(n)?;
                Ok(())
            }
        })
        .await
        .unwrap();
    let mut seen = Vec::new();
    for _ in 0..300 {
        seen.push(told.recv().await.unwrap());
    }
    running.stop().await.unwrap();
    for key in 0..3 {
        let line: Vec<_> = seen.iter().filter(|n| **n % 3 == key).copied().collect();
        assert!(line.is_sorted() && line.len() == 100, "key {key}: {line:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn stop_waits_for_handlers_only_so_long_and_hands_back_the_rest() {
    let bus = bus(20).await;
    let gate = Arc::new(Semaphore::new(0));
    let waiting = gate.clone();
    let consumer = bus.consume("t").group("g").concurrency(4).drain(Duration::from_secs(2));
    let running = consumer
        .run(move |_| {
            let gate = waiting.clone();
            async move { gate.acquire().await.map(drop).map_err(Failure::from) }
        })
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let started = Instant::now();
    running.stop().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(3));
    let other = bus.subscribe("t", &SubscribeOptions::group("g")).await.unwrap();
    assert_eq!(other.next(100, Duration::from_millis(1)).await.unwrap().len(), 20, "handed back at once");
}

#[tokio::test(start_paused = true)]
async fn a_removed_topic_ends_the_consumer() {
    let bus = bus(1).await;
    let mut running = bus.consume("t").group("g").run(|_| async { Ok(()) }).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    bus.remove("t", None).await.unwrap();
    assert_eq!(running.wait().await.unwrap_err().kind(), crate::Kind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn what_was_fetched_for_handlers_that_turn_slow_waits_its_turn_alive() {
    let bus = bus(1500).await;
    let (begun, now, most) = <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let counted = (begun.clone(), now.clone(), most.clone());
    let consumer = bus.consume("t").group("g").concurrency(2).ack_wait(Duration::from_secs(1));
    let running = consumer.run(move |_| {
        let (begun, now, most) = counted.clone();
        async move {
            // The first thousand are done at once, so more and more are fetched; then each takes its time.
            if begun.fetch_add(1, Ordering::SeqCst) >= 1000 {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(100)).await;
                now.fetch_sub(1, Ordering::SeqCst);
            }
            Ok(())
        }
    });
    let running = running.await.unwrap();
    while running.totals().acked < 1500 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((begun.load(Ordering::SeqCst), most.load(Ordering::SeqCst)), (1500, 2));
    let totals = running.stop().await.unwrap();
    assert_eq!((totals.acked, totals.redelivered, totals.lost), (1500, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stop_handles_what_was_fetched() {
    let bus = bus(1500).await;
    let begun = Arc::new(AtomicUsize::new(0));
    let counted = begun.clone();
    let running = bus.consume("t").group("g").concurrency(2).run(move |_| {
        let n = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            if n >= 1000 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok(())
        }
    });
    let running = running.await.unwrap();
    while begun.load(Ordering::SeqCst) < 1010 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let totals = running.stop().await.unwrap();
    let begun = begun.load(Ordering::SeqCst) as u64;
    assert_eq!((totals.acked, totals.lost), (begun, 0));
    assert_eq!(lag(&bus).await, (1500 - begun, 0));
}
