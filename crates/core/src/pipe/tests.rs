//! The pipe, on the memory bus with a paused clock.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::{Item, Landed, Pipe, PipeTotals, Piping, Row, Sink};
use crate::bus::{Bus, Delivery, MemoryBus, Message, Start, TopicOptions, dead_topic};
use crate::{Error, Kind, Result};

/// Keeps the contract in memory, and is away for its first `away` calls.
#[derive(Debug, Default)]
struct Kept {
    away: AtomicU64,
    last: Mutex<BTreeMap<u32, u64>>,
    rows: Mutex<Vec<Row>>,
}

#[async_trait]
impl Sink for Kept {
    async fn write(&self, _topic: &str, batch: &[Item]) -> Result<Vec<Landed>> {
        if self.away.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Err(Error::new(Kind::Unavailable, "away"));
        }
        let mut last = self.last.lock().unwrap();
        let land = batch.iter().map(|item| {
            let next = last.entry(item.position.partition).or_insert(0);
            let offset = item.position.offset.unwrap();
            assert!(item.fence > 0);
            if offset < *next {
                return Landed::Repeat;
            }
            *next = offset + 1;
            if item.message.payload == "bad" {
                return Landed::Dead("bad".into());
            }
            self.rows.lock().unwrap().extend(item.rows.iter().cloned());
            Landed::Applied
        });
        Ok(land.collect())
    }
}

async fn filled() -> Bus {
    let bus = Bus::new(MemoryBus::new());
    bus.ensure("t", &TopicOptions::default()).await.unwrap();
    for n in 0..100 {
        let text = match n {
            7 => "bad".to_owned(),
            8 => "ugly".to_owned(),
            n => n.to_string(),
        };
        bus.publish("t", Message::new(text)).await.unwrap();
    }
    bus
}

fn rows(delivery: &Delivery) -> Result<Vec<Row>, String> {
    let text = String::from_utf8_lossy(&delivery.message.payload).into_owned();
    if text == "ugly" { Err(text) } else { Ok(vec![Row::new("t", [text.into()])]) }
}

async fn moved(piping: &Piping, messages: u64) {
    while {
        let t = piping.totals();
        t.applied + t.repeats + t.dead < messages
    } {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn lands_all_once_waits_for_the_sink_and_buries_the_refused() {
    let (bus, sink) = (filled().await, Arc::new(Kept::default()));
    sink.away.store(3, Ordering::SeqCst);
    let piping = Pipe::new(&bus, "t", "g").batch(10).map(rows).run(sink.clone()).await.unwrap();
    moved(&piping, 100).await;
    let totals = piping.stop().await.unwrap();
    assert_eq!(totals, PipeTotals { applied: 98, dead: 2, ..PipeTotals::default() });
    assert_eq!(sink.rows.lock().unwrap().len(), 98);
    assert_eq!(bus.stats(Some(&dead_topic("t", "g"))).await.unwrap()[0].messages, 2);
}

#[tokio::test(start_paused = true)]
async fn what_comes_again_is_recognised() {
    let (bus, sink) = (filled().await, Arc::new(Kept::default()));
    let piping = Pipe::new(&bus, "t", "g").map(rows).run(sink.clone()).await.unwrap();
    moved(&piping, 100).await;
    piping.stop().await.unwrap();
    bus.seek("t", "g", Start::Oldest).await.unwrap();
    let piping = Pipe::new(&bus, "t", "g").map(rows).run(sink.clone()).await.unwrap();
    moved(&piping, 100).await;
    assert_eq!(piping.stop().await.unwrap().applied, 0);
    assert_eq!(sink.rows.lock().unwrap().len(), 98);
}
