//! One partition in hand of this process: what its log has next, what waits, what is about to be handed out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use linchpin_core::Timestamp;
use linchpin_core::bus::{Gate, Order};
use linchpin_core::time::from_millis;
use rdkafka::Message as _;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::KafkaError;

use super::client::offset;
use super::member::Context;
use super::tracker::{CROWDED, Tracker};
use super::wire::{Pages, Parcel};

/// The most bytes that wait in one partition for their time or their key.
const WAITING: usize = 64 << 20;

/// A message whose hand-out is being written down.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) offset: u64,
    pub(super) attempt: u32,
    pub(super) parcel: Arc<Parcel>,
    /// The commit that writes it down.
    pub(super) version: u64,
}

pub(super) struct Part {
    /// Tells it from the same partition at another time.
    pub(super) born: u64,
    pub(super) tracker: Tracker,
    order: Order,
    pub(super) gate: Gate<Arc<Parcel>>,
    pub(super) staged: VecDeque<Staged>,
    /// The bytes of them.
    pub(super) staged_bytes: usize,
    /// Whose it is under an order.
    pub(super) owner: u64,
    /// Deliveries in hand.
    pub(super) flying: usize,
    /// Something that was handed out before wasn't staged ahead: it waits until somebody asks.
    pub(super) skipped: bool,
    /// Nothing more is handed out: it goes to another process, or is moved.
    pub(super) resting: bool,
    /// Whether the tracker has changed since the last commit.
    pub(super) dirty: bool,
    /// The length of the last commit's text.
    pub(super) written: usize,
    waiting: usize,
    /// What the log said behind messages that were taken: the next to take is told.
    failed: Option<KafkaError>,
    queue: Option<PartitionQueue<Context>>,
    pages: Pages,
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part")
            .field("tracker", &self.tracker)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

impl Part {
    pub(super) fn new(
        born: u64,
        tracker: Tracker,
        order: Order,
        queue: Option<PartitionQueue<Context>>,
    ) -> Self {
        Self {
            born,
            tracker,
            order,
            gate: Gate::new(order),
            staged: VecDeque::new(),
            staged_bytes: 0,
            owner: 0,
            flying: 0,
            skipped: false,
            resting: false,
            dirty: false,
            written: 0,
            waiting: 0,
            failed: None,
            queue,
            pages: Pages::default(),
        }
    }

    /// Up to `max` messages that may be handed out now, fetched if need be.
    ///
    /// # Errors
    /// What the log says.
    pub(super) fn take(&mut self, max: usize, now: Timestamp) -> Result<Vec<(u64, Arc<Parcel>)>, KafkaError> {
        if self.written > CROWDED {
            // The text of a commit is nearly full: what is known already goes on, one by one.
            return Ok(self.leave(1.min(max), now));
        }
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let mut out = self.leave(max, now);
        while out.len() < max && !self.gate.is_shut() && self.waiting < WAITING {
            let wanted = max - out.len();
            let fetched = self.fetch(wanted, now, &mut out);
            out.append(&mut self.leave(max - out.len(), now));
            match fetched {
                Ok(fetched) if fetched == wanted => {}
                Ok(_) => break,
                Err(error) if out.is_empty() => return Err(error),
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            }
        }
        Ok(out)
    }

    fn leave(&mut self, max: usize, now: Timestamp) -> Vec<(u64, Arc<Parcel>)> {
        let out = self.gate.take(max, now);
        let size: usize = out.iter().map(|(_, parcel)| parcel.size()).sum();
        self.waiting = self.waiting.saturating_sub(size);
        out
    }

    /// Moves up to `max` records from the log into the gate, or past it into `out` if nothing holds them back; says how
    /// many there were.
    fn fetch(
        &mut self,
        max: usize,
        now: Timestamp,
        out: &mut Vec<(u64, Arc<Parcel>)>,
    ) -> Result<usize, KafkaError> {
        for fetched in 0..max {
            let Some(record) = self.queue.as_ref().and_then(|queue| queue.poll(Duration::ZERO)) else {
                return Ok(fetched);
            };
            let record = record?;
            let place = offset(record.offset());
            let Some(mark) = self.tracker.enter(place) else { continue };
            let parcel = Arc::new(Parcel::read(&record, &mut self.pages));
            let due = from_millis(mark.due.max(parcel.due));
            if due <= now && self.is_open() {
                out.push((place, parcel));
            } else {
                self.insert(place, due, parcel);
            }
        }
        Ok(max)
    }

    /// Whether what comes from the log and is due would leave the gate at once: all that is inside isn't due, or behind it.
    fn is_open(&self) -> bool {
        match self.order {
            Order::None => true,
            Order::Key => false,
            Order::Partition => self.gate.is_empty(),
        }
    }

    /// One more whose hand-out is being written down.
    pub(super) fn load(&mut self, staged: Staged) {
        self.staged_bytes += staged.parcel.size();
        self.staged.push_back(staged);
        self.dirty = true;
    }

    /// The first `count` staged.
    pub(super) fn unload(&mut self, count: usize) -> impl Iterator<Item = Staged> {
        let bytes = &mut self.staged_bytes;
        let out = self.staged.drain(..count.min(self.staged.len()));
        out.inspect(|staged| *bytes = bytes.saturating_sub(staged.parcel.size()))
    }

    /// Puts a message in, or back in.
    pub(super) fn insert(&mut self, offset: u64, due: Timestamp, parcel: Arc<Parcel>) {
        self.waiting += parcel.size();
        let later = due > Timestamp::MIN && due > Timestamp::now();
        let parcel = if later { Arc::new(parcel.alone()) } else { parcel };
        self.gate.insert(offset, parcel.message.key.clone().as_ref(), due, parcel);
    }

    /// What was staged isn't handed out after all.
    pub(super) fn unstage(&mut self) {
        self.staged_bytes = 0;
        for staged in std::mem::take(&mut self.staged) {
            self.tracker.unhold(staged.offset);
            self.insert(staged.offset, Timestamp::MIN, staged.parcel);
            self.dirty = true;
        }
    }

    /// Begins anew with another tracker.
    pub(super) fn reset(&mut self, born: u64, tracker: Tracker) {
        self.born = born;
        self.tracker = tracker;
        self.gate.drain();
        self.staged.clear();
        (self.owner, self.flying, self.waiting, self.staged_bytes) = (0, 0, 0, 0);
        self.failed = None;
        self.dirty = true;
    }
}
