//! The server dies, freezes, or can't be reached, and comes back: what was answered still holds.

use std::collections::BTreeSet;
use std::time::Duration;

use linchpin::Retry;
use linchpin::bus::{Bus, Message, SubscribeOptions};
use tokio::time::{Instant, sleep, timeout};

use crate::tools::*;
use crate::world::World;

/// How soon everything must work again once the server does.
const BACK: Duration = Duration::from_secs(60);
/// How long a call may take on a server that is gone: its timeout is 3 s.
const TOLD: Duration = Duration::from_secs(8);
/// Longer than clients take to notice anything.
const FROZEN: Duration = Duration::from_secs(4);

/// What became of messages that were published while the server came and went.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Answered `Ok`.
    stored: BTreeSet<String>,
    /// Answered with an error that says it wasn't stored.
    refused: BTreeSet<String>,
    /// Settled, and the settling was answered `Ok`.
    settled: BTreeSet<String>,
    seen: BTreeSet<String>,
}

impl Ledger {
    /// Publishes the numbers until each was answered `Ok`. A number that is sent again is another message, so that every
    /// answer can be held against what arrives.
    pub(super) async fn publish(&mut self, bus: &Bus, numbers: std::ops::Range<u64>) {
        let started = Instant::now();
        let mut open: Vec<u64> = numbers.collect();
        for attempt in 0.. {
            let texts: Vec<_> = open.iter().map(|n| format!("{n}:{attempt}")).collect();
            let messages = texts.iter().map(|text| Message::new(text.clone())).collect();
            let answers = bus.engine().publish("t", messages, &Default::default()).await;
            let mut again = Vec::new();
            let failure = answers.iter().find_map(|answer| answer.as_ref().err()).cloned();
            for ((number, text), answer) in open.into_iter().zip(texts).zip(answers) {
                if self.note(text, answer.map(drop)) {
                    again.push(number);
                }
            }
            open = again;
            if open.is_empty() {
                return;
            }
            let late = started.elapsed() >= BACK;
            assert!(!late, "{} messages not stored after {BACK:?}: {failure:?}", open.len());
            sleep(MOMENT).await;
        }
    }

    /// Whether it must be sent again.
    fn note(&mut self, text: String, answer: linchpin::Result<()>) -> bool {
        let Err(error) = answer else {
            self.stored.insert(text);
            return false;
        };
        match error.retry() {
            Retry::Safe { .. } => _ = self.refused.insert(text),
            Retry::Unknown | Retry::Exhausted => {}
            Retry::Never => panic!("a passing outage is no reason never to try again: {error}"),
        }
        true
    }

    /// Takes and acknowledges until all that was stored was settled.
    pub(super) async fn consume(&mut self, sub: &Sub) {
        let mut last = Instant::now();
        while !self.stored.is_subset(&self.settled) {
            let missing = self.stored.difference(&self.settled).count();
            assert!(last.elapsed() < BACK, "{missing} of {} didn't come within {BACK:?}", self.stored.len());
            if self.step(sub, 500, SOON / 10).await > 0 {
                last = Instant::now();
            }
        }
    }

    /// One fetch and its acknowledgement; either may fail while the server is gone. Says how many were settled.
    pub(super) async fn step(&mut self, sub: &Sub, max: usize, wait: Duration) -> usize {
        let batch = match timeout(wait + TOLD, sub.next(max, wait)).await.expect("a fetch ends in time") {
            Ok(batch) => batch,
            Err(_) => {
                sleep(MOMENT).await;
                return 0;
            }
        };
        for delivery in &batch {
            let text = text(delivery).to_owned();
            assert!(!self.settled.contains(&text), "{text} came again after it was acknowledged");
            assert!(!self.refused.contains(&text), "{text} came, though publishing said it wasn't stored");
            self.seen.insert(text);
        }
        let acks = batch.iter().map(|d| (d.receipt, linchpin::bus::Settle::Ack)).collect();
        let answers = timeout(TOLD, sub.settle(acks)).await.expect("settling ends in time");
        let settled = batch.iter().zip(answers).filter(|(_, answer)| answer.is_ok());
        let settled: Vec<_> = settled.map(|(delivery, _)| text(delivery).to_owned()).collect();
        let count = settled.len();
        self.settled.extend(settled);
        count
    }
}

