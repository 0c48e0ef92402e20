//! A member of a group, or a broadcast subscriber: what it has in hand, and how it comes to more.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use futures_util::future::join_all;
use linchpin_core::bus::{Delivery, Order, Position, Receipt, SubscribeOptions};
use linchpin_core::time::{from_millis, since};
use linchpin_core::{Error, Kind, Result, Timestamp};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::NAME;
use super::core::Core;
use super::hold::{Hold, Item, Picked};
use super::ledger::Fate;
use super::page::{Page, lock};
use super::reader::Read;
use super::take::Taking;
use super::topic::Topic;

/// The most messages that are taken ahead of what is asked for.
const AHEAD: usize = 2048;
/// A subscription that comes back later than this isn't worth taking ahead for.
const QUICK: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Member {
    pub(super) core: Arc<Core>,
    pub(super) topic: Arc<Topic>,
    pub(super) options: SubscribeOptions,
    pub(super) id: i64,
    pub(super) born: u64,
    /// By partition.
    pub(super) pages: Vec<Arc<Page>>,
    pub(super) state: Mutex<State>,
    /// Rung for those who wait for messages.
    pub(super) changed: Notify,
    /// Rung for the member's own task.
    pub(super) nudge: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    /// By partition: what was taken in an earlier epoch was before a seek of this process, and isn't handed out.
    epochs: Vec<u64>,
    /// By partition: those it owns.
    pub(super) holds: Vec<Option<Hold>>,
    /// Taken, and not yet handed out.
    pub(super) shelf: VecDeque<Ready>,
    pub(super) flights: HashMap<u64, Flight, RandomState>,
    receipts: u64,
    /// Messages that a write on its way takes.
    pub(super) taking: usize,
    /// Messages that calls of `next` wait for.
    pub(super) wanted: usize,
    /// Messages that are taken ahead: none, unless calls of `next` take all there is and come back at once.
    pub(super) window: usize,
    /// When something was last handed out.
    fed: Option<Instant>,
    /// When `next` was last called, or returned.
    pub(super) last_next: Option<Instant>,
    /// When it last could hold more.
    pub(super) last_room: Instant,
    /// What the roster says of it.
    pub(super) active: bool,
    /// Whether the roster names nobody else.
    pub(super) alone: bool,
    /// Told once.
    failed: Option<Error>,
    /// Told from now on.
    pub(super) gone: Option<Error>,
    pub(super) closed: bool,
    turn: usize,
}

/// A delivery in hand.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) partition: u32,
    pub(super) offset: u64,
    pub(super) attempt: u32,
    pub(super) epoch: u64,
    pub(super) due: Instant,
    pub(super) key: Option<Bytes>,
}

#[derive(Debug)]
pub(super) struct Ready {
    pub(super) read: Read,
    pub(super) flight: Flight,
    pub(super) fence: u64,
}

impl State {
    pub(super) fn new(partitions: usize) -> Self {
        Self {
            epochs: vec![0; partitions],
            holds: (0..partitions).map(|_| None).collect(),
            shelf: VecDeque::new(),
            flights: HashMap::default(),
            receipts: 0,
            taking: 0,
            wanted: 0,
            window: 0,
            fed: None,
            last_next: None,
            last_room: Instant::now(),
            active: false,
            alone: true,
            failed: None,
            gone: None,
            closed: false,
            turn: 0,
        }
    }

    pub(super) fn hold(&mut self, partition: u32) -> Option<&mut Hold> {
        self.holds.get_mut(partition as usize)?.as_mut()
    }

    /// The hold that a delivery goes back to, if there is one.
    pub(super) fn home(&mut self, flight: &Flight) -> Option<&mut Hold> {
        self.hold(flight.partition).filter(|hold| hold.epoch == flight.epoch)
    }

    /// The hold under this fence, if it is still that one.
    pub(super) fn under(&mut self, partition: u32, fence: u64) -> Option<&mut Hold> {
        self.hold(partition).filter(|hold| hold.fence == fence)
    }

    pub(super) fn shelve(&mut self, ready: Vec<Ready>) {
        self.shelf.extend(ready);
        let epochs = &self.epochs;
        let before =
            |flight: &Flight| epochs.get(flight.partition as usize).is_some_and(|e| flight.epoch < *e);
        self.shelf.retain(|ready| !before(&ready.flight));
    }

    /// What was taken, and nobody can settle, may be handed out again when its time is over.
    pub(super) fn lapse(&mut self, flights: impl Iterator<Item = Flight>) {
        for flight in flights {
            self.receipts += 1;
            self.flights.insert(self.receipts, flight);
        }
    }

