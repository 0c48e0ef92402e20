//! The partitions that a subscription owns under an order, and what of them may be handed out.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use foldhash::fast::RandomState;
use linchpin_core::Timestamp;
use linchpin_core::bus::{Gate, Order};
use linchpin_core::time::from_millis;

use super::store::{Chunk, Claim, Keys, Pick, Picks, Taken, View};
use super::{MAX_SPAN, Span};

/// How often a member looks whether its share has changed.
pub(crate) const SHARE: Duration = Duration::from_millis(200);
/// Keys read ahead at once.
const CHUNK: u64 = 1024;

/// An owned partition. Only keys are held here; messages are read when they are handed out.
///
/// Invariant: every unsettled offset below `read_to` is in the gate, or `out` of it.
#[derive(Debug)]
struct Owned {
    fence: u64,
    gate: Gate<Item>,
    out: HashMap<u64, Item, RandomState>,
    /// Claims of what the cursor passed over, and what of them is in the gate.
    passed: Vec<(i64, Span)>,
    read_to: u64,
    /// To be handed over as soon as nothing is out.
    leaving: bool,
}

#[derive(Debug, Clone)]
struct Item {
    key: Option<Bytes>,
    attempt: u32,
    claim: Option<i64>,
}

#[derive(Debug)]
pub(crate) struct Partitions {
    order: Order,
    owned: BTreeMap<i64, Owned>,
    /// When to look at the share again.
    pub(crate) look_at: Instant,
    /// Whether another member is alive.
    pub(crate) alone: bool,
    /// It told the others that it wants no partitions, since nobody calls `next`.
    pub(crate) idle: bool,
    turn: usize,
}

impl Partitions {
    pub(crate) fn new(order: Order, now: Instant) -> Self {
        Self { order, owned: BTreeMap::new(), look_at: now, alone: true, idle: false, turn: 0 }
    }

    /// Partition and fence of all that is owned.
    pub(crate) fn mine(&self) -> BTreeMap<i64, u64> {
        self.owned.iter().map(|(part, owned)| (*part, owned.fence)).collect()
    }

    pub(crate) fn needs_keys(&self) -> bool {
        self.order == Order::Key
    }

    /// Takes note of what the member learned; answers what to read.
    pub(crate) fn learn(&mut self, view: View) -> Vec<Chunk> {
        self.alone = view.alone;
        for owned in self.owned.values_mut() {
            owned.leaving = false;
        }
        for part in view.leave {
            if let Some(owned) = self.owned.get_mut(&part) {
                owned.leaving = true;
            }
        }
        let mut chunks = Vec::new();
        for Taken { part, fence, next, waiting } in view.taken {
            let (gate, out, passed) = (Gate::new(self.order), HashMap::default(), Vec::new());
            self.owned.insert(part, Owned { fence, gate, out, passed, read_to: next, leaving: false });
            chunks.extend(waiting.into_iter().map(|claim| Chunk {
                part,
                fence,
                span: claim.span.clone(),
                claim: Some(claim),
            }));
        }
        for (part, end) in view.ends {
            let Some(owned) = self.owned.get_mut(&part) else { continue };
            let room = MAX_SPAN.saturating_sub(owned.gate.len() as u64);
            let count = end.saturating_sub(owned.read_to).min(CHUNK).min(room);
            if count > 0 && !owned.leaving {
                let span = Span::full(owned.read_to, count);
                owned.read_to += count;
                chunks.push(Chunk { part, fence: owned.fence, span, claim: None });
            }
        }
        chunks
    }

    /// Puts what was read into the gates.
    pub(crate) fn fill(&mut self, chunk: &Chunk, keys: Keys) {
        let Some(owned) = self.owned.get_mut(&chunk.part).filter(|owned| owned.fence == chunk.fence) else {
            return;
        };
        for (offset, key) in keys {
            let (due, attempt, claim) = match &chunk.claim {
                Some(claim) => (from_millis(claim.due), claim.attempt, Some(claim.id)),
                None => (Timestamp::MIN, 0, None),
            };
            owned.gate.insert(offset, key.clone().as_ref(), due, Item { key, attempt, claim });
        }
    }

