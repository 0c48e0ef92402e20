//! What the members of a group in this process share: who holds what, what is written down, what comes next.
//!
//! Everything here happens under one lock and never waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use linchpin_core::bus::{NO_REPLY, Order, Receipt, Settle, SubscribeOptions};
use linchpin_core::time::plus;
use linchpin_core::{Error, Kind, Timestamp};

use super::NAME;
use super::commits::Commits;
use super::hands::{Hands, Known, Landed};
use super::part::Part;
use super::wire::Parcel;

#[derive(Debug)]
pub(super) struct State {
    pub(super) order: Order,
    pub(super) parts: BTreeMap<u32, Part>,
    pub(super) seats: BTreeMap<u64, Seat>,
    pub(super) commits: Commits,
    pub(super) hands: Hands,
    last: u64,
    pub(super) turn: usize,
}

/// A subscription's place.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) options: SubscribeOptions,
    pub(super) held: usize,
    seen: Instant,
    /// Fetches that wait.
    waiting: usize,
    /// How many were asked for last.
    pub(super) appetite: usize,
    /// How many are staged ahead of what is asked for: none, unless its fetches take all there is and come back at once.
    pub(super) window: usize,
    /// When it was last handed something, and whether it came back for more at once. The time that a commit takes is not
    /// its own.
    fed: Instant,
    quick: bool,
}

/// The most messages that are staged ahead: what a quick consumer handles while a commit is under way.
const AHEAD: usize = 16_384;
/// And the most bytes of them in one partition.
pub(super) const BYTES: usize = 8 << 20;
/// Who asks for little at a time is staged for by this much, and by half of what it may hold if that is less: what is
/// staged when its process dies counts as handed out once.
const LEAST: usize = 2048;
/// A seat that comes back later than this isn't worth staging ahead for.
const QUICK: Duration = Duration::from_millis(50);

impl Seat {
    pub(super) fn is_alive(&self, now: Instant) -> bool {
        self.waiting > 0 || now.saturating_duration_since(self.seen) <= self.options.ack_wait
    }

    pub(super) fn room(&self) -> usize {
        self.options.max_in_flight.saturating_sub(self.held)
    }

    /// It asks for more.
    fn comes_back(&mut self) {
        self.quick = self.seen.saturating_duration_since(self.fed) <= QUICK;
        if !self.quick {
            self.window = 0;
        }
    }

    /// After it was handed `count`, which was `all` there was or not: a commit takes its time, so what a quick consumer is
    /// to get by the next one must be under way by then.
    pub(super) fn fed(&mut self, count: usize, all: bool, now: Instant) {
        if all && self.quick {
            let half = self.options.max_in_flight / 2;
            let most = if half < LEAST { half } else { (self.appetite * 16).clamp(LEAST, AHEAD) };
            self.window = (self.window.max(count) * 2).min(most);
        }
        self.fed = now;
    }

    pub(super) fn wants(&self, partition: u32) -> bool {
        self.options.partitions.as_ref().is_none_or(|list| list.contains(&partition))
    }
}

/// A message to be buried.
#[derive(Debug)]
pub(super) struct Hopeless {
    pub(super) partition: u32,
    pub(super) born: u64,
    pub(super) offset: u64,
    pub(super) attempts: u32,
    pub(super) reason: String,
    pub(super) parcel: Arc<Parcel>,
}

/// What one settle comes to before anything was written down.
#[derive(Debug)]
pub(super) enum Settling {
    /// It counts once the commit is through.
    Written,
    /// The lease runs anew; nothing to write down.
    Extended,
    /// It counts once the dead letter is stored and the commit is through.
    Dead(Box<Hopeless>),
    Lost,
}

pub(super) fn fenced() -> Error {
    Error::new(Kind::Fenced, "the delivery went to another member, or was settled before").engine(NAME)
}

impl State {
    pub(super) fn new(order: Order) -> Self {
        Self {
            order,
            parts: BTreeMap::new(),
            seats: BTreeMap::new(),
            commits: Commits::default(),
            hands: Hands::default(),
            last: 0,
            turn: 0,
        }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Whether something changed since the last commit went out.
    pub(super) fn is_dirty(&self) -> bool {
        self.parts.values().any(|part| part.dirty)
    }

    /// The commit that carries everything up to now.
    pub(super) fn version(&self) -> u64 {
        if self.is_dirty() { self.commits.next() } else { self.commits.next() - 1 }
    }

    pub(super) fn sit(&mut self, options: &SubscribeOptions) -> u64 {
        let id = self.number();
        let (options, seen) = (options.clone(), Instant::now());
        let seat =
            Seat { options, held: 0, seen, waiting: 0, appetite: 1, window: 0, fed: seen, quick: false };
        self.seats.insert(id, seat);
        id
    }

    /// A fetch of this seat begins to wait, or ends.
    pub(super) fn waits(&mut self, seat: u64, begins: bool) {
        if let Some(seat) = self.seats.get_mut(&seat) {
            seat.seen = Instant::now();
            seat.waiting = if begins { seat.waiting + 1 } else { seat.waiting.saturating_sub(1) };
            if begins {
                seat.comes_back();
            }
        }
    }

    /// Takes deliveries from those that let their lease run out.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Hopeless> {
        let mut hopeless = Vec::new();
        for landed in self.hands.lapsed(now) {
            self.landed(&landed);
            if landed.attempt >= landed.terms.max_attempts {
                hopeless.push(landed.hopeless(NO_REPLY.to_owned()));
            } else {
                let attempt = landed.attempt;
                self.put_back(landed, attempt, Timestamp::MIN);
            }
        }
        hopeless
    }

