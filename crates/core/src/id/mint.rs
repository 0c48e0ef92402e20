//! The lock-free heart of a snowflake: one word that holds the last time and sequence.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::layout::{Layout, largest};
use super::one::Run;
use crate::time::SharedClock;

/// No end is known: the time of a limit, and the microseconds of a deadline.
pub(super) const NEVER: u64 = u64::MAX;
/// What the word holds once nothing is issued any more. No time and sequence are this.
const ENDED: u64 = u64::MAX;

/// Issues the ids of one worker number.
///
/// Every id is issued by exchanging the word for a larger one, so no time and sequence come twice. Besides, no id has a
/// time after the limit, which is stored where the number's next holder looks before it issues anything: that keeps ids
/// apart whatever the lease, the clock or the scheduler do. The deadline is there to stop in time, and to say why.
#[derive(Debug)]
pub(super) struct Mint {
    pub(super) layout: Layout,
    /// Datacenter and worker, at their place in the id.
    node: u64,
    /// Time since the start time, in milliseconds, and behind it the sequence: those of the last id.
    word: AtomicU64,
    /// The last time that ids may have.
    limit: AtomicU64,
    /// When issuing stops, in microseconds after `born`.
    deadline: AtomicU64,
    /// So many milliseconds before the limit, a later one is asked for.
    near: u64,
    born: Instant,
    clock: SharedClock,
}

/// What came of asking for ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// So many; maybe fewer than asked for. `true`: the limit is near.
    Ids(Run, bool),
    /// This millisecond, counted from the start time, has no more.
    Full(u64),
    /// The clock is so many milliseconds behind the last id.
    Behind(u64),
    /// The clock is past the limit.
    Limit,
    /// The deadline has passed.
    Late,
    /// Nothing is issued any more.
    Ended,
    /// The clock is before the start time.
    Early,
    /// The bits of the time are used up.
    Over,
}

impl Mint {
    /// Issues for the worker number `node`, nothing at or before `mark` (milliseconds since 1970), until [`Mint::extend`]
    /// sets an end. `near` is how long before it a later one is asked for.
    pub(super) fn new(
        layout: Layout,
        node: u64,
        mark: Option<i64>,
        near: Duration,
        clock: SharedClock,
    ) -> Self {
        let mark = mark.and_then(|mark| u64::try_from(mark.saturating_sub(layout.epoch)).ok());
        let word = mark.map_or(0, |mark| {
            let mark = mark.min(largest(layout.time_bits));
            (mark << layout.sequence_bits) | largest(layout.sequence_bits)
        });
        Self {
            layout,
            node: node << layout.sequence_bits,
            word: AtomicU64::new(word),
            limit: AtomicU64::new(NEVER),
            deadline: AtomicU64::new(NEVER),
            near: u64::try_from(near.as_millis()).unwrap_or(0),
            born: Instant::now(),
            clock,
        }
    }

    /// The clock, in milliseconds since 1970.
    pub(super) fn now(&self) -> i64 {
        self.clock.now().as_millisecond()
    }

    /// Nothing is issued after this time (milliseconds since 1970), nor once `deadline` has passed.
    pub(super) fn extend(&self, limit: i64, deadline: Option<Instant>) {
        let micros = deadline.map(|deadline| deadline.saturating_duration_since(self.born).as_micros());
        let micros = micros.map_or(NEVER, |micros| u64::try_from(micros).unwrap_or(NEVER));
        self.deadline.store(micros, Ordering::Release);
        let limit = u64::try_from(limit.saturating_sub(self.layout.epoch)).unwrap_or(0);
        self.limit.store(limit, Ordering::Release);
    }

    /// The last time that ids may have, in milliseconds since 1970, if one was told.
    pub(super) fn limit(&self) -> Option<i64> {
        let limit = i64::try_from(self.limit.load(Ordering::Acquire)).ok()?;
        Some(self.layout.epoch.saturating_add(limit))
    }

    /// The time of the last id, in milliseconds since 1970; nothing if none was issued, or it has ended.
    pub(super) fn last(&self) -> Option<i64> {
        self.time_of(self.word.load(Ordering::Acquire))
    }

    /// Issues nothing from now on. The time of the last id.
    pub(super) fn end(&self) -> Option<i64> {
        self.time_of(self.word.swap(ENDED, Ordering::AcqRel))
    }

    fn time_of(&self, word: u64) -> Option<i64> {
        let time = i64::try_from(word >> self.layout.sequence_bits).ok()?;
        (word != ENDED && word != 0).then(|| self.layout.epoch.saturating_add(time))
    }

    /// Up to `count` ids, at least one.
    pub(super) fn take(&self, count: u64) -> Step {
        let bits = self.layout.sequence_bits;
        loop {
            let last = self.word.load(Ordering::Acquire);
            if last == ENDED {
                return Step::Ended;
            }
            // Read after the word: a clock that goes on isn't behind what another thread issued.
            let Ok(now) = u64::try_from(self.now().saturating_sub(self.layout.epoch)) else {
                return Step::Early;
            };
            let limit = self.limit.load(Ordering::Acquire);
            if let Some(obstacle) = self.obstacle(now, last >> bits, limit) {
                return obstacle;
            }
            let first = if now > last >> bits { 0 } else { (last & largest(bits)) + 1 };
            if first > largest(bits) {
                return Step::Full(now);
            }
            let count = count.min(largest(bits) - first + 1);
            let next = (now << bits) | (first + count - 1);
            if self.word.compare_exchange_weak(last, next, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            let id = (now << (bits + self.layout.node_bits())) | self.node | first;
            let near = limit != NEVER && limit - now < self.near;
            return Step::Ids(Run { first: id.cast_signed(), count }, near);
        }
    }

    fn obstacle(&self, now: u64, last: u64, limit: u64) -> Option<Step> {
        if now > largest(self.layout.time_bits) {
            return Some(Step::Over);
        }
        let deadline = self.deadline.load(Ordering::Acquire);
        if deadline != NEVER && self.born.elapsed() >= Duration::from_micros(deadline) {
            return Some(Step::Late);
        }
        if now < last {
            return Some(Step::Behind(last - now));
        }
        (now > limit).then_some(Step::Limit)
    }
}
