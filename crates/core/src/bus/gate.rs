//! The gate that keeps order: what may be handed out of one owned partition, and what waits behind what.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::Order;
use crate::Timestamp;

/// What one partition of one group holds for its owner, in order.
///
/// Invariants, for an item at offset *o*:
/// * [`Order::None`]: it leaves once it is due.
/// * [`Order::Key`]: it leaves once it is due and no earlier item of its key is inside or in hand.
/// * [`Order::Partition`]: it leaves once it is due and no earlier item is inside.
///
/// An item in hand stays known until [`Gate::settled`], or until [`Gate::insert`] puts it back (a nack).
#[derive(Debug)]
pub struct Gate<T> {
    order: Order,
    inside: BTreeMap<u64, Inside<T>>,
    // Heads whose order allows them out: due ones in `ready`, the rest in `delayed`. Unused under Order::Partition.
    ready: BTreeSet<u64>,
    delayed: BTreeSet<(Timestamp, u64)>,
    keys: HashMap<Bytes, BTreeSet<u64>, RandomState>,
    in_hand: HashMap<u64, Option<Bytes>, RandomState>,
}

#[derive(Debug)]
struct Inside<T> {
    key: Option<Bytes>,
    due: Timestamp,
    item: T,
}

impl<T> Gate<T> {
    /// An empty gate.
    pub fn new(order: Order) -> Self {
        Self {
            order,
            inside: BTreeMap::new(),
            ready: BTreeSet::new(),
            delayed: BTreeSet::new(),
            keys: HashMap::default(),
            in_hand: HashMap::default(),
        }
    }

    /// Puts an item in, or back in after a nack: it may leave no sooner than `due`.
    pub fn insert(&mut self, offset: u64, key: Option<&Bytes>, due: Timestamp, item: T) {
        let key = key.filter(|_| self.order == Order::Key).cloned();
        self.in_hand.remove(&offset);
        let head = match &key {
            None => true,
            Some(key) => {
                let line = self.keys.entry(key.clone()).or_default();
                line.insert(offset);
                line.first() == Some(&offset)
            }
        };
        self.inside.insert(offset, Inside { key: key.clone(), due, item });
        if head {
            // An item put in front of a key's former head takes its place.
            if let Some(second) = key.and_then(|key| self.keys.get(&key)?.iter().nth(1).copied()) {
                self.withdraw(second);
            }
            self.line_up(offset, due);
        }
    }

    /// Takes out up to `max` items that order and due time allow, lowest offset first among those that are due.
    pub fn take(&mut self, max: usize, now: Timestamp) -> Vec<(u64, T)> {
        if self.order == Order::Partition {
            return self.take_front(max, now);
        }
        while let Some((due, offset)) = self.delayed.first().copied().filter(|(due, _)| *due <= now) {
            self.delayed.remove(&(due, offset));
            self.ready.insert(offset);
        }
        let mut out = Vec::with_capacity(max.min(self.ready.len()));
        while out.len() < max {
            let Some(offset) = self.ready.pop_first() else { break };
            if let Some(inside) = self.inside.remove(&offset) {
                self.in_hand.insert(offset, inside.key);
                out.push((offset, inside.item));
            }
        }
        out
    }

    fn take_front(&mut self, max: usize, now: Timestamp) -> Vec<(u64, T)> {
        let mut out = Vec::new();
        while out.len() < max {
            let Some(first) = self.inside.first_entry().filter(|first| first.get().due <= now) else { break };
            let (offset, inside) = first.remove_entry();
            self.in_hand.insert(offset, None);
            out.push((offset, inside.item));
        }
        out
    }

    /// The item in hand is done with; the next of its key may leave. False if it wasn't in hand.
    pub fn settled(&mut self, offset: u64) -> bool {
        let Some(key) = self.in_hand.remove(&offset) else { return false };
        let Some(key) = key else { return true };
        let Some(line) = self.keys.get_mut(&key) else { return true };
        line.remove(&offset);
        match line.first().copied() {
            None => {
                self.keys.remove(&key);
            }
            Some(next) => {
                if let Some(due) = self.inside.get(&next).map(|inside| inside.due) {
                    self.line_up(next, due);
                }
            }
        }
        true
    }