    pub(super) fn held(&self) -> usize {
        self.flights.len() + self.shelf.len() + self.taking
    }

    /// Whether anything of the partition is in hand, or on its way there.
    pub(super) fn busy(&self, partition: u32) -> bool {
        let taking = self.holds.get(partition as usize).is_some_and(|h| h.as_ref().is_some_and(|h| h.taking));
        taking
            || self.shelf.iter().any(|ready| ready.flight.partition == partition)
            || self.flights.values().any(|flight| flight.partition == partition)
    }
}

impl Member {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// # Errors
    /// `Closed` after a close, `NotFound` once topic or group were removed, and what went wrong since the last call.
    pub(super) fn check(&self, state: &mut State) -> Result<()> {
        self.core.link.check_open()?;
        if state.closed {
            return Err(Error::new(Kind::Closed, "the subscription is closed").engine(NAME));
        }
        if let Some(gone) = &state.gone {
            return Err(gone.clone());
        }
        state.failed.take().map_or(Ok(()), Err)
    }

    /// Hands out what was taken.
    pub(super) fn hand_out(&self, state: &mut State, max: usize) -> Vec<Delivery> {
        let count = max.min(state.shelf.len());
        if count > 0 && self.options.order == Order::None {
            self.fed(state, count);
        }
        let ready: Vec<_> = state.shelf.drain(..count).collect();
        let deliveries = ready.into_iter().map(|Ready { read, flight, fence }| {
            state.receipts += 1;
            let receipt = Receipt(state.receipts);
            let position = Position::new(flight.partition, flight.offset);
            let attempt = flight.attempt;
            state.flights.insert(receipt.0, flight);
            Delivery { message: read.message, position, time: read.time, attempt, fence, receipt }
        });
        deliveries.collect()
    }

    /// The group was moved in these partitions, to these epochs.
    pub(super) fn moved(&self, moved: &[(usize, u64)]) {
        let mut state = self.lock();
        for (partition, epoch) in moved {
            if let Some(slot) = state.epochs.get_mut(*partition) {
                *slot = (*slot).max(*epoch);
            }
        }
        state.shelve(Vec::new());
    }

    /// A write takes its time: what a quick subscription is to get next must be on its way by then. What must stay in
    /// order isn't taken ahead, because a nack would have to take it back.
    fn fed(&self, state: &mut State, count: usize) {
        let now = Instant::now();
        if state.fed.replace(now).is_none_or(|last| now - last > QUICK) {
            state.window = 0;
        } else if count == state.shelf.len() {
            let most = AHEAD.min(self.options.max_in_flight / 2);
            state.window = (state.window.max(count) * 2).min(most);
        }
    }

    /// Takes what is asked for and may leave, and some of what may be asked for next.
    pub(super) fn pump(self: &Arc<Self>, state: &mut State) {
        let now = self.core.clock.now();
        self.expire(state);
        if state.closed || state.gone.is_some() {
            return;
        }
        let coming = state.shelf.len() + state.taking;
        let asked = state.wanted.saturating_sub(coming);
        let ahead = state.window.saturating_sub(coming + asked);
        let room = self.options.max_in_flight.saturating_sub(state.held());
        if room > 0 {
            state.last_room = Instant::now();
        }
        let (asked, ahead) = (asked.min(room), ahead.min(room.saturating_sub(asked)));
        self.pick(state, asked, now, Hold::pick);
        if self.options.max_attempts > 1 {
            self.pick(state, ahead, now, Hold::pick_new);
        }
    }

    /// Writes down that up to `room` messages are handed out, and puts them on the shelf.
    fn pick(
        self: &Arc<Self>,
        state: &mut State,
        mut room: usize,
        now: Timestamp,
        pick: fn(&mut Hold, usize, Timestamp) -> Picked,
    ) {
        if room == 0 {
            return;
        }
        let count = state.holds.len();
        state.turn = (state.turn + 1) % count.max(1);
        for step in 0..count {
            let n = (state.turn + step) % count;
            let Some(hold) = state.holds.get_mut(n).and_then(Option::as_mut) else { continue };
            if room == 0 || hold.taking || hold.leaving {
                continue;
            }
            let (picks, passed) = pick(hold, room, now);
            if picks.is_empty() {
                continue;
            }
            hold.taking = true;
            room -= picks.len();
            state.taking += picks.len();
            let partition = u32::try_from(n).unwrap_or(u32::MAX);
            let taking = Taking { partition, fence: hold.fence, picks, passed };
            tokio::spawn(self.clone().take(taking));
        }
    }

