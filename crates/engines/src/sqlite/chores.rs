//! What the writer thread does by itself: looking after subscriptions, delayed messages, retention.

use std::time::{Duration, Instant};

use super::tx::{Step, Tx};
use super::worker::Worker;
use super::{append, group, retain, topic};
use crate::relational::hub::Hub;

/// How often it looks after subscriptions and delayed messages, while there are subscriptions.
const TICK: Duration = Duration::from_millis(100);
/// How often without subscriptions, and how often for retention.
const IDLE: Duration = Duration::from_secs(1);
/// Messages moved or deleted in one transaction.
const STEP: u64 = 1000;
/// Topics looked at in one round of retention.
const TOPICS: i64 = 32;

#[derive(Debug)]
pub(super) struct Chores {
    tick_at: Instant,
    retain_at: Instant,
    /// The last topic whose retention was applied.
    topic: i64,
    /// Whether there is a bus to look after.
    any: bool,
}

/// How often a handle without chores looks for some.
const NEVER: Duration = Duration::from_secs(3600);

impl Chores {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { tick_at: now, retain_at: now, topic: 0, any: true }
    }

    /// For a handle that isn't a bus.
    pub(super) fn none() -> Self {
        Self { any: false, ..Self::new() }
    }

    /// How long there is nothing to do.
    pub(super) fn pause(&self, hub: &Hub) -> Duration {
        if !self.any {
            return NEVER;
        }
        let tick_at = if hub.any_members() { self.tick_at } else { self.tick_at + IDLE - TICK };
        tick_at.saturating_duration_since(Instant::now())
    }

    /// Does what is due.
    pub(super) fn run(&mut self, hub: &Hub, worker: &mut Worker) {
        let now = Instant::now();
        if !self.any || now < self.tick_at {
            return;
        }
        hub.members().iter().for_each(|member| member.tick(now));
        let mut more = worker.chore(|tx| append::move_due(tx, STEP)).unwrap_or(false);
        if now >= self.retain_at {
            let after = self.topic;
            let swept = worker.chore(|tx| sweep(tx, after));
            let (last, left) = swept.unwrap_or((after, false));
            self.topic = last;
            self.retain_at = if left { now } else { now + IDLE };
            more |= left;
        }
        self.tick_at = if more { now } else { now + TICK };
    }
}

/// Retention of the next topics, and what removed topics and dead members left. Says which topic was the last, and
/// whether there is more to do at once.
fn sweep(tx: &Tx<'_>, after: i64) -> Step<(i64, bool)> {
    let topics = topic::retained(tx.conn(), after, TOPICS)?;
    let mut more = topic::sweep(tx, STEP)?;
    for topic in &topics {
        more |= retain::step(tx, topic, STEP)? >= STEP;
    }
    group::collect(tx)?;
    let all = topics.len() < usize::try_from(TOPICS).unwrap_or(usize::MAX);
    // What isn't finished is looked at first next time.
    let last = if more { after } else { topics.last().filter(|_| !all).map_or(0, |topic| topic.id) };
    Ok((last, more))
}
