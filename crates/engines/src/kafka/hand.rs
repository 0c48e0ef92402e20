//! Handing out: whose turn it is, and what is written down before it leaves.

use std::time::Instant;

use linchpin_core::Timestamp;
use linchpin_core::bus::{Delivery, NO_REPLY, Order, Position};
use rdkafka::error::KafkaError;

use super::hands::Terms;
use super::part::{Part, Staged};
use super::state::{BYTES, Hopeless, State};

impl State {
    /// Hands out what is written down, and stages what may follow.
    ///
    /// # Errors
    /// What the log says.
    pub(super) fn take(
        &mut self,
        seat: u64,
        max: usize,
        now: Instant,
        hopeless: &mut Vec<Hopeless>,
    ) -> Result<Vec<Delivery>, KafkaError> {
        let Some(me) = self.seats.get_mut(&seat) else { return Ok(Vec::new()) };
        me.appetite = max;
        let mut room = max.min(me.room());
        let (mut out, mut left) = (Vec::new(), 0);
        let shares = self.shares(seat, now);
        if self.stage_skipped(seat, &shares, hopeless)? {
            // What the commit brings is handed out with what there is.
            return Ok(out);
        }
        for n in &shares {
            let Some(part) = self.parts.get_mut(n).filter(|part| !part.resting) else { continue };
            if !own(part, self.order, seat, Timestamp::now()) {
                continue;
            }
            let count = part.staged.iter().take_while(|s| self.commits.is_done(s.version)).count();
            let ready = count.min(room);
            room -= ready;
            left += count - ready;
            self.deal(seat, *n, ready, now, &mut out);
        }
        self.turn = self.turn.wrapping_add(1);
        if !out.is_empty()
            && let Some(me) = self.seats.get_mut(&seat)
        {
            me.fed(out.len(), left == 0, now);
        }
        match self.stage(seat, &shares, !out.is_empty(), hopeless) {
            // What is in hand now mustn't wait for its lease to end.
            Err(error) if !out.is_empty() => tracing::debug!(%error, "the log says"),
            staged => staged?,
        }
        Ok(out)
    }

    /// Stages what a seat may be handed next, until there is as much as it asked for last, or its window holds. `ahead` of
    /// its asking only what can't thereby become a dead letter unseen: its first attempt, and not its last.
    fn stage(
        &mut self,
        seat: u64,
        shares: &[u32],
        ahead: bool,
        hopeless: &mut Vec<Hopeless>,
    ) -> Result<(), KafkaError> {
        let Some(me) = self.seats.get(&seat) else { return Ok(()) };
        let staged: usize =
            shares.iter().filter_map(|n| self.parts.get(n)).map(|part| part.staged.len()).sum();
        // Who has no room left is slow; who has some may be given more by the time it comes back.
        let most = match me.room() {
            0 => 0,
            room if ahead => me.appetite.min(room).max(me.window),
            room => me.appetite.min(room),
        };
        let mut wanted = most.saturating_sub(staged);
        let (max_attempts, version) = (me.options.max_attempts, self.commits.next());
        let clock = Timestamp::now();
        for n in shares {
            let Some(part) = self.parts.get_mut(n).filter(|part| !part.resting) else { continue };
            if wanted == 0 || !own(part, self.order, seat, clock) {
                continue;
            }
            wanted -= stage(part, *n, wanted, max_attempts, clock, version, ahead, hopeless)?;
        }
        Ok(())
    }

    /// Stages what staging ahead has left to who asks; says whether there was any.
    fn stage_skipped(
        &mut self,
        seat: u64,
        shares: &[u32],
        hopeless: &mut Vec<Hopeless>,
    ) -> Result<bool, KafkaError> {
        let Some(me) = self.seats.get(&seat) else { return Ok(false) };
        let (mut wanted, max_attempts) = (me.appetite.min(me.room()), me.options.max_attempts);
        let (clock, version, before) = (Timestamp::now(), self.commits.next(), wanted);
        for n in shares {
            let Some(part) = self.parts.get_mut(n).filter(|part| part.skipped && !part.resting) else {
                continue;
            };
            if wanted > 0 && own(part, self.order, seat, clock) {
                part.skipped = false;
                wanted -= stage(part, *n, wanted, max_attempts, clock, version, false, hopeless)?;
            }
        }
        Ok(wanted < before)
    }

    /// After a settle: what it let free goes into the same commit.
    pub(super) fn stage_ahead(&mut self, seat: u64, hopeless: &mut Vec<Hopeless>) -> Result<(), KafkaError> {
        let shares = self.shares(seat, Instant::now());
        self.stage(seat, &shares, true, hopeless)
    }