/// A group whose leases are short against an outage.
pub(super) fn patient(name: &str) -> SubscribeOptions {
    SubscribeOptions { ack_wait: Duration::from_secs(5), ..group(name) }
}

/// Publishes and consumes at once, 10,000 in all; the server is harmed at a third and at half of them.
async fn work_through(w: &World, cut: bool) {
    w.topic("t", 4).await;
    let sub = join(&w.bus, "t", &patient("g")).await;
    let mut ledger = Ledger::default();
    for (from, until) in [(0, 3_333), (3_333, 5_000), (5_000, 10_000)] {
        if from > 0 && cut {
            w.server().cut();
            sleep(MOMENT * 5).await;
            w.server().mend();
        } else if from > 0 {
            w.server().kill().await;
            w.server().restart().await;
        }
        for chunk in (from..until).step_by(500) {
            ledger.publish(&w.bus, chunk..(chunk + 500).min(until)).await;
            ledger.step(&sub, 400, MOMENT / 10).await;
        }
    }
    ledger.consume(&sub).await;
    assert!(ledger.stored.len() >= 10_000);
}

pub(super) async fn ten_thousand_survive_kills_of_the_server(w: World) {
    work_through(&w, false).await;
}

pub(super) async fn cut_connections_lose_nothing(w: World) {
    work_through(&w, true).await;
}

pub(super) async fn publishing_during_an_outage_fails_or_persists(w: World) {
    w.topic("t", 4).await;
    let sub = join(&w.bus, "t", &patient("g")).await;
    let mut ledger = Ledger::default();
    ledger.publish(&w.bus, 0..10).await;
    w.server().kill().await;
    for n in 0..3 {
        let text = format!("lost:{n}");
        let answer = timeout(TOLD, w.bus.publish("t", Message::new(text.clone()))).await;
        let answer = answer.expect("a publisher is told within its timeout");
        assert!(answer.is_err(), "there was nobody who could have stored it");
        ledger.note(text, answer.map(drop));
    }
    w.server().restart().await;
    ledger.publish(&w.bus, 10..20).await;
    ledger.consume(&sub).await;
    // What may have been stored would have come by now, and what wasn't didn't: `step` looks at each.
    ledger.step(&sub, 100, MOMENT).await;
}

pub(super) async fn a_frozen_server_is_told_of_and_loses_nothing(w: World) {
    w.topic("t", 4).await;
    let sub = join(&w.bus, "t", &patient("g")).await;
    let mut ledger = Ledger::default();
    ledger.publish(&w.bus, 0..100).await;
    w.server().freeze().await;
    let started = Instant::now();
    let answer = timeout(TOLD, w.bus.publish("t", Message::new("frozen:0"))).await;
    ledger.note("frozen:0".into(), answer.expect("a publisher is told within its timeout").map(drop));
    ledger.step(&sub, 10, MOMENT).await;
    sleep(FROZEN.saturating_sub(started.elapsed())).await;
    w.server().thaw().await;
    ledger.publish(&w.bus, 100..200).await;
    ledger.consume(&sub).await;
    ledger.step(&sub, 100, MOMENT).await;
}

pub(super) async fn progress_survives_a_kill_of_the_server(w: World) {
    w.topic("t", 1).await;
    let sub = join(&w.bus, "t", &patient("g")).await;
    publish(&w.bus, "t", 0..10).await;
    let held = take(&sub, 10).await;
    ack(&sub, &held[..4]).await;
    nack(&sub, &held[4], Duration::ZERO).await;
    w.server().kill().await;
    w.server().restart().await;
    let started = Instant::now();
    let mut again = BTreeSet::new();
    while again.len() < 6 {
        assert!(started.elapsed() < BACK, "only {again:?} came back");
        for delivery in sub.next(10, SOON / 10).await.unwrap_or_default() {
            assert!(number(&delivery) >= 4, "{} was acknowledged", number(&delivery));
            assert!(delivery.attempt >= 2, "{} was handed out before", number(&delivery));
            again.insert(number(&delivery));
        }
    }
}
