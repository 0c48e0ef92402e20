//! What the members of a group in this process share: who holds what, what is written down, what comes next.
//!
//! Everything here happens under one lock and never waits.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use linchpin_core::bus::{NO_REPLY, Order, Receipt, Settle, SubscribeOptions};
use linchpin_core::time::plus;
use linchpin_core::{Error, Kind, Timestamp};

use super::NAME;
use super::commits::Commits;
use super::leases::{Lease, Leases};
use super::part::Part;
use super::wire::Parcel;

#[derive(Debug)]
pub(super) struct State {
    pub(super) order: Order,
    pub(super) parts: BTreeMap<u32, Part>,
    pub(super) seats: BTreeMap<u64, Seat>,
    pub(super) commits: Commits,
    pub(super) flights: HashMap<u64, Flight, RandomState>,
    pub(super) leases: Leases,
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

/// A delivery in hand.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) seat: u64,
    pub(super) partition: u32,
    pub(super) born: u64,
    pub(super) offset: u64,
    pub(super) attempt: u32,
    pub(super) max_attempts: u32,
    pub(super) ack_wait: Duration,
    pub(super) lease: Lease,
    pub(super) parcel: Arc<Parcel>,
    /// Settled, and the commit that says so isn't through.
    pub(super) settled: bool,
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
    Dead(Hopeless),
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
            flights: HashMap::default(),
            leases: Leases::default(),
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
        while let Some((lease, ids)) = self.leases.lapsed(now) {
            for id in ids {
                if self.flights.get(&id).is_none_or(|flight| flight.lease != lease) {
                    continue;
                }
                let Some(flight) = self.land(id) else { continue };
                self.flights.remove(&id);
                if flight.attempt >= flight.max_attempts {
                    hopeless.push(flight.hopeless(NO_REPLY.to_owned()));
                } else {
                    self.put_back(&flight, flight.attempt, Timestamp::MIN);
                }
            }
        }
        hopeless
    }

    /// Takes a flight out of its member's hand; its entry stays.
    fn land(&mut self, id: u64) -> Option<Landed> {
        let flight = self.flights.get_mut(&id).filter(|flight| !flight.settled)?;
        self.leases.end(flight.lease);
        flight.settled = true;
        let landed = flight.landed();
        if let Some(seat) = self.seats.get_mut(&flight.seat) {
            seat.held = seat.held.saturating_sub(1);
        }
        if let Some(part) = self.parts.get_mut(&landed.partition).filter(|part| part.born == landed.born) {
            part.flying = part.flying.saturating_sub(1);
        }
        Some(landed)
    }

    fn put_back(&mut self, flight: &Landed, attempts: u32, due: Timestamp) {
        let Some(part) = self.parts.get_mut(&flight.partition).filter(|part| part.born == flight.born) else {
            return;
        };
        let millis = if due == Timestamp::MIN { 0 } else { due.as_millisecond() };
        // Nothing later of an ordered partition comes before it.
        if self.order == Order::Partition {
            part.unstage();
        }
        part.tracker.back(flight.offset, attempts, millis);
        part.insert(flight.offset, due, flight.parcel.clone());
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

    pub(super) fn settle(
        &mut self,
        seat: u64,
        Receipt(id): Receipt,
        settle: Settle,
        now: Instant,
    ) -> Settling {
        if let Some(me) = self.seats.get_mut(&seat) {
            me.seen = now;
        }
        let Some(flight) = self.flights.get_mut(&id).filter(|flight| flight.seat == seat) else {
            return Settling::Lost;
        };
        if self.parts.get(&flight.partition).is_none_or(|part| part.born != flight.born) {
            return Settling::Lost;
        }
        // Said again because the first commit failed.
        if flight.settled {
            return if settle == Settle::Extend { Settling::Lost } else { Settling::Written };
        }
        let attempt = flight.attempt;
        match settle {
            Settle::Extend => {
                self.leases.end(flight.lease);
                flight.lease = self.leases.join(None, now + flight.ack_wait, id);
                Settling::Extended
            }
            Settle::Nack { delay, .. } if attempt < flight.max_attempts => {
                if let Some(landed) = self.land(id) {
                    self.put_back(&landed, attempt, plus(Timestamp::now(), delay));
                }
                Settling::Written
            }
            Settle::Ack => {
                if let Some(landed) = self.land(id) {
                    self.done(landed.partition, landed.born, landed.offset);
                }
                Settling::Written
            }
            Settle::Nack { reason, .. } | Settle::Dead { reason } => {
                Settling::Dead(flight.landed().hopeless(reason))
            }
        }
    }

    /// The dead letter of this delivery is stored.
    pub(super) fn buried(&mut self, Receipt(id): Receipt) {
        if let Some(landed) = self.land(id) {
            self.done(landed.partition, landed.born, landed.offset);
        }
    }

    /// The commit is through: the receipt means nothing from now on.
    pub(super) fn forget(&mut self, Receipt(id): Receipt) {
        self.flights.remove(&id);
    }

    /// A seat is left; with `release` what it holds goes to the others at once.
    pub(super) fn leave(&mut self, seat: u64, release: bool) {
        if release {
            let held = self.flights.iter().filter(|(_, f)| f.seat == seat && !f.settled).map(|(id, _)| *id);
            for id in held.collect::<Vec<_>>() {
                if let Some(flight) = self.land(id) {
                    self.flights.remove(&id);
                    // A clean leave never uses up the last attempt.
                    self.put_back(&flight, flight.attempt.min(flight.max_attempts - 1), Timestamp::MIN);
                }
            }
        }
        self.seats.remove(&seat);
    }

    /// Nothing of this partition is in hand any more; late settles are fenced.
    pub(super) fn ground(&mut self, partition: u32) {
        let of = self.flights.iter().filter(|(_, f)| f.partition == partition).map(|(id, _)| *id);
        for id in of.collect::<Vec<_>>() {
            self.land(id);
            self.flights.remove(&id);
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
        self.leases.next().into_iter().chain(lapses).min()
    }
}

/// What is needed of a flight that has landed.
#[derive(Debug)]
struct Landed {
    partition: u32,
    born: u64,
    offset: u64,
    attempt: u32,
    max_attempts: u32,
    parcel: Arc<Parcel>,
}

impl Flight {
    fn landed(&self) -> Landed {
        let Self { partition, born, offset, attempt, max_attempts, .. } = *self;
        Landed { partition, born, offset, attempt, max_attempts, parcel: self.parcel.clone() }
    }
}

impl Landed {
    fn hopeless(&self, reason: String) -> Hopeless {
        let Self { partition, born, offset, attempt, .. } = *self;
        Hopeless { partition, born, offset, attempts: attempt, reason, parcel: self.parcel.clone() }
    }
}
