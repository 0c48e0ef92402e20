//! Taking: what is picked to be handed out is written down first.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use linchpin_core::Result;
use linchpin_core::bus::{NO_REPLY, Order};
use linchpin_core::time::from_millis;
use tokio::time::Instant;

use super::hold::Item;
use super::ledger::{Fate, Terms, Verdict};
use super::member::{Flight, Member, Ready};

/// What is picked from one partition.
pub(super) struct Taking {
    pub(super) partition: u32,
    pub(super) fence: u64,
    pub(super) picks: Vec<(u64, Item)>,
    pub(super) passed: Vec<u64>,
}

impl Member {
    pub(super) async fn take(self: Arc<Self>, taking: Taking) {
        let count = taking.picks.len();
        let (partition, fence) = (taking.partition, taking.fence);
        let outcome = self.try_take(taking).await;
        let mut state = self.lock();
        state.taking -= count;
        if let Some(hold) = state.under(partition, fence) {
            hold.taking = false;
        }
        match outcome {
            Ok(ready) => state.shelve(ready),
            Err(e) => self.fail(&mut state, e),
        }
        self.nudge_if_leaving(&state);
        drop(state);
        self.changed.notify_waiters();
    }

    async fn try_take(&self, taking: Taking) -> Result<Vec<Ready>> {
        let Taking { partition, fence, picks, passed } = taking;
        let Some(page) = self.pages.get(partition as usize) else { return Ok(Vec::new()) };
        let clock = &self.core.clock;
        let (now, due) = (clock.earliest(), clock.after(self.options.ack_wait));
        let until = Instant::now() + self.options.ack_wait;
        let terms = Terms { member: self.id, fence, due, max: self.options.max_attempts };
        let offsets: Vec<_> = picks.iter().map(|(offset, _)| *offset).collect();
        let last = offsets.iter().chain(&passed).max().copied().unwrap_or_default();
        let edit = page.edit(move |ledger| (ledger.epoch, ledger.take(terms, &offsets, &passed, now)));
        let (epoch, verdicts) = match edit.await {
            Ok((epoch, Some(verdicts))) => (epoch, verdicts),
            Ok((_, None)) => {
                self.lose(partition, fence);
                return Ok(Vec::new());
            }
            Err(e) => {
                self.put_back(partition, fence, picks);
                return Err(e);
            }
        };
        let flight = |offset, attempt, key| Flight { partition, offset, attempt, epoch, due: until, key };
        let (taken, hopeless) = self.sort(picks, verdicts, flight, partition, fence, last);
        self.bury_silent(&hopeless).await;
        self.complete(fence, taken).await
    }

    /// Sorts picks by what became of them; those that stay go back into the gate.
    fn sort(
        &self,
        picks: Vec<(u64, Item)>,
        verdicts: Vec<(u64, Verdict)>,
        flight: impl Fn(u64, u32, Option<Bytes>) -> Flight,
        partition: u32,
        fence: u64,
        last: u64,
    ) -> (Vec<(Flight, Item)>, Vec<Flight>) {
        let mut taken = Vec::with_capacity(picks.len());
        let mut hopeless = Vec::new();
        let mut state = self.lock();
        let mut hold = state.under(partition, fence);
        if let Some(hold) = &mut hold {
            hold.moved(last);
        }
        for ((offset, item), (_, verdict)) in picks.into_iter().zip(verdicts) {
            let key = item.key().cloned();
            match (verdict, &mut hold) {
                (Verdict::Taken(attempt), _) => taken.push((flight(offset, attempt, key), item)),
                (Verdict::Hopeless(attempt), _) => hopeless.push(flight(offset, attempt, key)),
                (Verdict::Later(due), Some(hold)) => hold.insert(offset, from_millis(due), item),
                (Verdict::Settled, Some(hold)) => hold.settled(offset),
                (_, None) => {}
            }
        }
        (taken, hopeless)
    }

    /// Reads what was taken and isn't here. What can't be read goes back, under an order with all else that was taken;
    /// what isn't there any more is done with.
    async fn complete(&self, fence: u64, taken: Vec<(Flight, Item)>) -> Result<Vec<Ready>> {
        let mut ready = Vec::with_capacity(taken.len());
        let ordered = self.options.order != Order::None;
        let fence = if ordered { fence } else { 0 };
        let mut absent = Vec::new();
        for (flight, item) in taken {
            match item {
                Item::Here(read) => ready.push(Ready { read: *read, flight, fence }),
                Item::There(_) => absent.push(flight),
            }
        }
        let (mut failed, mut settles) = (None, Vec::new());
        for some in absent.chunks(64) {
            let reads = join_all(some.iter().map(|flight| self.core.fetch(&self.topic, flight.offset))).await;
            for (flight, read) in some.iter().cloned().zip(reads) {
                match read {
                    Ok(Some(read)) => {
                        let flight = Flight { key: read.message.key.clone(), ..flight };
                        ready.push(Ready { read, flight, fence });
                    }
                    Ok(None) => settles.push((flight, Fate::Done)),
                    Err(e) => {
                        settles.push((flight, Fate::Unused));
                        failed = Some(e);
                    }
                }
            }
        }
        if failed.is_some() && ordered {
            settles.extend(ready.drain(..).map(|ready| (ready.flight, Fate::Unused)));
        }
        if !settles.is_empty()
            && let Err(e) = self.settle_flights(&settles).await
        {
            let gone = settles.into_iter().filter(|(_, fate)| matches!(fate, Fate::Done));
            self.lock().lapse(gone.map(|(flight, _)| flight));
            failed = Some(e);
        }
        match failed {
            Some(e) if ready.is_empty() => Err(e),
            _ => {
                ready.sort_by_key(|ready| ready.flight.offset);
                Ok(ready)
            }
        }
    }

    /// Another owns the partition: what was read of it is his.
    pub(super) fn lose(&self, partition: u32, fence: u64) {
        let mut state = self.lock();
        if state.under(partition, fence).is_some()
            && let Some(hold) = state.holds.get_mut(partition as usize)
        {
            *hold = None;
        }
    }

    fn put_back(&self, partition: u32, fence: u64, picks: Vec<(u64, Item)>) {
        let mut state = self.lock();
        if let Some(hold) = state.under(partition, fence) {
            let now = self.core.clock.now();
            picks.into_iter().for_each(|(offset, item)| hold.put_back(offset, now, item));
        }
    }

    async fn bury_silent(&self, hopeless: &[Flight]) {
        for flight in hopeless {
            let buried = self.bury(flight, NO_REPLY).await;
            let Some(page) = self.pages.get(flight.partition as usize) else { continue };
            let (offset, attempt) = (flight.offset, flight.attempt);
            let done = match buried {
                Ok(()) => page.edit(move |ledger| ledger.bury(offset, attempt)).await,
                Err(e) => Err(e),
            };
            let mut state = self.lock();
            match (done, state.home(flight)) {
                (Ok(()), Some(hold)) => hold.settled(offset),
                (Err(_), Some(hold)) => {
                    hold.insert(offset, self.core.clock.now(), Item::There(flight.key.clone()));
                }
                (_, None) => {}
            }
        }
    }
}
