//! How far a group is in one partition: a pure state, written whole, over the revision it was read at.
//!
//! Invariants: every offset of the partition below `cursor` is settled or open; what is at or above it was never handed
//! out. An open offset is *held* (a member has it until `due`) or *waiting* (it may be handed out from `due` on).
//! Times are milliseconds since 1970 by the server's clock.

use std::collections::{BTreeMap, btree_map};

use bytes::Bytes;
use linchpin_core::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

use super::NAME;

/// Nobody.
pub(super) const NOBODY: i64 = 0;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Ledger {
    /// The group it belongs to: its roster has the same.
    pub(super) born: u64,
    /// Raised by a seek: what was handed out before is fenced.
    pub(super) epoch: u64,
    /// Who hands out; others only settle what they hold.
    pub(super) owner: i64,
    /// Raised with each new owner.
    pub(super) fence: u64,
    pub(super) cursor: u64,
    /// Who wrote it last, and that member's count of writes: tells an own write whose answer was lost.
    pub(super) stamp: (i64, u64),
    open: BTreeMap<u64, Open>,
    /// Whether it was edited since [`Ledger::take_changed`].
    changed: bool,
}

/// An offset below the cursor that isn't settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Open {
    pub(super) holder: i64,
    pub(super) due: i64,
    /// How often it was handed out.
    pub(super) attempt: u32,
    /// How often it may be, as its last holder said.
    pub(super) max: u32,
}

/// Under what terms a member takes messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) member: i64,
    pub(super) fence: u64,
    /// When the lease ends.
    pub(super) due: i64,
    pub(super) max: u32,
}

/// What became of an offset that was to be handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Handed out, for the attempt of this number.
    Taken(u32),
    /// Not before then.
    Later(i64),
    /// The last attempt, of this number, ended in silence.
    Hopeless(u32),
    /// Settled meanwhile.
    Settled,
}

/// What becomes of an offset in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Done,
    /// Back, to be handed out from then on.
    Back(i64),
    /// Kept until then.
    Keep(i64),
    /// Back at once, by a clean leave: it never uses up the last attempt.
    Left,
    /// Back at once, never handed out: no attempt.
    Unused,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    born: u64,
    epoch: u64,
    owner: i64,
    fence: u64,
    cursor: u64,
    by: (i64, u64),
    /// Holder, due, attempt, max, and the offsets as differences.
    open: Vec<(i64, i64, u32, u32, Vec<u64>)>,
}

impl Ledger {
    /// Of a new group that begins at `cursor`.
    pub(super) fn new(born: u64, cursor: u64) -> Self {
        Self { born, cursor, ..Self::default() }
    }

    pub(super) fn encode(&self) -> Result<Bytes> {
        let mut groups: BTreeMap<Open, (u64, Vec<u64>)> = BTreeMap::new();
        for (offset, open) in &self.open {
            let (last, offsets) = groups.entry(*open).or_default();
            offsets.push(offset - *last);
            *last = *offset;
        }
        let open = groups.into_iter().map(|(o, (_, offsets))| (o.holder, o.due, o.attempt, o.max, offsets));
        let Self { born, epoch, owner, fence, cursor, stamp: by, .. } = *self;
        let wire = Wire { born, epoch, owner, fence, cursor, by, open: open.collect() };
        let failed = |e| Error::new(Kind::Unexpected, "a ledger can't be written").engine(NAME).source(e);
        serde_json::to_vec(&wire).map(Bytes::from).map_err(failed)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let damaged = |e| {
            let help = "remove the group, or restore the stream of Linchpin's state";
            Error::new(Kind::Corrupt, "a group's progress can't be read").engine(NAME).help(help).source(e)
        };
        let wire: Wire = serde_json::from_slice(bytes).map_err(damaged)?;
        let mut ledger = Self::new(wire.born, wire.cursor);
        (ledger.epoch, ledger.owner, ledger.fence) = (wire.epoch, wire.owner, wire.fence);
        ledger.stamp = wire.by;
        for (holder, due, attempt, max, offsets) in wire.open {
            let mut last = 0_u64;
            for difference in offsets {
                last = last.saturating_add(difference);
                ledger.open.insert(last, Open { holder, due, attempt, max });
            }
        }
        Ok(ledger)
    }

