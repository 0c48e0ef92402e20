//! What a member holds: on the shelf, and in hand.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;
use linchpin_core::bus::{Delivery, Order, Position, Receipt, SubscribeOptions};
use linchpin_core::{Error, Result, Timestamp};
use tokio::time::Instant;

use super::message::Stored;
use super::ordered::Owned;
use super::source::Source;

/// A message that came.
#[derive(Debug, Clone)]
pub(super) struct Parcel {
    pub(super) source: Arc<Source>,
    pub(super) tag: u64,
    pub(super) partition: u32,
    pub(super) stored: Stored,
    /// How often it was handed out before.
    pub(super) attempts: u32,
    /// How often the queue took it back.
    pub(super) returns: u32,
    /// Its place in the order it came in.
    pub(super) seq: u64,
    pub(super) fence: u64,
}

/// A delivery in hand.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) parcel: Parcel,
    pub(super) until: Instant,
    /// A settle is on its way.
    pub(super) settling: bool,
}

impl Held {
    /// How often it was handed out, this time included.
    pub(super) fn attempt(&self) -> u32 {
        self.parcel.attempts.saturating_add(1)
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) shelf: VecDeque<Parcel>,
    /// What came a little before it is due.
    pub(super) early: BTreeMap<(Timestamp, u64), Parcel>,
    pub(super) held: HashMap<u64, Held, RandomState>,
    /// No delivery in hand that isn't being settled lapses before.
    lapse: Option<Instant>,
    next_receipt: u64,
    came: u64,
    pub(super) owned: BTreeMap<u32, Owned>,
    turn: u32,
    /// `next` calls that wait, what the greediest of them asked for, and when the last one, or a settle, ended.
    pub(super) waiting: usize,
    pub(super) wanted: usize,
    pub(super) last_next: Option<Instant>,
    /// Settles under way: who waits for one is about to ask.
    pub(super) settles: usize,
    /// Looks that began and ended, counted: a look is over when all that was there when it began has come.
    pub(super) begun: u64,
    pub(super) look_for: u64,
    pub(super) done: u64,
    /// Something failed that will be tried again.
    pub(super) failed: Option<Error>,
    /// There is nothing left to be a member of.
    pub(super) gone: Option<Error>,
    pub(super) closed: bool,
    /// Dropped without being closed: it holds on to what it has until that lapses.
    pub(super) dropped: bool,
    /// The task is over, with this.
    pub(super) left: Option<Result<()>>,
}

impl State {
    /// The number of the next message that comes.
    pub(super) fn number(&mut self) -> u64 {
        self.came += 1;
        self.came
    }

    /// Hands out what may go.
    pub(super) fn take(&mut self, max: usize, options: &SubscribeOptions) -> Vec<Delivery> {
        let (now, time) = (Instant::now(), Timestamp::now());
        let mut out = Vec::new();
        if options.order == Order::None {
            self.ripen(time);
            while out.len() < max {
                let Some(parcel) = self.shelf.pop_front() else { break };
                out.push(self.hand_out(parcel, options, now));
            }
            return out;
        }
        // Partitions take turns to be first.
        let after: Vec<u32> = self.owned.range(self.turn..).map(|(p, _)| *p).collect();
        let before: Vec<u32> = self.owned.range(..self.turn).map(|(p, _)| *p).collect();
        self.turn = after.get(1).or(before.first()).copied().unwrap_or(0);
        for partition in after.into_iter().chain(before) {
            let Some(owned) = self.owned.get_mut(&partition).filter(|owned| !owned.leaving) else { continue };
            let taken = owned.gate.take(max - out.len(), time);
            owned.failed -= taken.iter().filter(|(_, parcel)| parcel.attempts > 0).count().min(owned.failed);
            for (_, parcel) in taken {
                out.push(self.hand_out(parcel, options, now));
            }
        }
        out
    }

