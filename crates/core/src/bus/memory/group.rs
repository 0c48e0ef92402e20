//! How far a group is: who holds what, what waits, what was never handed out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::log::{Log, Stored};
use crate::bus::{
    Delivery, Gate, GroupStats, NO_REPLY, Order, Position, Receipt, Settle, Start, SubscribeOptions,
};
use crate::time::{plus, since};
use crate::{Error, Kind, Result, Timestamp};

#[derive(Debug)]
pub(super) struct Group {
    pub(super) born: u64,
    pub(super) broadcast: bool,
    order: Order,
    parts: Vec<Part>,
    members: BTreeMap<u64, Member>,
    flights: HashMap<u64, Flight, RandomState>,
    deadlines: BTreeSet<(Timestamp, u64)>,
}

/// One partition. Invariant: each offset below `cursor` is settled, in the gate, or in `flying`.
#[derive(Debug)]
struct Part {
    cursor: u64,
    gate: Gate<u32>,
    flying: BTreeSet<u64>,
    owner: u64,
    fence: u64,
}

#[derive(Debug)]
struct Member {
    seen: Timestamp,
    ack_wait: Duration,
    partitions: Option<Vec<u32>>,
    held: usize,
}

/// A delivery in hand of a member.
#[derive(Debug)]
struct Flight {
    member: u64,
    partition: u32,
    offset: u64,
    attempt: u32,
    max_attempts: u32,
    ack_wait: Duration,
    deadline: Timestamp,
}

/// A message to be buried: where it is, how often it was handed out, why.
#[derive(Debug)]
pub(super) struct Hopeless {
    pub(super) position: Position,
    pub(super) attempts: u32,
    pub(super) reason: String,
}

impl Group {
    pub(super) fn new(log: &Log, start: Start, fence: u64) -> Self {
        let part = |n| Part {
            cursor: log.locate(n, start),
            gate: Gate::new(Order::None),
            flying: BTreeSet::new(),
            owner: 0,
            fence,
        };
        Self {
            born: fence,
            broadcast: false,
            order: Order::None,
            parts: (0..log.partitions()).map(part).collect(),
            members: BTreeMap::new(),
            flights: HashMap::default(),
            deadlines: BTreeSet::new(),
        }
    }

    /// Adds a member. A group without live members takes on the newcomer's order.
    pub(super) fn join(
        &mut self,
        id: u64,
        log: &Log,
        options: &SubscribeOptions,
        now: Timestamp,
    ) -> Result<()> {
        self.members.retain(|_, member| member.alive(now));
        if self.order != options.order {
            if !self.members.is_empty() {
                let message =
                    format!("the group is consumed under {:?}, not {:?}", self.order, options.order);
                return Err(
                    Error::new(Kind::Conflict, message).help("use one order for all members of a group")
                );
            }
            self.reorder(options.order, log);
        }
        let partitions = options.partitions.clone();
        // One that was thought dead may have kept deliveries alive meanwhile.
        let held = self.flights.values().filter(|flight| flight.member == id).count();
        self.members.insert(id, Member { seen: now, ack_wait: options.ack_wait, partitions, held });
        Ok(())
    }

    // What is in hand of members that are gone goes back in, due when its lease ends.
    fn reorder(&mut self, order: Order, log: &Log) {
        self.order = order;
        self.deadlines.clear();
        let flights = std::mem::take(&mut self.flights);
        for (n, part) in (0..).zip(&mut self.parts) {
            let inside = part.gate.drain();
            part.gate = Gate::new(order);
            part.flying.clear();
            for (offset, attempt) in inside {
                part.gate.insert(offset, key(log, n, offset), Timestamp::MIN, attempt);
            }
        }
        for flight in flights.into_values() {
            self.put_back(log, &flight, flight.deadline, flight.attempt);
        }
    }

    fn part(&mut self, n: u32) -> Option<&mut Part> {
        self.parts.get_mut(n as usize)
    }

    fn put_back(&mut self, log: &Log, flight: &Flight, due: Timestamp, attempt: u32) {
        let key = key(log, flight.partition, flight.offset);
        if let Some(part) = self.part(flight.partition) {
            part.flying.remove(&flight.offset);
            part.gate.insert(flight.offset, key, due, attempt);
        }
    }

    /// Takes the flight `id` out of the air, if `by` says yes.
    fn land(&mut self, id: u64, by: impl Fn(&Flight) -> bool) -> Option<Flight> {
        self.flights.get(&id).filter(|flight| by(flight))?;
        let flight = self.flights.remove(&id)?;
        self.deadlines.remove(&(flight.deadline, id));
        if let Some(member) = self.members.get_mut(&flight.member) {
            member.held -= 1;
        }
        Some(flight)
    }