    /// Whether it was edited since this was asked last.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Makes `member` the owner and gives it a fence larger than any before, those of a group that was removed included.
    pub(super) fn own(&mut self, member: i64, now: i64) -> u64 {
        self.changed = true;
        self.owner = member;
        self.fence = self.fence.saturating_add(1).max(now.unsigned_abs());
        self.fence
    }

    pub(super) fn disown(&mut self, member: i64) {
        if self.owner == member {
            self.changed = true;
            self.owner = NOBODY;
        }
    }

    /// Hands out `picks`; `passed` are the offsets between them that were read but must wait. `None` if another owns
    /// the partition.
    pub(super) fn take(
        &mut self,
        terms: Terms,
        picks: &[u64],
        passed: &[u64],
        now: i64,
    ) -> Option<Vec<(u64, Verdict)>> {
        if (self.owner, self.fence) != (terms.member, terms.fence) {
            return None;
        }
        self.changed = true;
        let Terms { member: holder, due, max, .. } = terms;
        let cursor = self.cursor;
        let waiting = Open { holder: NOBODY, due: 0, attempt: 0, max };
        for offset in passed.iter().filter(|offset| **offset >= cursor) {
            self.open.insert(*offset, waiting);
        }
        let verdicts = picks.iter().map(|offset| {
            let verdict = match self.open.entry(*offset) {
                btree_map::Entry::Vacant(_) if *offset < cursor => Verdict::Settled,
                btree_map::Entry::Vacant(entry) => {
                    entry.insert(Open { holder, due, attempt: 1, max });
                    Verdict::Taken(1)
                }
                btree_map::Entry::Occupied(mut entry) => entry.get_mut().hand(holder, due, max, now),
            };
            (*offset, verdict)
        });
        let verdicts = verdicts.collect();
        let last = picks.iter().chain(passed).max();
        self.cursor = last.map_or(cursor, |last| cursor.max(last + 1));
        Some(verdicts)
    }

    /// Settles what `member` holds since `epoch`; false for what it doesn't.
    pub(super) fn settle(&mut self, member: i64, epoch: u64, items: &[(u64, u32, Fate)]) -> Vec<bool> {
        items
            .iter()
            .map(|(offset, attempt, fate)| self.settle_one(member, epoch, *offset, *attempt, *fate))
            .collect()
    }

    fn settle_one(&mut self, member: i64, epoch: u64, offset: u64, attempt: u32, fate: Fate) -> bool {
        let btree_map::Entry::Occupied(mut entry) = self.open.entry(offset) else { return false };
        let open = entry.get_mut();
        if epoch != self.epoch || (open.holder, open.attempt) != (member, attempt) {
            return false;
        }
        let back = |due, attempt| Open { holder: NOBODY, due, attempt, max: open.max };
        match fate {
            Fate::Keep(due) => open.due = due,
            Fate::Back(due) => *open = back(due, attempt),
            Fate::Left => *open = back(0, attempt.min(open.max.saturating_sub(1))),
            Fate::Unused => *open = back(0, attempt.saturating_sub(1)),
            Fate::Done => {
                entry.remove();
            }
        }
        self.changed = true;
        true
    }

    /// Whether `member` holds it since `epoch`.
    pub(super) fn holds(&self, member: i64, epoch: u64, offset: u64, attempt: u32) -> bool {
        let held = self.open.get(&offset).is_some_and(|o| (o.holder, o.attempt) == (member, attempt));
        held && epoch == self.epoch
    }

    /// Done with a message that became a dead letter after silence, whoever held it.
    pub(super) fn bury(&mut self, offset: u64, attempt: u32) {
        if self.open.get(&offset).is_some_and(|open| open.attempt == attempt) {
            self.changed = true;
            self.open.remove(&offset);
        }
    }

    /// Moves the group: everything handed out before is fenced.
    pub(super) fn seek(&mut self, cursor: u64) {
        self.changed = true;
        self.epoch += 1;
        self.owner = NOBODY;
        self.cursor = cursor;
        self.open.clear();
    }

    /// Everything below is settled.
    pub(super) fn floor(&self) -> u64 {
        self.open.first_key_value().map_or(self.cursor, |(first, _)| self.cursor.min(*first))
    }

    /// What isn't settled, in order.
    pub(super) fn open(&self) -> impl Iterator<Item = (u64, &Open)> {
        self.open.iter().map(|(offset, open)| (*offset, open))
    }
}