    /// Puts a message where it waits to be handed out.
    pub(super) fn arrange(&mut self, parcel: Parcel, due: Option<Timestamp>, order: Order) {
        let due = due.unwrap_or(Timestamp::MIN);
        if order == Order::None {
            if due > Timestamp::now() {
                self.early.insert((due, parcel.seq), parcel);
            } else {
                self.shelf.push_back(parcel);
            }
        } else if let Some(owned) = self.owned.get_mut(&parcel.partition) {
            let key = parcel.stored.message.key.clone();
            owned.failed += usize::from(parcel.attempts > 0);
            owned.gate.insert(parcel.seq, key.as_ref(), due, parcel);
        }
    }

    /// Puts on the shelf what has become due.
    fn ripen(&mut self, time: Timestamp) {
        while let Some(first) = self.early.first_entry().filter(|first| first.key().0 <= time) {
            self.shelf.push_back(first.remove());
        }
    }

    fn hand_out(&mut self, parcel: Parcel, options: &SubscribeOptions, now: Instant) -> Delivery {
        let receipt = self.next_receipt;
        self.next_receipt += 1;
        let delivery = Delivery {
            message: parcel.stored.message.clone(),
            position: Position { partition: parcel.partition, offset: None },
            time: parcel.stored.time,
            attempt: parcel.attempts.saturating_add(1),
            fence: parcel.fence,
            receipt: Receipt(receipt),
        };
        self.hold(receipt, Held { parcel, until: now + options.ack_wait, settling: false });
        delivery
    }

    fn hold(&mut self, receipt: u64, held: Held) {
        self.lapse = Some(self.lapse.map_or(held.until, |lapse| lapse.min(held.until)));
        self.held.insert(receipt, held);
    }

    /// A settle has its answer; `back` if it was to be handed out again.
    pub(super) fn finish(&mut self, receipt: u64, back: bool, settled: bool) {
        let Some(held) = self.held.remove(&receipt) else { return };
        if settled && back {
            // Its gate has it again, or handed it out again.
        } else if settled {
            let parcel = &held.parcel;
            if let Some(owned) = self.owned.get_mut(&parcel.partition).filter(|o| o.fence == parcel.fence) {
                owned.gate.settled(parcel.seq);
            }
        } else if !held.parcel.source.is_broken() {
            self.hold(receipt, Held { settling: false, ..held });
        }
    }

    /// Takes out deliveries whose time ran out.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<Held> {
        if self.lapse.is_none_or(|lapse| lapse > now) {
            return Vec::new();
        }
        let late = |held: &mut Held| !held.settling && held.until <= now;
        let late = self.held.extract_if(|_, held| late(held)).map(|(_, held)| held).collect();
        self.lapse = self.held.values().filter(|held| !held.settling).map(|held| held.until).min();
        late
    }

    /// Since when nobody has asked; `None` while somebody does, or is about to.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        self.last_next.filter(|_| self.waiting == 0 && self.settles == 0)
    }

    /// When the next one lapses, or becomes due.
    pub(super) fn next_event(&self) -> Option<Instant> {
        let time = Timestamp::now();
        let gates = self.owned.values().filter_map(|owned| owned.gate.next_due(time)).min();
        let due = self.early.keys().next().map(|(due, _)| *due).into_iter().chain(gates).min();
        let due = due.map(|due| Instant::now() + linchpin_core::time::since(due, time));
        self.lapse.into_iter().chain(due).min()
    }

    /// Whether something may be handed out, by what time it is.
    pub(super) fn is_ready(&self) -> bool {
        let time = Timestamp::now();
        !self.shelf.is_empty() || self.early.keys().next().is_some_and(|(due, _)| *due <= time)
    }

    /// What came from this source is lost: it comes again, to whoever.
    pub(super) fn lose(&mut self, source: u64) {
        self.shelf.retain(|parcel| parcel.source.id != source);
        self.early.retain(|_, parcel| parcel.source.id != source);
        self.held.retain(|_, held| held.parcel.source.id != source);
        self.owned.retain(|_, owned| owned.source.id != source);
    }

    pub(super) fn lose_all(&mut self) {
        self.shelf.clear();
        self.early.clear();
        self.held.clear();
        self.owned.clear();
    }

    /// Messages that are in hand, or were fetched ahead.
    pub(super) fn holds(&self) -> usize {
        let gates: usize = self.owned.values().map(|owned| owned.gate.len()).sum();
        self.held.len() + self.shelf.len() + self.early.len() + gates
    }
}
