//! An acknowledgement that was answered `Ok` holds, whatever happens the moment after.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use linchpin_core::Kind;
use linchpin_core::bus::{BusEngine, Delivery, Message, Settle, SubscribeOptions, Subscription};
use linchpin_harness::{Link, Running};

use crate::{SOON, open, publish, topic};

/// Longer than the server takes to be there again.
const BACK: Duration = Duration::from_secs(120);

/// How often each is tried; `LINCHPIN_ROUNDS` in the environment says otherwise.
fn rounds(few: usize) -> usize {
    std::env::var("LINCHPIN_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(few)
}

struct Ledger {
    bus: Arc<dyn BusEngine>,
    sub: Box<dyn Subscription>,
    stored: BTreeSet<String>,
    acknowledged: BTreeSet<String>,
    published: usize,
}

impl Ledger {
    async fn open(url: &str) -> Self {
        let bus = open(url).await.unwrap();
        topic(&bus, "t", 2).await;
        let options = SubscribeOptions { ack_wait: Duration::from_secs(5), ..SubscribeOptions::group("g") };
        let sub = bus.subscribe("t", &options).await.unwrap();
        Self { bus, sub, stored: BTreeSet::new(), acknowledged: BTreeSet::new(), published: 0 }
    }

    /// Some more messages than will be acknowledged, so that the queue isn't empty.
    async fn publish(&mut self, count: usize) {
        let started = Instant::now();
        let from = self.published;
        self.published += count;
        let mut open: Vec<usize> = (from..from + count).collect();
        for attempt in 0.. {
            // One that is sent again is another message: the first may have been stored.
            let texts: Vec<_> = open.iter().map(|n| format!("{n}:{attempt}")).collect();
            let messages = texts.iter().map(|text| Message::new(text.clone())).collect();
            let mut again = Vec::new();
            for ((n, text), answer) in
                open.into_iter().zip(texts).zip(publish(&self.bus, "t", messages).await)
            {
                match answer {
                    Ok(()) => _ = self.stored.insert(text),
                    Err(_) => again.push(n),
                }
            }
            open = again;
            if open.is_empty() {
                return;
            }
            assert!(started.elapsed() < BACK, "it takes no messages");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Takes `count`, none of which was acknowledged before.
    async fn take(&mut self, count: usize) -> Vec<Delivery> {
        let started = Instant::now();
        let mut taken = Vec::new();
        while taken.len() < count {
            assert!(started.elapsed() < BACK, "{} of {count} came", taken.len());
            // It may fail while the server is gone, and comes again.
            let batch = self.sub.next(count - taken.len(), Duration::from_secs(2)).await.unwrap_or_default();
            for delivery in &batch {
                let text = String::from_utf8_lossy(&delivery.message.payload).into_owned();
                assert!(!self.acknowledged.contains(&text), "{text} came again after it was acknowledged");
            }
            taken.extend(batch);
        }
        taken
    }

    /// Acknowledges in a way that needs many frames: not one after the other.
    async fn acknowledge(&mut self, taken: Vec<Delivery>) {
        let (odd, even): (Vec<_>, Vec<_>) = taken.into_iter().enumerate().partition(|(n, _)| n % 2 == 1);
        for part in [odd, even] {
            let batch = part.iter().map(|(_, delivery)| (delivery.receipt, Settle::Ack)).collect();
            for ((_, delivery), answer) in part.iter().zip(self.sub.settle(batch).await) {
                let text = String::from_utf8_lossy(&delivery.message.payload).into_owned();
                match answer {
                    Ok(()) => _ = self.acknowledged.insert(text),
                    // It came by a connection that was lost by then, and comes again.
                    Err(error) => {
                        assert!(matches!(error.kind(), Kind::Fenced | Kind::Unavailable), "{error:?}");
                    }
                }
            }
        }
    }

    /// Acknowledges, and does harm at once, `count` times to any purpose.
    async fn rounds(&mut self, count: usize, mut harm: impl FnMut()) {
        let mut done = 0;
        for tries in 0.. {
            let before = self.acknowledged.len();
            self.publish(120).await;
            let taken = self.take(80).await;
            self.acknowledge(taken).await;
            harm();
            done += usize::from(self.acknowledged.len() >= before + 80);
            if done == count {
                return;
            }
            assert!(tries < 3 * count, "{done} of {count} rounds were to any purpose");
        }
    }

    /// What is left comes, and nothing else.
    async fn finish(mut self) {
        let mut last = Instant::now();
        while last.elapsed() < Duration::from_secs(10) {
            for delivery in self.sub.next(500, Duration::from_secs(1)).await.unwrap_or_default() {
                let text = String::from_utf8_lossy(&delivery.message.payload).into_owned();
                assert!(!self.acknowledged.contains(&text), "{text} came again after it was acknowledged");
                if self.sub.settle(vec![(delivery.receipt, Settle::Ack)]).await.remove(0).is_ok() {
                    self.acknowledged.insert(text);
                }
                last = Instant::now();
            }
        }
        assert_eq!(self.stored.difference(&self.acknowledged).count(), 0, "some didn't come");
        self.sub.close(SOON).await.unwrap();
        self.bus.close().await.unwrap();
    }
}

fn victim() -> Running {
    linchpin_harness::find("rabbitmq").unwrap().start_unsynced().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_stays_so_when_the_server_is_killed() {
    let server = victim();
    let mut ledger = Ledger::open(&format!("{}?timeout=5s", server.url())).await;
    let harm = || {
        server.kill().unwrap();
        tokio::task::block_in_place(|| server.restart().unwrap());
    };
    ledger.rounds(rounds(3), harm).await;
    ledger.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_stays_so_when_the_link_is_cut() {
    let server = victim();
    let port = server.ports()[0];
    let link = Link::to(port).unwrap();
    let url = server.url().replace(&format!(":{port}"), &format!(":{}", link.port()));
    let mut ledger = Ledger::open(&format!("{url}?timeout=5s")).await;
    let harm = || {
        link.cut();
        link.mend();
    };
    ledger.rounds(rounds(30), harm).await;
    ledger.finish().await;
}

/// Who waits until a slow link has taken an acknowledgement is about to ask for more: nothing is put back meanwhile, which
/// costs what is just being published an attempt.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_acknowledgement_costs_no_attempts() {
    let server = victim();
    let port = server.ports()[0];
    let link = Link::to(port).unwrap();
    let (near, far) = (server.url(), server.url().replace(&format!(":{port}"), &format!(":{}", link.port())));
    let (near, far) = (open(near).await.unwrap(), open(&far).await.unwrap());
    topic(&near, "t", 2).await;
    let sub = far.subscribe("t", &SubscribeOptions::group("g")).await.unwrap();
    let publishing = tokio::spawn(async move {
        for n in 0.. {
            publish(&near, "t", vec![Message::new(n.to_string())]).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    link.slow_down(400);
    let mut slowest = Duration::ZERO;
    for _ in 0..12 {
        let batch = sub.next(16, SOON).await.unwrap();
        assert!(batch.iter().all(|d| d.attempt == 1), "{:?}", batch.iter().map(|d| d.attempt).max());
        let began = Instant::now();
        let acks = batch.iter().map(|delivery| (delivery.receipt, Settle::Ack)).collect();
        assert!(sub.settle(acks).await.iter().all(Result::is_ok));
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest > Duration::from_millis(300), "{slowest:?} is as good as at once");
    publishing.abort();
}
