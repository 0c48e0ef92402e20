//! Who is in a group, and who is to own which partition: a pure state, written whole, over the revision it was read at.

use bytes::Bytes;
use linchpin_core::bus::{Candidate, shares};
use linchpin_core::bus::{Order, SubscribeOptions};
use linchpin_core::{Error, Kind, Result};
use serde::{Deserialize, Serialize};

use super::NAME;
use super::ledger::NOBODY;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Roster {
    /// The group's name.
    pub(super) name: String,
    /// Tells the group from a later one of the same name.
    pub(super) born: u64,
    /// When the topic was created, in nanoseconds since 1970: tells it from a later one of the same name.
    pub(super) topic: i64,
    /// Where the group began, by partition: a ledger that isn't there begins here.
    pub(super) starts: Vec<u64>,
    /// Who is to own each partition.
    pub(super) owners: Vec<i64>,
    pub(super) members: Vec<Seat>,
    order: u8,
    last: i64,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seat {
    pub(super) id: i64,
    /// When it was last heard of, in milliseconds since 1970 by the server's clock.
    pub(super) seen: i64,
    /// How long it may be silent, in milliseconds.
    pub(super) lease: i64,
    only: Option<Vec<u32>>,
    /// Whether it asks for messages, or has some in hand that keep their order.
    pub(super) active: bool,
}

fn code(order: Order) -> u8 {
    match order {
        Order::None => 0,
        Order::Key => 1,
        Order::Partition => 2,
    }
}

fn order_name(code: u8) -> &'static str {
    match code {
        0 => "None",
        1 => "Key",
        _ => "Partition",
    }
}

/// An `ack_wait` in milliseconds; options are checked to be at most 12 h.
pub(super) fn lease(options: &SubscribeOptions) -> i64 {
    i64::try_from(options.ack_wait.as_millis()).unwrap_or(i64::MAX)
}

impl Seat {
    pub(super) fn new(id: i64, options: &SubscribeOptions, now: i64, active: bool) -> Self {
        Self { id, seen: now, lease: lease(options), only: options.partitions.clone(), active }
    }

    /// From when on it counts as dead.
    pub(super) fn lapses(&self) -> i64 {
        self.seen.saturating_add(self.lease)
    }
}

impl Roster {
    pub(super) fn new(name: &str, born: u64, topic: i64, starts: Vec<u64>) -> Self {
        let owners = vec![NOBODY; starts.len()];
        Self { name: name.to_owned(), born, topic, starts, owners, members: Vec::new(), order: 0, last: 0 }
    }

    pub(super) fn encode(&self) -> Result<Bytes> {
        let failed = |e| Error::new(Kind::Unexpected, "a roster can't be written").engine(NAME).source(e);
        serde_json::to_vec(self).map(Bytes::from).map_err(failed)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let damaged = |e| {
            let help = "remove the group, or restore the stream of Linchpin's state";
            Error::new(Kind::Corrupt, "a group's members can't be read").engine(NAME).help(help).source(e)
        };
        serde_json::from_slice(bytes).map_err(damaged)
    }

    /// Adds a member, which doesn't ask for anything yet, and returns its number. A group without living members takes on the newcomer's order.
    pub(super) fn join(&mut self, options: &SubscribeOptions, now: i64) -> Result<i64> {
        self.bury_the_dead(now);
        let order = code(options.order);
        if self.order != order {
            if !self.members.is_empty() {
                let (is, wanted) = (order_name(self.order), order_name(order));
                let message = format!("the group is consumed under {is}, not {wanted}");
                return Err(
                    Error::new(Kind::Conflict, message).help("use one order for all members of a group")
                );
            }
            self.order = order;
        }
        self.last += 1;
        self.members.push(Seat::new(self.last, options, now, false));
        self.deal();
        Ok(self.last)
    }

    /// Notes that a member lives; one that was thought dead takes its place again.
    pub(super) fn beat(&mut self, me: &Seat) {
        match self.members.iter_mut().find(|seat| seat.id == me.id) {
            Some(seat) => *seat = me.clone(),
            None => self.members.push(me.clone()),
        }
        self.bury_the_dead(me.seen);
        self.members.sort_unstable_by_key(|seat| seat.id);
        self.deal();
    }

    pub(super) fn leave(&mut self, id: i64) {
        self.members.retain(|seat| seat.id != id);
        self.deal();
    }

    pub(super) fn lives(&self, id: i64) -> bool {
        self.members.iter().any(|seat| seat.id == id)
    }

    fn bury_the_dead(&mut self, now: i64) {
        self.members.retain(|seat| now <= seat.lapses());
    }

    /// Deals the partitions to those that ask; while nobody does, each keeps what it has.
    fn deal(&mut self) {
        let active = self.members.iter().filter(|seat| seat.active);
        let active: Vec<_> = active.map(|seat| Candidate { id: seat.id, only: seat.only.clone() }).collect();
        let dealt = shares(&self.owners, &active);
        let living: Vec<_> = self.members.iter().map(|seat| seat.id).collect();
        for (owner, dealt) in self.owners.iter_mut().zip(dealt) {
            if dealt != NOBODY {
                *owner = dealt;
            } else if !living.contains(owner) {
                *owner = NOBODY;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(order: Order) -> SubscribeOptions {
        SubscribeOptions { order, ..SubscribeOptions::group("g") }
    }

    fn roster(partitions: usize) -> Roster {
        Roster::new("g", 1, 1, vec![0; partitions])
    }

    #[test]
    fn partitions_go_to_those_who_ask() {
        let mut roster = roster(4);
        let a = roster.join(&options(Order::None), 0).unwrap();
        let b = roster.join(&options(Order::None), 0).unwrap();
        assert_eq!(roster.owners, [NOBODY; 4], "nobody asked yet");
        roster.beat(&Seat::new(a, &options(Order::None), 1, true));
        assert_eq!(roster.owners, [a; 4]);
        roster.beat(&Seat::new(b, &options(Order::None), 1, true));
        assert_eq!(roster.owners.iter().filter(|o| **o == a).count(), 2);
        let idle = Seat::new(a, &options(Order::None), 1, false);
        let asking = Seat { active: true, ..idle.clone() };
        roster.beat(&idle);
        assert_eq!(roster.owners, [b; 4]);
        roster.leave(b);
        assert_eq!(roster.owners, [NOBODY; 4], "nobody asks");
        roster.beat(&asking);
        assert_eq!(roster.owners, [a; 4]);
    }

    #[test]
    fn the_dead_are_buried_and_may_come_back() {
        let mut roster = roster(2);
        let a = roster.join(&options(Order::Key), 0).unwrap();
        let late = 30_001;
        let b = roster.join(&options(Order::Key), late).unwrap();
        roster.beat(&Seat::new(b, &options(Order::Key), late, true));
        assert!(!roster.lives(a) && roster.owners == [b; 2]);
        roster.beat(&Seat::new(a, &options(Order::Key), late, true));
        assert!(roster.lives(a) && roster.lives(b) && roster.owners.contains(&a));
    }

    #[test]
    fn living_members_keep_their_order() {
        let mut roster = roster(1);
        roster.join(&options(Order::None), 0).unwrap();
        assert_eq!(roster.join(&options(Order::Key), 0).unwrap_err().kind(), Kind::Conflict);
        assert!(roster.join(&options(Order::Key), 99_999).is_ok());
        assert_eq!(Roster::decode(&roster.encode().unwrap()).unwrap(), roster);
    }
}