    /// Takes a delivery out of its member's hand; its receipt stays known.
    fn land(&mut self, receipt: Receipt) -> Option<Landed> {
        let landed = self.hands.land(receipt)?;
        self.landed(&landed);
        Some(landed)
    }

    fn landed(&mut self, Landed { terms, .. }: &Landed) {
        if let Some(seat) = self.seats.get_mut(&terms.seat) {
            seat.held = seat.held.saturating_sub(1);
        }
        if let Some(part) = self.parts.get_mut(&terms.partition).filter(|part| part.born == terms.born) {
            part.flying = part.flying.saturating_sub(1);
        }
    }

    fn put_back(&mut self, Landed { terms, offset, parcel, .. }: Landed, attempts: u32, due: Timestamp) {
        let part = self.parts.get_mut(&terms.partition).filter(|part| part.born == terms.born);
        let Some(part) = part else { return };
        let millis = if due == Timestamp::MIN { 0 } else { due.as_millisecond() };
        // Nothing later of an ordered partition comes before it.
        if self.order == Order::Partition {
            part.unstage();
        }
        part.tracker.back(offset, attempts, millis);
        part.insert(offset, due, parcel);
        part.dirty = true;
    }

    /// The message is settled for good.
    pub(super) fn done(&mut self, partition: u32, born: u64, offset: u64) {
        if let Some(part) = self.parts.get_mut(&partition).filter(|part| part.born == born) {
            part.tracker.done(offset);
            part.gate.settled(offset);
            part.dirty = true;
        }
    }

    pub(super) fn settle(&mut self, seat: u64, receipt: Receipt, settle: Settle, now: Instant) -> Settling {
        let Some(me) = self.seats.get_mut(&seat) else { return Settling::Lost };
        me.seen = now;
        let ack_wait = me.options.ack_wait;
        let known = self.hands.look(receipt).filter(|known| known.terms.seat == seat);
        let Some(Known { terms, attempt, open }) = known else { return Settling::Lost };
        if self.parts.get(&terms.partition).is_none_or(|part| part.born != terms.born) {
            return Settling::Lost;
        }
        // Said again because the first commit failed.
        if !open {
            return if settle == Settle::Extend { Settling::Lost } else { Settling::Written };
        }
        match settle {
            Settle::Extend => {
                self.hands.extend(receipt, now + ack_wait);
                Settling::Extended
            }
            Settle::Nack { delay, .. } if attempt < terms.max_attempts => {
                if let Some(landed) = self.land(receipt) {
                    self.put_back(landed, attempt, plus(Timestamp::now(), delay));
                }
                Settling::Written
            }
            Settle::Ack => {
                self.finish(receipt);
                Settling::Written
            }
            Settle::Nack { reason, .. } | Settle::Dead { reason } => {
                let dead = |open: Landed| Settling::Dead(Box::new(open.hopeless(reason)));
                self.hands.copy(receipt).map_or(Settling::Lost, dead)
            }
        }
    }

    /// This delivery is done with: acknowledged, or stored as a dead letter.
    pub(super) fn finish(&mut self, receipt: Receipt) {
        if let Some(Landed { terms, offset, .. }) = self.land(receipt) {
            self.done(terms.partition, terms.born, offset);
        }
    }

    /// A seat is left; with `release` what it holds goes to the others at once.
    pub(super) fn leave(&mut self, seat: u64, release: bool) {
        if release {
            for landed in self.hands.drop_all(|terms| terms.seat == seat) {
                self.landed(&landed);
                // A clean leave never uses up the last attempt.
                let attempts = landed.attempt.min(landed.terms.max_attempts - 1);
                self.put_back(landed, attempts, Timestamp::MIN);
            }
        }
        self.seats.remove(&seat);
    }

    /// Nothing of this partition is in hand any more; late settles are fenced.
    pub(super) fn ground(&mut self, partition: u32) {
        for landed in self.hands.drop_all(|terms| terms.partition == partition) {
            self.landed(&landed);
        }
    }

    /// When something may be handed out by the mere passing of time.
    pub(super) fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        self.parts.values().filter_map(|part| part.gate.next_due(now)).min()
    }

    /// When the next lease runs out, or a seat that is silent is thought dead.
    pub(super) fn next_lapse(&self, now: Instant) -> Option<Instant> {
        let silent = self.seats.values().filter(|seat| seat.waiting == 0);
        let moment = Duration::from_millis(1);
        let lapses =
            silent.map(|seat| seat.seen + seat.options.ack_wait + moment).filter(|lapse| *lapse > now);
        self.hands.next_lapse().into_iter().chain(lapses).min()
    }
}

impl Landed {
    fn hopeless(self, reason: String) -> Hopeless {
        let Self { terms, offset, attempt, parcel } = self;
        Hopeless { partition: terms.partition, born: terms.born, offset, attempts: attempt, reason, parcel }
    }
}
