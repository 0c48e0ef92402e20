//! Settling what is in hand, and taking back what wasn't settled in time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use linchpin_core::bus::{NO_REPLY, Order, Receipt, Settle};
use linchpin_core::{Result, Timestamp};
use tokio::time::Instant;

use super::core::lock;
use super::delay::after;
use super::error;
use super::member::Member;
use super::source::Source;
use super::state::{Held, Parcel};

/// What is done with the deliveries of one source, by the place of each in the batch.
#[derive(Default)]
struct Work {
    source: Option<Arc<Source>>,
    done: Vec<(usize, u64, u64)>,
    back: Vec<(usize, u64, Duration)>,
    dead: Vec<(usize, u64, String)>,
}

impl Member {
    pub(super) async fn settle(&self, batch: Vec<(Receipt, Settle)>) -> Vec<Result<()>> {
        let mut answers: Vec<Result<()>> = vec![Ok(()); batch.len()];
        let work = self.sort(batch, &mut answers);
        let each = work.into_values().map(|work| self.carry_out(work));
        let settled = futures_util::future::join_all(each).await;
        let mut state = lock(&self.state);
        for (at, receipt, back, result) in settled.into_iter().flatten() {
            state.finish(receipt, back, result.is_ok());
            if let Some(answer) = answers.get_mut(at) {
                *answer = result.map_err(|e| e.op("settle").with("topic", &self.topic.name));
            }
        }
        drop(state);
        self.changed.notify_waiters();
        self.asked.notify_one();
        answers
    }

    /// Says by source what is to be done; what can be answered at once, is.
    fn sort(&self, batch: Vec<(Receipt, Settle)>, answers: &mut [Result<()>]) -> BTreeMap<u64, Work> {
        let mut work: BTreeMap<u64, Work> = BTreeMap::new();
        let now = Instant::now();
        let closed = self.core.check_open().err();
        let mut state = lock(&self.state);
        for ((at, (Receipt(receipt), how)), answer) in batch.into_iter().enumerate().zip(answers) {
            if let Some(closed) = &closed {
                *answer = Err(closed.clone().op("settle"));
                continue;
            }
            let held = state.held.get_mut(&receipt);
            let held =
                held.filter(|held| !held.settling && held.until > now && !held.parcel.source.is_broken());
            let Some(held) = held else {
                *answer = Err(error::fenced().op("settle"));
                continue;
            };
            if how == Settle::Extend {
                held.until = now + self.options.ack_wait;
                continue;
            }
            held.settling = true;
            let source = &held.parcel.source;
            let to_do = work.entry(source.id).or_default();
            to_do.source = Some(source.clone());
            match how {
                Settle::Nack { delay, .. } if held.attempt() < self.options.max_attempts => {
                    to_do.back.push((at, receipt, delay));
                }
                Settle::Nack { reason, .. } | Settle::Dead { reason } => {
                    to_do.dead.push((at, receipt, reason));
                }
                Settle::Ack | Settle::Extend => to_do.done.push((at, receipt, held.parcel.tag)),
            }
        }
        work
    }

    async fn carry_out(&self, work: Work) -> Vec<(usize, u64, bool, Result<()>)> {
        let Work { source: Some(source), done, back, dead } = work else { return Vec::new() };
        let mut results = Vec::new();
        if !done.is_empty() {
            let tags: Vec<u64> = done.iter().map(|(.., tag)| *tag).collect();
            let result = source.done(&tags).await;
            results.extend(done.into_iter().map(|(at, receipt, _)| (at, receipt, false, result.clone())));
        }
        if !dead.is_empty() {
            let held: Vec<Held> = dead.iter().filter_map(|(_, receipt, _)| self.twin(*receipt)).collect();
            let letters = held.iter().zip(dead.iter().map(|(.., reason)| reason.as_str())).collect();
            let result = self.bury(&source, letters).await;
            results.extend(dead.into_iter().map(|(at, receipt, _)| (at, receipt, false, result.clone())));
        }
        if !back.is_empty() {
            let now = Timestamp::now();
            let parcels = back.iter().filter_map(|(_, receipt, delay)| {
                let held = self.twin(*receipt)?;
                let due = (!delay.is_zero()).then(|| after(now, *delay));
                Some((held.parcel.clone(), held.attempt(), due))
            });
            let result = self.put_back(parcels.collect()).await;
            results.extend(back.into_iter().map(|(at, receipt, _)| (at, receipt, true, result.clone())));
        }
        results
    }