    /// The next time after `now` at which an item that is inside becomes due. What is due already waits for
    /// something other than time.
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        if self.order == Order::Partition {
            return self.inside.first_key_value().map(|(_, inside)| inside.due).filter(|due| *due > now);
        }
        self.delayed.range((now, u64::MAX)..).next().map(|(due, _)| *due)
    }

    /// The lowest offset inside.
    pub fn first(&self) -> Option<u64> {
        self.inside.first_key_value().map(|(offset, _)| *offset)
    }

    /// Whether what is inside holds back all that could still be inserted behind it.
    pub fn is_shut(&self) -> bool {
        self.order == Order::Partition && !self.inside.is_empty()
    }

    /// Items inside, whether they may leave or not.
    pub fn len(&self) -> usize {
        self.inside.len()
    }

    /// Whether nothing is inside.
    pub fn is_empty(&self) -> bool {
        self.inside.is_empty()
    }

    /// Takes everything out that is inside, in order, and forgets what is in hand.
    pub fn drain(&mut self) -> Vec<(u64, T)> {
        let order = self.order;
        let old = std::mem::replace(self, Self::new(order));
        old.inside.into_iter().map(|(offset, inside)| (offset, inside.item)).collect()
    }

    fn line_up(&mut self, offset: u64, due: Timestamp) {
        if self.order != Order::Partition {
            self.delayed.insert((due, offset));
        }
    }

    fn withdraw(&mut self, offset: u64) {
        self.ready.remove(&offset);
        if let Some(inside) = self.inside.get(&offset) {
            self.delayed.remove(&(inside.due, offset));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn later() -> Timestamp {
        Timestamp::from_second(10).unwrap()
    }

    fn key(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn gate(order: Order) -> Gate<&'static str> {
        let mut gate = Gate::new(order);
        for (offset, name) in [(1, "a"), (2, "b"), (3, "a"), (4, "b")] {
            gate.insert(offset, Some(&key(name)), NOW, name);
        }
        gate
    }

    fn offsets(taken: Vec<(u64, &str)>) -> Vec<u64> {
        taken.into_iter().map(|(offset, _)| offset).collect()
    }

    #[test]
    fn one_of_each_key_at_a_time() {
        let mut gate = gate(Order::Key);
        assert_eq!(offsets(gate.take(9, NOW)), [1, 2]);
        assert!(gate.take(9, NOW).is_empty());
        assert!(gate.settled(2));
        assert_eq!(offsets(gate.take(9, NOW)), [4]);
        assert!(!gate.settled(2), "settled twice");
    }

    #[test]
    fn a_nacked_head_holds_its_key_only() {
        let mut gate = gate(Order::Key);
        gate.take(9, NOW);
        gate.insert(1, Some(&key("a")), later(), "a");
        gate.settled(2);
        assert_eq!(offsets(gate.take(9, NOW)), [4]);
        assert_eq!(gate.next_due(NOW), Some(later()));
        assert_eq!(offsets(gate.take(9, later())), [1]);
        gate.settled(1);
        assert_eq!(offsets(gate.take(9, NOW)), [3]);
        gate.settled(3);
        gate.settled(4);
        assert!(gate.is_empty() && gate.keys.is_empty() && gate.in_hand.is_empty());
    }

    #[test]
    fn an_earlier_item_inserted_late_goes_first() {
        let mut gate = gate(Order::Key);
        gate.insert(0, Some(&key("a")), later(), "a");
        assert_eq!(offsets(gate.take(9, NOW)), [2]);
        assert_eq!(offsets(gate.take(9, later())), [0]);
    }

    #[test]
    fn partition_order_hands_out_batches_and_stops_at_a_nack() {
        let mut gate = gate(Order::Partition);
        assert_eq!(offsets(gate.take(2, NOW)), [1, 2]);
        gate.settled(1);
        gate.insert(2, None, later(), "b");
        assert!(gate.take(9, NOW).is_empty());
        assert_eq!(offsets(gate.take(9, later())), [2, 3, 4]);
    }

    #[test]
    fn without_order_everything_due_leaves() {
        let mut gate = gate(Order::None);
        assert_eq!(offsets(gate.take(3, NOW)), [1, 2, 3]);
        gate.insert(1, None, later(), "a");
        assert_eq!(offsets(gate.take(9, NOW)), [4]);
        assert_eq!(offsets(gate.take(9, later())), [1]);
        assert_eq!(gate.drain().len(), 0);
    }
}