    /// Up to `max` messages that may be handed out now; partitions take turns to be first.
    pub(crate) fn pick(&mut self, max: usize, now: Timestamp) -> Vec<Picks> {
        self.turn = self.turn.wrapping_add(1);
        let count = self.owned.len();
        let first = self.turn.checked_rem(count).unwrap_or(0);
        let parts: Vec<i64> = self.owned.keys().copied().cycle().skip(first).take(count).collect();
        let mut left = max;
        let mut out = Vec::new();
        for part in parts {
            let Some(owned) = self.owned.get_mut(&part).filter(|owned| !owned.leaving && left > 0) else {
                continue;
            };
            let picks: Vec<Pick> =
                owned.gate.take(left, now).into_iter().map(|(o, item)| owned.out(o, item)).collect();
            left -= picks.len();
            if !picks.is_empty() {
                out.push(Picks { part, fence: owned.fence, picks });
            }
        }
        out
    }

    /// Puts picks back that couldn't be written down.
    pub(crate) fn unpick(&mut self, picks: &Picks) {
        for pick in &picks.picks {
            self.back(picks.part, pick.offset, Timestamp::MIN, pick.attempt, pick.claim);
        }
    }

    /// What the cursor passed over is in these claims now.
    pub(crate) fn passed(&mut self, claims: Vec<Claim>) {
        for claim in claims {
            if let Some(owned) = self.owned.get_mut(&claim.part) {
                owned.passed.push((claim.id, claim.span));
            }
        }
    }

    /// Messages wait again in these claims.
    pub(crate) fn wait(&mut self, claims: &[Claim]) {
        for claim in claims {
            for offset in claim.span.iter() {
                self.back(claim.part, offset, from_millis(claim.due), claim.attempt, Some(claim.id));
            }
        }
    }

    fn back(&mut self, part: i64, offset: u64, due: Timestamp, attempt: u32, claim: Option<i64>) {
        let Some(owned) = self.owned.get_mut(&part) else { return };
        let Some(item) = owned.out.remove(&offset) else { return };
        owned.gate.insert(offset, item.key.clone().as_ref(), due, Item { key: item.key, attempt, claim });
    }

    /// Messages that are done with: the next of their key may go.
    pub(crate) fn done(&mut self, part: i64, offsets: impl IntoIterator<Item = u64>) {
        let Some(owned) = self.owned.get_mut(&part) else { return };
        for offset in offsets {
            // One that waits again is no longer out.
            if owned.out.remove(&offset).is_some() {
                owned.gate.settled(offset);
            }
        }
    }

    /// Forgets a partition.
    pub(crate) fn forget(&mut self, part: i64) {
        self.owned.remove(&part);
    }

    /// Takes out the partitions that are to be handed over and have nothing out; all with nothing out, if `all`.
    pub(crate) fn hand_over(&mut self, all: bool) -> Vec<(i64, u64)> {
        let ready = |owned: &Owned| owned.out.is_empty() && (all || owned.leaving);
        let parts: Vec<_> =
            self.owned.iter().filter(|(_, o)| ready(o)).map(|(part, o)| (*part, o.fence)).collect();
        parts.iter().for_each(|(part, _)| drop(self.owned.remove(part)));
        parts
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.owned.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.owned.clear();
    }

    /// The earliest time at which something may be handed out that waits for nothing else.
    pub(crate) fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        self.owned.values().filter(|owned| !owned.leaving).filter_map(|owned| owned.gate.next_due(now)).min()
    }
}

impl Owned {
    fn out(&mut self, offset: u64, item: Item) -> Pick {
        let passed = self.passed.iter_mut().find(|(_, span)| span.contains(offset));
        let claim = passed.map(|(id, span)| {
            span.remove(offset);
            *id
        });
        self.passed.retain(|(_, span)| !span.is_empty());
        let claim = item.claim.or(claim);
        let attempt = item.attempt;
        self.out.insert(offset, item);
        Pick { offset, attempt, claim }
    }
}