    /// A copy of what is in hand; the original stays where it is until it is settled.
    fn twin(&self, receipt: u64) -> Option<Held> {
        let state = lock(&self.state);
        let held = state.held.get(&receipt)?;
        Some(Held { parcel: held.parcel.clone(), until: held.until, settling: true })
    }

    /// What failed comes again, no sooner than it is due.
    async fn put_back(&self, back: Vec<(Parcel, u32, Option<Timestamp>)>) -> Result<()> {
        if self.slot.is_none() {
            self.keep(back);
            return Ok(());
        }
        if self.options.order == Order::None {
            return self.give_back(back).await;
        }
        // In place: what follows waits for it. The note tells who comes next, should this member die.
        let Some((first, ..)) = back.first() else { return Ok(()) };
        let (source, partition, fence) = (first.source.clone(), first.partition, first.fence);
        let facts = back.iter().map(|(parcel, attempts, due)| parcel.fact(*attempts, parcel.returns, *due));
        let note = self.note(partition, fence, facts.collect())?;
        source.store(vec![note]).await?;
        self.keep(back);
        Ok(())
    }

    /// Puts messages back in memory, where they are nobody else's.
    fn keep(&self, back: Vec<(Parcel, u32, Option<Timestamp>)>) {
        let mut state = lock(&self.state);
        for (mut parcel, attempts, due) in back {
            (parcel.attempts, parcel.stored.due) = (attempts, due);
            state.arrange(parcel, due, self.options.order);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// What wasn't settled in time comes again; after the last attempt it is buried.
    pub(super) async fn reap(&self) -> Result<()> {
        let late = lock(&self.state).overdue(Instant::now());
        if late.is_empty() {
            return Ok(());
        }
        let last = self.options.max_attempts;
        let (dead, back): (Vec<Held>, Vec<Held>) = late.into_iter().partition(|held| held.attempt() >= last);
        let mut by_source: BTreeMap<(u64, bool), Vec<Held>> = BTreeMap::new();
        for (held, is_dead) in dead.into_iter().map(|h| (h, true)).chain(back.into_iter().map(|h| (h, false)))
        {
            by_source.entry((held.parcel.source.id, is_dead)).or_default().push(held);
        }
        let mut result = Ok(());
        for ((_, is_dead), held) in by_source {
            result = result.and(self.take_back(held, is_dead).await);
        }
        result
    }

    async fn take_back(&self, held: Vec<Held>, is_dead: bool) -> Result<()> {
        let Some(source) = held.first().map(|held| held.parcel.source.clone()) else { return Ok(()) };
        let done = if is_dead {
            let buried = self.bury(&source, held.iter().map(|held| (held, NO_REPLY)).collect()).await;
            let mut state = lock(&self.state);
            for held in held.iter().filter(|_| buried.is_ok()) {
                if let Some(owned) = state.owned.get_mut(&held.parcel.partition) {
                    owned.gate.settled(held.parcel.seq);
                }
            }
            buried
        } else {
            let back = held.into_iter().map(|held| (held.parcel.clone(), held.attempt(), None));
            self.put_back(back.collect()).await
        };
        self.changed.notify_waiters();
        done.inspect_err(|_| {
            // Its fate is unknown here, and known to the queue: it comes again from there.
            source.fail();
        })
    }
}