    fn done(&mut self, flight: &Flight) {
        if let Some(part) = self.part(flight.partition) {
            part.flying.remove(&flight.offset);
            part.gate.settled(flight.offset);
        }
    }

    fn bury(&mut self, flight: &Flight, reason: String) -> Hopeless {
        self.done(flight);
        let position = Position::new(flight.partition, flight.offset);
        Hopeless { position, attempts: flight.attempt, reason }
    }

    /// Takes deliveries from members that let their lease run out.
    pub(super) fn expire(&mut self, log: &Log, now: Timestamp) -> Vec<Hopeless> {
        let mut hopeless = Vec::new();
        while let Some((_, id)) = self.deadlines.first().copied().filter(|(deadline, _)| *deadline <= now) {
            let Some(flight) = self.land(id, |_| true) else { continue };
            if flight.attempt >= flight.max_attempts {
                hopeless.push(self.bury(&flight, NO_REPLY.to_owned()));
            } else {
                self.put_back(log, &flight, now, flight.attempt);
            }
        }
        hopeless
    }

    /// Hands out up to `max` deliveries to a member; `number` makes receipts and fencing tokens.
    pub(super) fn take(
        &mut self,
        member: u64,
        options: &SubscribeOptions,
        max: usize,
        log: &Log,
        now: Timestamp,
        mut number: impl FnMut() -> u64,
    ) -> Result<Vec<Delivery>> {
        // Thought dead, but it lives: it takes its place again.
        if !self.members.contains_key(&member) {
            self.join(member, log, options, now)?;
        }
        let Some(me) = self.members.get_mut(&member) else { return Ok(Vec::new()) };
        me.seen = now;
        let max = max.min(options.max_in_flight.saturating_sub(me.held));
        let mut out = Vec::new();
        for n in self.shares(member, now) {
            let room = max - out.len();
            let Some(part) = self.parts.get_mut(n as usize) else { continue };
            let Some(fence) = part.own(self.order, member, &mut number) else { continue };
            for (offset, attempts) in part.take(n, room, log, now) {
                let Some(Stored { message, time }) = log.get(n, offset) else { continue };
                let (message, time, position) = (message.clone(), *time, Position::new(n, offset));
                let (id, attempt) = (number(), attempts + 1);
                self.fly(id, Flight::new(member, position.partition, offset, attempt, options, now));
                out.push(Delivery { message, position, time, attempt, fence, receipt: Receipt(id) });
            }
        }
        if let Some(me) = self.members.get_mut(&member) {
            me.held += out.len();
        }
        Ok(out)
    }

    fn fly(&mut self, id: u64, flight: Flight) {
        self.deadlines.insert((flight.deadline, id));
        self.flights.insert(id, flight);
    }

    /// The partitions a member may take from: all it asked for, or under an order its share among the living.
    fn shares(&self, member: u64, now: Timestamp) -> Vec<u32> {
        let wants = |m: &Member, n: u32| m.partitions.as_ref().is_none_or(|list| list.contains(&n));
        let is_mine = |n: u32| {
            if self.order == Order::None {
                return self.members.get(&member).is_some_and(|m| wants(m, n));
            }
            let living = self.members.iter().filter(|(_, m)| m.alive(now) && wants(m, n));
            let living: Vec<_> = living.map(|(id, _)| *id).collect();
            living.get(n as usize % living.len().max(1)) == Some(&member)
        };
        (0..).take(self.parts.len()).filter(|n| is_mine(*n)).collect()
    }

    /// Settles one delivery of a member. A buried message is returned for its dead letter.
    pub(super) fn settle(
        &mut self,
        member: u64,
        Receipt(id): Receipt,
        settle: Settle,
        log: &Log,
        now: Timestamp,
    ) -> Result<Option<Hopeless>> {
        if let Some(me) = self.members.get_mut(&member) {
            me.seen = now;
        }
        let fenced =
            || Error::new(Kind::Fenced, "the delivery went to another member, or was settled before");
        if settle == Settle::Extend {
            let flight = self.flights.get_mut(&id).filter(|f| f.member == member).ok_or_else(fenced)?;
            self.deadlines.remove(&(flight.deadline, id));
            flight.deadline = plus(now, flight.ack_wait);
            self.deadlines.insert((flight.deadline, id));
            return Ok(None);
        }
        let flight = self.land(id, |f| f.member == member).ok_or_else(fenced)?;
        Ok(match settle {
            Settle::Ack | Settle::Extend => {
                self.done(&flight);
                None
            }
            Settle::Nack { delay, .. } if flight.attempt < flight.max_attempts => {
                self.put_back(log, &flight, plus(now, delay), flight.attempt);
                None
            }
            Settle::Nack { reason, .. } | Settle::Dead { reason } => Some(self.bury(&flight, reason)),
        })
    }

