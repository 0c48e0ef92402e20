//! A partition that a member owns: what it read, in the order it may be handed out.

use std::collections::BTreeSet;

use bytes::Bytes;
use linchpin_core::Timestamp;
use linchpin_core::bus::{Gate, Order};

use super::reader::{Read, Reader};

/// Messages that may wait in the gate of a partition behind others of their key; what lies behind them isn't read.
const WINDOW: usize = 8192;

/// A message on its way to be handed out.
#[derive(Debug)]
pub(super) enum Item {
    Here(Box<Read>),
    /// To be read when it is handed out, and its key.
    There(Option<Bytes>),
}

impl Item {
    pub(super) fn key(&self) -> Option<&Bytes> {
        match self {
            Self::Here(read) => read.message.key.as_ref(),
            Self::There(key) => key.as_ref(),
        }
    }
}

/// What is to be handed out, and the offsets between that must wait.
pub(super) type Picked = (Vec<(u64, Item)>, Vec<u64>);

#[derive(Debug)]
pub(super) struct Hold {
    pub(super) fence: u64,
    /// Of the ledger: what was handed out in another isn't of this.
    pub(super) epoch: u64,
    /// A write about what is handed out next is on its way.
    pub(super) taking: bool,
    /// Nothing more is handed out: the partition goes to another.
    pub(super) leaving: bool,
    /// Nothing waits for anything else.
    free: bool,
    gate: Gate<Item>,
    reader: Reader,
    /// What went into the gate and isn't below the ledger's cursor.
    unread: BTreeSet<u64>,
}

impl Hold {
    pub(super) fn new(fence: u64, epoch: u64, order: Order, reader: Reader) -> Self {
        let (gate, unread) = (Gate::new(order), BTreeSet::new());
        let free = order == Order::None;
        Self { fence, epoch, taking: false, leaving: false, free, gate, reader, unread }
    }

    /// Puts in what is to be handed out from `due` on.
    pub(super) fn insert(&mut self, offset: u64, due: Timestamp, item: Item) {
        let key = item.key().cloned();
        self.gate.insert(offset, key.as_ref(), due, item);
    }

    /// Puts back what was picked, and not written down.
    pub(super) fn put_back(&mut self, offset: u64, now: Timestamp, item: Item) {
        self.unread.insert(offset);
        self.insert(offset, now, item);
    }

    /// Takes up to `max` that were never handed out, of a partition without order: taken before they are asked for, they are
    /// one attempt further if this process dies, so it must be their first. What is in the gate comes before them.
    pub(super) fn pick_new(&mut self, max: usize, _now: Timestamp) -> Picked {
        let mut picks = Vec::new();
        while picks.len() < max && self.gate.is_empty() {
            let Some(pick) = self.read() else { break };
            picks.push(pick);
        }
        (picks, Vec::new())
    }

    fn read(&mut self) -> Option<(u64, Item)> {
        let read = self.reader.came.try_recv().ok()?;
        Some((read.offset, Item::Here(Box::new(read))))
    }

    /// Takes up to `max` that may leave now, and says which others were passed.
    pub(super) fn pick(&mut self, max: usize, now: Timestamp) -> Picked {
        let mut picks = self.gate.take(max, now);
        while picks.len() < max && !self.gate.is_shut() && self.gate.len() < WINDOW {
            let Some((offset, item)) = self.read() else { break };
            if self.free && self.gate.is_empty() {
                // It would leave at once.
                picks.push((offset, item));
                continue;
            }
            self.unread.insert(offset);
            self.insert(offset, Timestamp::MIN, item);
            picks.append(&mut self.gate.take(max - picks.len(), now));
        }
        let mut picked: Vec<u64> = picks.iter().map(|(offset, _)| *offset).collect();
        picked.sort_unstable();
        let Some(last) = picked.last() else { return (picks, Vec::new()) };
        let passed = self.unread.range(..=last).filter(|offset| picked.binary_search(offset).is_err());
        let passed = passed.copied().collect();
        (picks, passed)
    }

    /// The ledger's cursor is behind this offset.
    pub(super) fn moved(&mut self, last: u64) {
        self.unread = self.unread.split_off(&(last + 1));
    }

    pub(super) fn settled(&mut self, offset: u64) {
        self.gate.settled(offset);
    }

    /// When something inside may leave by the mere passing of time.
    pub(super) fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        self.gate.next_due(now)
    }
}