impl Open {
    fn hand(&mut self, holder: i64, due: i64, max: u32, now: i64) -> Verdict {
        if self.due > now {
            return Verdict::Later(self.due);
        }
        if self.holder != NOBODY && self.attempt >= self.max {
            return Verdict::Hopeless(self.attempt);
        }
        *self = Self { holder, due, attempt: self.attempt.saturating_add(1), max };
        Verdict::Taken(self.attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: i64 = 7;

    fn owned() -> (Ledger, Terms) {
        let mut ledger = Ledger::new(1, 10);
        let fence = ledger.own(ME, 5);
        (ledger, Terms { member: ME, fence, due: 100, max: 2 })
    }

    #[test]
    fn what_is_taken_is_held_until_settled_or_due() {
        let (mut ledger, terms) = owned();
        let taken = ledger.take(terms, &[10, 14], &[12], 0).unwrap();
        assert_eq!(taken, [(10, Verdict::Taken(1)), (14, Verdict::Taken(1))]);
        assert_eq!((ledger.cursor, ledger.floor()), (15, 10));
        assert_eq!(ledger.settle(ME, 0, &[(10, 1, Fate::Done), (10, 1, Fate::Done)]), [true, false]);
        assert_eq!(ledger.floor(), 12, "what was passed waits");
        assert_eq!(ledger.take(terms, &[12], &[], 0).unwrap(), [(12, Verdict::Taken(1))]);
        assert_eq!(ledger.take(terms, &[14], &[], 99).unwrap(), [(14, Verdict::Later(100))]);
        let again = Terms { due: 200, ..terms };
        assert_eq!(ledger.take(again, &[14], &[], 100).unwrap(), [(14, Verdict::Taken(2))]);
        assert_eq!(ledger.take(terms, &[14], &[], 200).unwrap(), [(14, Verdict::Hopeless(2))]);
        assert_eq!(ledger.settle(ME, 0, &[(14, 1, Fate::Done)]), [false], "the first attempt was lost");
        ledger.bury(14, 2);
        assert_eq!(ledger.take(terms, &[14, 10], &[], 0).unwrap().len(), 2);
        assert_eq!(ledger.open().map(|(offset, _)| offset).collect::<Vec<_>>(), [12]);
    }

    #[test]
    fn attempts_of_those_who_leave() {
        let (mut ledger, terms) = owned();
        ledger.take(terms, &[10, 11, 12], &[], 0).unwrap();
        let fates = [(10, 1, Fate::Left), (11, 1, Fate::Unused), (12, 1, Fate::Back(50))];
        assert_eq!(ledger.settle(ME, 0, &fates), [true; 3]);
        let attempts: Vec<_> = ledger.open().map(|(_, o)| (o.attempt, o.holder, o.due)).collect();
        assert_eq!(attempts, [(1, 0, 0), (0, 0, 0), (1, 0, 50)]);
        let last = Terms { max: 1, ..terms };
        ledger.take(last, &[11], &[], 0).unwrap();
        ledger.settle(ME, 0, &[(11, 1, Fate::Left)]);
        assert_eq!(
            ledger.take(last, &[11], &[], 0).unwrap(),
            [(11, Verdict::Taken(1))],
            "never the last one"
        );
    }

    #[test]
    fn another_owner_and_a_seek_fence() {
        let (mut ledger, terms) = owned();
        ledger.take(terms, &[10], &[], 0).unwrap();
        let fence = ledger.own(8, 5);
        assert!(fence > terms.fence);
        assert_eq!(ledger.take(terms, &[11], &[], 0), None);
        assert!(ledger.holds(ME, 0, 10, 1), "what it holds it may settle");
        ledger.seek(3);
        assert_eq!(ledger.settle(ME, 0, &[(10, 1, Fate::Done)]), [false]);
        assert_eq!((ledger.cursor, ledger.owner, ledger.floor()), (3, NOBODY, 3));
    }

    #[test]
    fn written_and_read_it_is_the_same() {
        let (mut ledger, terms) = owned();
        ledger.take(terms, &[10, 13, 17, 40], &[11], 0).unwrap();
        ledger.settle(ME, 0, &[(13, 1, Fate::Back(9)), (17, 1, Fate::Done)]);
        ledger.stamp = (ME, 3);
        assert!(ledger.take_changed() && !ledger.take_changed());
        assert_eq!(Ledger::decode(&ledger.encode().unwrap()).unwrap(), ledger);
        assert_eq!(Ledger::decode(b"{}").unwrap_err().kind(), Kind::Corrupt);
    }
}