    /// Removes a member; with `release`, what it holds goes to the others at once.
    pub(super) fn leave(&mut self, member: u64, release: bool, log: &Log, now: Timestamp) {
        if release {
            let held = self.flights.iter().filter(|(_, f)| f.member == member).map(|(id, _)| *id);
            for id in held.collect::<Vec<_>>() {
                if let Some(flight) = self.land(id, |_| true) {
                    // A clean leave never uses up the last attempt.
                    let attempt = flight.attempt.min(flight.max_attempts - 1);
                    self.put_back(log, &flight, now, attempt);
                }
            }
        }
        self.members.remove(&member);
    }

    pub(super) fn seek(&mut self, log: &Log, to: Start, fence: u64) {
        for (n, part) in (0..).zip(&mut self.parts) {
            if matches!(to, Start::At(at) if at.partition != n) {
                continue;
            }
            part.cursor = log.locate(n, to);
            part.gate = Gate::new(self.order);
            part.flying.clear();
            (part.owner, part.fence) = (0, fence);
        }
        let moved = |n: u32| !matches!(to, Start::At(at) if at.partition != n);
        let gone = self.flights.iter().filter(|(_, f)| moved(f.partition)).map(|(id, _)| *id);
        for id in gone.collect::<Vec<_>>() {
            self.land(id, |_| true);
        }
    }

    /// Everything below this offset is settled.
    pub(super) fn settled_below(&self, n: u32) -> u64 {
        let Some(part) = self.parts.get(n as usize) else { return 0 };
        let inside = part.gate.first().unwrap_or(u64::MAX);
        part.cursor.min(inside).min(part.flying.first().copied().unwrap_or(u64::MAX))
    }

    /// When something may become deliverable by the mere passing of time: a nack or a lease runs out, a member is
    /// thought dead.
    pub(super) fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let gates = self.parts.iter().filter_map(|part| part.gate.next_due(now));
        let lapses = self.members.values().map(|m| plus(m.seen, m.ack_wait + Duration::from_millis(1)));
        let lease = self.deadlines.first().map(|(deadline, _)| *deadline);
        gates.chain(lease).chain(lapses.filter(|lapse| *lapse > now)).min()
    }

    pub(super) fn stats(&self, log: &Log) -> GroupStats {
        let lag = (0..).zip(&self.parts).map(|(n, part)| log.end(n).saturating_sub(part.cursor)).sum();
        GroupStats {
            group: String::new(),
            lag,
            in_flight: self.flights.len() as u64,
            waiting: self.parts.iter().map(|part| part.gate.len() as u64).sum(),
            members: self.members.len() as u64,
        }
    }
}

impl Flight {
    fn new(
        member: u64,
        partition: u32,
        offset: u64,
        attempt: u32,
        options: &SubscribeOptions,
        now: Timestamp,
    ) -> Self {
        let &SubscribeOptions { max_attempts, ack_wait, .. } = options;
        Self { member, partition, offset, attempt, max_attempts, ack_wait, deadline: plus(now, ack_wait) }
    }
}

impl Part {
    /// The fencing token under which `member` may take from here, if it may. A new owner waits until the last one's deliveries
    /// are settled or expired.
    fn own(&mut self, order: Order, member: u64, number: impl FnOnce() -> u64) -> Option<u64> {
        if order == Order::None {
            return Some(0);
        }
        if self.owner != member {
            if !self.flying.is_empty() {
                return None;
            }
            (self.owner, self.fence) = (member, number());
        }
        Some(self.fence)
    }

    /// Fills the gate from the log until `max` items may leave, and takes them.
    fn take(&mut self, n: u32, max: usize, log: &Log, now: Timestamp) -> Vec<(u64, u32)> {
        let mut out = self.gate.take(max, now);
        self.cursor = log.at_or_after(n, self.cursor);
        while out.len() < max && self.cursor < log.end(n) && !self.gate.is_shut() {
            self.gate.insert(self.cursor, key(log, n, self.cursor), Timestamp::MIN, 0);
            self.cursor += 1;
            out.append(&mut self.gate.take(max - out.len(), now));
        }
        self.flying.extend(out.iter().map(|(offset, _)| *offset));
        out
    }
}

impl Member {
    fn alive(&self, now: Timestamp) -> bool {
        since(now, self.seen) <= self.ack_wait
    }
}

fn key(log: &Log, n: u32, offset: u64) -> Option<&Bytes> {
    log.get(n, offset).and_then(|stored| stored.message.key.as_ref())
}
