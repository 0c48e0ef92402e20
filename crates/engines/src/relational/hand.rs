//! What a subscription holds: fetched messages not handed out yet, and deliveries not settled yet.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use linchpin_core::bus::{Delivery, Position, Receipt, Settle};
use linchpin_core::time::from_millis;

use super::Span;
use super::store::{Batch, Settled, Stored};

/// How long a fetched message may wait to be handed out before it is given back for others to take.
/// Claims last this much longer than `ack_wait`, so that a delivery has all of it.
pub(crate) const SHELF: Duration = Duration::from_millis(250);

/// The messages of one claim that wait to be handed out.
#[derive(Debug)]
pub(crate) struct Pack {
    pub(crate) claim: i64,
    pub(crate) part: i64,
    pub(crate) partition: u32,
    pub(crate) attempt: u32,
    pub(crate) fence: u64,
    /// When it was put on the shelf.
    pub(crate) filled: Instant,
    /// When the claim's lease ends.
    pub(crate) until: Instant,
    pub(crate) messages: VecDeque<Stored>,
}

/// Deliveries of one claim that were handed out together. Receipts are numbered like their offsets.
#[derive(Debug)]
struct Held {
    part: i64,
    first: u64,
    width: u64,
    pieces: Vec<Piece>,
}

/// Those of them that one claim holds: an extension in part moves some to a claim of their own.
#[derive(Debug)]
struct Piece {
    claim: i64,
    open: Span,
    until: Instant,
}

/// Settles of one piece on their way to the database.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) batch: Arc<Batch>,
    pub(crate) part: i64,
    /// Where each stands in the caller's batch.
    pub(crate) at: Vec<usize>,
    key: u64,
}

/// Deliveries whose time ran out.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) claim: i64,
    pub(crate) part: i64,
    pub(crate) offsets: Vec<u64>,
}

/// Invariants: `handed` and `shelved` count what `held` and `shelf` hold; no piece of `held` ends before `overdue_at`.
#[derive(Debug, Default)]
pub(crate) struct Hand {
    shelf: VecDeque<Pack>,
    held: BTreeMap<u64, Held>,
    overdue_at: Option<Instant>,
    next: u64,
    handed: usize,
    shelved: usize,
}

impl Hand {
    pub(crate) fn handed(&self) -> usize {
        self.handed
    }

    pub(crate) fn shelved(&self) -> usize {
        self.shelved
    }

    pub(crate) fn put(&mut self, pack: Pack) {
        self.shelved += pack.messages.len();
        self.shelf.push_back(pack);
    }

    /// Hands out up to `max`. What lay on the shelf for too long stays there, for [`Hand::stale`].
    pub(crate) fn take(&mut self, max: usize, now: Instant, wait: Duration) -> Vec<Delivery> {
        let mut out = Vec::with_capacity(max.min(self.shelved));
        while out.len() < max {
            let Some(pack) = self.shelf.front_mut() else { break };
            if now.duration_since(pack.filled) >= SHELF || now >= pack.until {
                break;
            }
            let count = pack.messages.len().min(max - out.len());
            let taken: Vec<Stored> = pack.messages.drain(..count).collect();
            let until = if pack.fence > 0 { now + wait } else { pack.until };
            let held = Held::new(pack, &taken, until);
            let base = self.next;
            self.next += held.width;
            out.extend(taken.into_iter().map(|stored| Delivery {
                message: stored.message,
                position: Position::new(pack.partition, stored.offset),
                time: from_millis(stored.time),
                attempt: pack.attempt,
                fence: pack.fence,
                receipt: Receipt(base + (stored.offset - held.first)),
            }));
            self.held.insert(base, held);
            self.overdue_at = Some(self.overdue_at.map_or(until, |at| at.min(until)));
            self.handed += count;
            self.shelved -= count;
            if pack.messages.is_empty() {
                self.shelf.pop_front();
            }
        }
        out
    }

    /// Takes from the shelf what lay there for too long; everything if no time is named.
    pub(crate) fn stale(&mut self, now: Option<Instant>) -> Vec<Lost> {
        let old = |pack: &Pack| now.is_none_or(|now| now.duration_since(pack.filled) >= SHELF);
        self.unshelve(old)
    }