    /// What wasn't settled in time may be handed out again.
    fn expire(&self, state: &mut State) {
        let now = Instant::now();
        let late: Vec<_> = state.flights.extract_if(|_, flight| flight.due <= now).map(|(_, f)| f).collect();
        for flight in late {
            if let Some(hold) = state.home(&flight) {
                hold.insert(flight.offset, self.core.clock.now(), Item::There(flight.key));
            }
        }
    }

    /// When time alone may change what can be handed out.
    pub(super) fn next_due(&self, state: &State) -> Option<Instant> {
        let now = self.core.clock.now();
        let gates = state.holds.iter().flatten().filter_map(|hold| hold.next_due(now));
        let gates = gates.min().map(|due| Instant::now() + since(due, now) + Duration::from_millis(1));
        gates.into_iter().chain(state.flights.values().map(|flight| flight.due)).min()
    }

    /// A partition that is to go to another goes once nothing of it is in hand.
    pub(super) fn nudge_if_leaving(&self, state: &State) {
        if state.holds.iter().flatten().any(|hold| hold.leaving) {
            self.nudge.notify_one();
        }
    }

    pub(super) fn fail(&self, state: &mut State, e: Error) {
        if e.kind() == Kind::NotFound {
            state.gone = Some(self.removed());
        } else {
            state.failed = Some(e);
        }
    }

    /// There is nothing left to be a member of.
    pub(super) fn end(&self) {
        self.lock().gone = Some(self.removed());
        self.changed.notify_waiters();
    }

    /// What is told once topic or group are gone.
    pub(super) fn removed(&self) -> Error {
        let topic = &self.topic.name;
        let message = match &self.options.group {
            Some(group) => format!("group {group:?} of topic {topic:?} was removed"),
            None => format!("topic {topic:?} was removed"),
        };
        Error::new(Kind::NotFound, message).engine(NAME)
    }

    /// Writes what becomes of deliveries, and brings the gates up to date; false for those that were lost. What can't be
    /// given back lapses.
    pub(super) async fn settle_flights(&self, items: &[(Flight, Fate)]) -> Result<Vec<bool>> {
        let mut took = vec![false; items.len()];
        let mut pages: HashMap<(u32, u64), Vec<usize>> = HashMap::new();
        for (at, (flight, _)) in items.iter().enumerate() {
            pages.entry((flight.partition, flight.epoch)).or_default().push(at);
        }
        let writes = pages.into_iter().filter_map(|((partition, epoch), at)| {
            let page = self.pages.get(partition as usize)?;
            let batch = at.iter().filter_map(|at| items.get(*at));
            let batch: Vec<_> = batch.map(|(f, fate)| (f.offset, f.attempt, *fate)).collect();
            let member = self.id;
            Some(async move { (at, page.edit(move |ledger| ledger.settle(member, epoch, &batch)).await) })
        });
        let mut failed = None;
        for (at, settled) in join_all(writes).await {
            match settled {
                Ok(settled) => at.iter().zip(settled).for_each(|(at, settled)| {
                    if let Some(took) = took.get_mut(*at) {
                        *took = settled;
                    }
                }),
                Err(e) => {
                    let unsettled = at.iter().filter_map(|at| items.get(*at));
                    let unused = unsettled.filter(|(_, fate)| matches!(fate, Fate::Unused));
                    self.lock().lapse(unused.map(|(flight, _)| flight.clone()));
                    failed = Some(e);
                }
            }
        }
        self.after(items, &took);
        failed.map_or(Ok(took), Err)
    }

    fn after(&self, items: &[(Flight, Fate)], took: &[bool]) {
        let mut state = self.lock();
        let mut elsewhere = false;
        for ((flight, fate), _) in items.iter().zip(took).filter(|(_, took)| **took) {
            let hold = state.home(flight);
            let back = |due| (flight.offset, from_millis(due), Item::There(flight.key.clone()));
            match (fate, hold) {
                (Fate::Done, Some(hold)) => hold.settled(flight.offset),
                (Fate::Back(due), Some(hold)) => {
                    let (offset, due, item) = back(*due);
                    hold.insert(offset, due, item);
                }
                (Fate::Left | Fate::Unused, Some(hold)) => {
                    let (offset, due, item) = back(0);
                    hold.insert(offset, due, item);
                }
                (Fate::Back(_) | Fate::Left | Fate::Unused, None) => elsewhere = true,
                (Fate::Done | Fate::Keep(_), _) => {}
            }
        }
        drop(state);
        if elsewhere && let Some(group) = self.options.group.clone() {
            // Whoever owns the partition has something to hand out.
            let (core, topic) = (self.core.clone(), self.topic.clone());
            tokio::spawn(async move { core.tell(&topic.name, &group).await });
        }
        self.changed.notify_waiters();
    }
}
