//! A member under an order: it owns partitions, reads them ahead into gates, and writes down what it hands out.

mod fill;
mod mark;
mod round;
mod share;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use linchpin_core::Timestamp;
use linchpin_core::bus::{Gate, Message, Order};
use linchpin_core::time::{from_millis, plus, since};

use super::entry::EntryId;
use super::member::Member;
use super::state::{Grip, State};

/// An entry that waits: its id, its attempts, when it is due.
type Waits = (EntryId, u32, i64);

/// The partitions a member owns.
#[derive(Debug)]
pub(super) struct Ordered {
    order: Order,
    owned: BTreeMap<u32, Owned>,
    look_at: Instant,
    renew_at: Instant,
    /// It told the others that it wants no partitions, since nobody calls `next`.
    idle: bool,
    /// The server's clock, when it was read, in milliseconds.
    clock: (i64, Instant),
    turn: usize,
}

/// An owned partition.
///
/// Invariant: each pending entry is in `backlog`, in the gate, on the shelf or in hand; those in the gate come before
/// those in `backlog`.
#[derive(Debug)]
struct Owned {
    fence: u64,
    epoch: i64,
    gate: Gate<Item>,
    /// What waited when the partition was taken and isn't in the gate yet.
    backlog: VecDeque<Waits>,
    /// When to read again, after nothing was there.
    read_at: Instant,
    /// To be handed over as soon as nothing is out.
    leaving: bool,
}

/// A message in a gate.
#[derive(Debug)]
struct Item {
    id: EntryId,
    message: Message,
    attempts: u32,
}

/// What to hand out of one partition.
struct Picks {
    partition: u32,
    fence: u64,
    epoch: i64,
    items: Vec<Item>,
}

impl Ordered {
    pub(super) fn new(order: Order) -> Self {
        let now = Instant::now();
        Self {
            order,
            owned: BTreeMap::new(),
            look_at: now,
            renew_at: now,
            idle: false,
            clock: (0, now),
            turn: 0,
        }
    }

    fn heard(&mut self, now: i64) {
        self.clock = (now, Instant::now());
    }

    /// The server's time of day, or a little less.
    fn now(&self) -> Timestamp {
        plus(from_millis(self.clock.0), self.clock.1.elapsed())
    }

    pub(super) fn done(&mut self, grip: &Grip) {
        if let Some(owned) = self.owned.get_mut(&grip.partition).filter(|owned| owned.fence == grip.fence) {
            owned.gate.settled(grip.id.offset());
        }
    }

    /// A message waits again in its gate.
    pub(super) fn wait_again(&mut self, grip: &Grip, message: Message, attempts: u32, due: Timestamp) {
        if let Some(owned) = self.owned.get_mut(&grip.partition).filter(|owned| owned.fence == grip.fence) {
            owned.put(grip.id, message, attempts, due);
        }
    }

    pub(super) fn forget_all(&mut self) {
        self.owned.clear();
        self.look_at = Instant::now();
    }

    /// Gives up every partition: number and fence of each.
    pub(super) fn take_all(&mut self) -> Vec<(u32, u64)> {
        std::mem::take(&mut self.owned).into_iter().map(|(n, owned)| (n, owned.fence)).collect()
    }

    fn pick(&mut self, max: usize) -> Vec<Picks> {
        let now = self.now();
        self.turn = self.turn.wrapping_add(1);
        let count = self.owned.len();
        let first = self.turn.checked_rem(count).unwrap_or(0);
        let parts: Vec<u32> = self.owned.keys().copied().cycle().skip(first).take(count).collect();
        let mut left = max;
        let mut out = Vec::new();
        for partition in parts {
            let Some(owned) = self.owned.get_mut(&partition).filter(|owned| !owned.leaving && left > 0)
            else {
                continue;
            };
            let items: Vec<Item> = owned.gate.take(left, now).into_iter().map(|(_, item)| item).collect();
            left -= items.len();
            if !items.is_empty() {
                out.push(Picks { partition, fence: owned.fence, epoch: owned.epoch, items });
            }
        }
        out
    }

    fn next_due(&self) -> Option<Duration> {
        let now = self.now();
        let due =
            self.owned.values().filter(|owned| !owned.leaving).filter_map(|o| o.gate.next_due(now)).min();
        due.map(|due| since(due, now))
    }

    fn held(&self) -> usize {
        self.owned.values().map(|owned| owned.gate.len()).sum()
    }
}

impl Owned {
    fn put(&mut self, id: EntryId, message: Message, attempts: u32, due: Timestamp) {
        let key = message.key.clone();
        self.gate.insert(id.offset(), key.as_ref(), due, Item { id, message, attempts });
    }
}

impl State {
    fn ordered(&mut self) -> Option<&mut Ordered> {
        self.ordered.as_mut()
    }

    /// Whether something of the partition is on the shelf or in hand.
    fn is_out(&self, partition: u32) -> bool {
        self.shelf.iter().any(|parcel| parcel.grip.partition == partition)
            || self.held.values().any(|held| held.grip.partition == partition)
    }

    /// Forgets a partition that another owns now.
    fn lose(&mut self, partition: u32) {
        self.shelf.retain(|parcel| parcel.grip.partition != partition);
        if let Some(ordered) = self.ordered() {
            ordered.owned.remove(&partition);
        }
    }
}