    /// Takes a partition's messages from the shelf.
    pub(crate) fn unshelve(&mut self, which: impl Fn(&Pack) -> bool) -> Vec<Lost> {
        let (old, kept) = std::mem::take(&mut self.shelf).into_iter().partition(which);
        self.shelf = kept;
        self.shelved = self.shelf.iter().map(|pack| pack.messages.len()).sum();
        let lost = |pack: Pack| Lost {
            claim: pack.claim,
            part: pack.part,
            offsets: pack.messages.into_iter().map(|stored| stored.offset).collect(),
        };
        VecDeque::into_iter(old).map(lost).collect()
    }

    /// Forgets deliveries that weren't settled in time.
    pub(crate) fn overdue(&mut self, now: Instant) -> Vec<Lost> {
        if self.overdue_at.is_none_or(|at| now < at) {
            return Vec::new();
        }
        let late = self.forget(|_, until| until <= now);
        self.overdue_at = self.held.values().flat_map(|held| &held.pieces).map(|piece| piece.until).min();
        late
    }

    /// Forgets every delivery of a partition.
    pub(crate) fn forget_part(&mut self, part: i64) -> Vec<Lost> {
        self.forget(|of, _| of == part)
    }

    pub(crate) fn forget_all(&mut self) {
        self.forget(|_, _| true);
    }

    fn forget(&mut self, which: impl Fn(i64, Instant) -> bool) -> Vec<Lost> {
        let mut lost = Vec::new();
        for held in self.held.values_mut() {
            let part = held.part;
            held.pieces.retain(|piece| {
                let gone = which(part, piece.until);
                if gone {
                    lost.push(Lost { claim: piece.claim, part, offsets: piece.open.iter().collect() });
                }
                !gone
            });
        }
        self.held.retain(|_, held| !held.pieces.is_empty());
        self.handed -= lost.iter().map(|lost| lost.offsets.len()).sum::<usize>();
        lost
    }

    /// Sorts settles by the claim that holds their delivery; what isn't in hand is left out.
    pub(crate) fn group(&self, batch: Vec<(Receipt, Settle)>) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut index: HashMap<(u64, i64), usize, RandomState> = HashMap::default();
        for (at, (Receipt(receipt), settle)) in batch.into_iter().enumerate() {
            let Some((key, held)) = self.held.range(..=receipt).next_back() else { continue };
            let offset = held.first + (receipt - key);
            let Some(piece) = held.pieces.iter().find(|piece| piece.open.contains(offset)) else { continue };
            let slot = *index.entry((*key, piece.claim)).or_insert_with(|| {
                let batch = Arc::new(Batch { claim: piece.claim, asked: Vec::new() });
                groups.push(Group { batch, part: held.part, at: Vec::new(), key: *key });
                groups.len() - 1
            });
            if let Some(group) = groups.get_mut(slot)
                && let Some(batch) = Arc::get_mut(&mut group.batch)
            {
                batch.asked.push((offset, settle));
                group.at.push(at);
            }
        }
        groups
    }

    /// Applies what the database answered. What it refused was lost, and is forgotten.
    pub(crate) fn settled(&mut self, group: &Group, settled: &Settled, until: Instant) {
        let Some(held) = self.held.get_mut(&group.key) else { return };
        let mut extended = Vec::new();
        for ((offset, settle), took) in group.batch.asked.iter().zip(&settled.took) {
            let mut of_claim = held.pieces.iter_mut().filter(|piece| piece.claim == group.batch.claim);
            match of_claim.any(|piece| piece.open.remove(*offset)) {
                true if *took && *settle == Settle::Extend => extended.push(*offset),
                true => self.handed -= 1,
                false => {}
            }
        }
        for piece in &mut held.pieces {
            piece.open = std::mem::take(&mut piece.open).tight();
        }
        held.pieces.retain(|piece| !piece.open.is_empty());
        if !extended.is_empty() {
            self.overdue_at = self.overdue_at.map(|at| at.min(until));
        }
        extended.sort_unstable();
        let moved = Span::of(extended).into_iter().map(|open| Piece { claim: settled.extended, open, until });
        held.pieces.extend(moved);
        if held.pieces.is_empty() {
            self.held.remove(&group.key);
        }
    }
}

impl Held {
    fn new(pack: &Pack, taken: &[Stored], until: Instant) -> Self {
        let open = Span::of(taken.iter().map(|stored| stored.offset)).into_iter().next().unwrap_or_default();
        let (first, width) = (open.first(), open.last() + 1 - open.first());
        Self { part: pack.part, first, width, pieces: vec![Piece { claim: pack.claim, open, until }] }
    }
}
