//! What a member holds: on the shelf, and in hand.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use linchpin_core::Error;
use linchpin_core::bus::{Delivery, Message, Order, Receipt, SubscribeOptions};

use super::entry::EntryId;
use super::group::lease;
use super::hints::{CALM, POLL, UNTOLD};
use super::ordered::Ordered;

/// How long a fetched message may wait to be handed out before it goes back. What a consumer holds stays its own this
/// much longer than `ack_wait`, twice, so that a delivery has all of it.
pub(super) const SHELF: Duration = Duration::from_millis(250);

/// Names what a member holds of a partition, and by which right.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grip {
    pub(super) partition: u32,
    pub(super) id: EntryId,
    /// How often it was handed out, this time included.
    pub(super) attempt: u32,
    pub(super) epoch: i64,
    pub(super) fence: u64,
    /// Until when, by the server's clock in milliseconds, nobody else can have taken it.
    pub(super) safe: i64,
    /// When it is thought lost.
    pub(super) until: Instant,
}

/// A fetched message.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) grip: Grip,
    pub(super) message: Message,
    /// When it was put on the shelf.
    pub(super) filled: Instant,
}

/// A delivery in hand.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) grip: Grip,
    /// Kept under an order, where it may go back into a gate.
    pub(super) message: Option<Message>,
    /// A settle is on its way.
    pub(super) settling: bool,
}

/// What came of a look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    /// How soon something that waits is due.
    pub(super) due: Option<Duration>,
    pub(super) came: bool,
    /// It was made because somebody said that there is something, or because something was due.
    pub(super) told: bool,
    /// Whether hints are heard.
    pub(super) heard: bool,
    /// Its number, if it didn't fail.
    pub(super) ended: Option<u64>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) shelf: VecDeque<Parcel>,
    pub(super) held: HashMap<u64, Held, RandomState>,
    next_receipt: u64,
    /// The earliest time at which something in hand may be overdue.
    pub(super) overdue_at: Option<Instant>,
    pub(super) failed: Option<Error>,
    pub(super) closed: bool,
    /// The task is over: nothing comes to the shelf any more.
    pub(super) ended: bool,
    /// `next` calls that wait, what the greediest of them asked for, and when the last one ended.
    pub(super) waiting: usize,
    pub(super) wanted: usize,
    pub(super) last_next: Instant,
    /// Looks that began and ended, counted.
    pub(super) begun: u64,
    pub(super) done: u64,
    /// How often the group was moved under it: what was fetched before isn't its own.
    pub(super) moved: u64,
    /// There may be something since the last look.
    pub(super) news: bool,
    /// When to look without news.
    pub(super) again_at: Instant,
    /// Looks in a row that found nothing.
    pub(super) quiet: u32,
    /// The last look found nothing, and what came since was told of, as far as is known.
    pub(super) calm: bool,
    /// How long to wait at most: short enough to find in time what a dead member held.
    calmest: Duration,
    /// When the last look said that something is due.
    pub(super) expected: Option<Instant>,
    /// Until when messages are looked for of which nobody tells.
    pub(super) untold: Option<Instant>,
    /// How many messages to fetch ahead.
    pub(super) window: usize,
    /// Partitions that had plenty at the last look.
    pub(super) full: BTreeSet<u32>,
    /// Partitions take turns to be first.
    pub(super) turn: usize,
    pub(super) beat_at: Instant,
    pub(super) ordered: Option<Ordered>,
}

impl State {
    pub(super) fn new(options: &SubscribeOptions) -> Self {
        let now = Instant::now();
        Self {
            shelf: VecDeque::new(),
            held: HashMap::default(),
            next_receipt: 0,
            overdue_at: None,
            failed: None,
            closed: false,
            ended: false,
            waiting: 0,
            wanted: 0,
            last_next: now,
            begun: 0,
            done: 0,
            moved: 0,
            news: true,
            again_at: now,
            quiet: 0,
            calm: false,
            calmest: CALM.min(options.ack_wait),
            untold: None,
            expected: None,
            window: 0,
            full: BTreeSet::new(),
            turn: 0,
            beat_at: now + lease(options) / 3,
            ordered: (options.order != Order::None).then(|| Ordered::new(options.order)),
        }
    }

    pub(super) fn hand_out(&mut self, parcel: Parcel, options: &SubscribeOptions, now: Instant) -> Delivery {
        let receipt = self.next_receipt;
        self.next_receipt += 1;
        let Parcel { mut grip, message, .. } = parcel;
        if grip.fence > 0 {
            grip.until = now + options.ack_wait;
        }
        self.overdue_at = Some(self.overdue_at.map_or(grip.until, |at| at.min(grip.until)));
        let kept = (grip.fence > 0).then(|| message.clone());
        self.held.insert(receipt, Held { grip, message: kept, settling: false });
        Delivery {
            message,
            position: grip.id.position(grip.partition),
            time: grip.id.time(),
            attempt: grip.attempt,
            fence: grip.fence,
            receipt: Receipt(receipt),
        }
    }

    /// A look ended: says when to look again.
    pub(super) fn looked(&mut self, look: Look, now: Instant) {
        let Look { due, came, told, heard, ended } = look;
        self.done = ended.unwrap_or(self.done);
        self.quiet = if came || ended.is_none() { 0 } else { self.quiet.saturating_add(1) };
        if came && !told {
            self.untold = Some(now + UNTOLD);
        }
        // There was something, so there may be more: only an empty look says that there isn't.
        self.news |= came;
        let rest = if heard && self.untold.is_none_or(|until| until <= now) {
            (POLL * 2_u32.pow(self.quiet.clamp(1, 6) - 1)).min(self.calmest)
        } else {
            POLL
        };
        self.calm = heard && self.quiet > 0;
        self.expected = due.map(|due| now + due);
        self.again_at = now + due.map_or(rest, |due| due.clamp(Duration::from_millis(1), rest));
    }

    /// A `next` call waits no longer.
    pub(super) fn leaves(&mut self, now: Instant) {
        self.waiting -= 1;
        self.last_next = now;
    }

    /// A `next` call begins to wait until `deadline`. What there was when the last look was made, that look said: one that
    /// may wait for longer needs no look of its own at once if what came since was told of.
    pub(super) fn enters(&mut self, max: usize, deadline: Instant, now: Instant) {
        self.waiting += 1;
        self.wanted = if self.waiting == 1 { max } else { self.wanted.max(max) };
        if self.calm && deadline > now + POLL {
            self.again_at = self.again_at.min(deadline);
        } else {
            self.news = true;
        }
    }

    /// Takes out deliveries whose time ran out.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<Held> {
        if self.overdue_at.is_none_or(|at| now < at) {
            return Vec::new();
        }
        let late = |held: &mut Held| !held.settling && held.grip.until <= now;
        let late: Vec<Held> = self.held.extract_if(|_, held| late(held)).map(|(_, held)| held).collect();
        self.overdue_at = self.held.values().map(|held| held.grip.until.max(now + SHELF / 10)).min();
        self.news |= !late.is_empty();
        late
    }

    /// Takes from the shelf what lay there for too long.
    pub(super) fn take_stale(&mut self, now: Instant) -> Vec<Parcel> {
        let old = self.shelf.partition_point(|parcel| now >= parcel.filled + SHELF);
        self.shelf.drain(..old).collect()
    }
}