    /// The partitions a seat may take from: all it asked for, or under an order its share among the living.
    fn shares(&self, seat: u64, now: Instant) -> Vec<u32> {
        let Some(me) = self.seats.get(&seat) else { return Vec::new() };
        let mut mine: Vec<u32> = if self.order == Order::None {
            self.parts.keys().copied().filter(|n| me.wants(*n)).collect()
        } else {
            let is_mine = |(place, n): (usize, &u32)| {
                let living = self.seats.iter().filter(|(_, s)| s.is_alive(now) && s.wants(*n));
                let living: Vec<_> = living.map(|(id, _)| *id).collect();
                (living.get(place % living.len().max(1)) == Some(&seat)).then_some(*n)
            };
            self.parts.keys().enumerate().filter_map(is_mine).collect()
        };
        if !mine.is_empty() {
            let turn = self.turn % mine.len();
            mine.rotate_left(turn);
        }
        mine
    }

    /// Hands the first `count` staged messages of a partition out, under one lease.
    fn deal(&mut self, seat: u64, n: u32, count: usize, now: Instant, out: &mut Vec<Delivery>) {
        let (Some(me), Some(part)) = (self.seats.get_mut(&seat), self.parts.get_mut(&n)) else { return };
        me.held += count;
        part.flying += count;
        out.reserve(count);
        let fence = if self.order == Order::None { 0 } else { part.tracker.fence };
        let max_attempts = me.options.max_attempts;
        let terms = Terms { seat, partition: n, born: part.born, max_attempts };
        let messages =
            part.unload(count).map(|Staged { offset, attempt, parcel, .. }| (offset, attempt, parcel));
        self.hands.deal(terms, now + me.options.ack_wait, messages, |receipt, offset, attempt, parcel| {
            let (message, time) = (parcel.message.clone(), parcel.time);
            out.push(Delivery { message, position: Position::new(n, offset), time, attempt, fence, receipt });
        });
    }
}

/// How many are staged between two looks at the bytes.
const SOME: usize = 256;

/// Whether `seat` may take from here. A new owner waits until the last one's deliveries are settled or expired, and
/// gets a larger token: larger than the clock's, so that it rises even if Kafka forgot the group's commits.
fn own(part: &mut Part, order: Order, seat: u64, now: Timestamp) -> bool {
    if order == Order::None || part.owner == seat {
        return true;
    }
    if part.flying > 0 {
        return false;
    }
    part.unstage();
    part.owner = seat;
    part.tracker.fence = (part.tracker.fence + 1).max(now.as_millisecond().unsigned_abs());
    part.dirty = true;
    true
}

/// Stages up to `wanted` messages; says how many. Ahead of anybody's asking no more than memory allows.
#[allow(clippy::too_many_arguments, reason = "one loop, used in one place")]
fn stage(
    part: &mut Part,
    n: u32,
    wanted: usize,
    max_attempts: u32,
    now: Timestamp,
    version: u64,
    ahead: bool,
    hopeless: &mut Vec<Hopeless>,
) -> Result<usize, KafkaError> {
    let before = part.staged.len();
    let mut left = wanted;
    while left > 0 && !(ahead && part.staged_bytes >= BYTES) {
        let (some, at) = (left.min(SOME), part.staged.len());
        stage_some(part, n, some, max_attempts, now, version, ahead, hopeless)?;
        left -= some;
        if part.staged.len() - at < some {
            break;
        }
    }
    Ok(part.staged.len() - before)
}

/// Stages up to `wanted` messages, whatever their size.
#[allow(clippy::too_many_arguments, reason = "one loop, used in one place")]
fn stage_some(
    part: &mut Part,
    n: u32,
    wanted: usize,
    max_attempts: u32,
    now: Timestamp,
    version: u64,
    ahead: bool,
    hopeless: &mut Vec<Hopeless>,
) -> Result<(), KafkaError> {
    let mut taken = part.take(wanted, now)?.into_iter();
    while let Some((offset, parcel)) = taken.next() {
        let attempts = part.tracker.attempts(offset);
        if ahead && (attempts > 0 || max_attempts == 1) {
            // Nothing behind it passes it.
            part.skipped |= attempts > 0;
            part.insert(offset, Timestamp::MIN, parcel);
            taken.for_each(|(offset, parcel)| part.insert(offset, Timestamp::MIN, parcel));
            break;
        }
        if attempts >= max_attempts {
            let (born, reason) = (part.born, NO_REPLY.to_owned());
            hopeless.push(Hopeless { partition: n, born, offset, attempts, reason, parcel });
            continue;
        }
        let attempt = part.tracker.hold(offset);
        part.load(Staged { offset, attempt, parcel, version });
    }
    Ok(())
}
