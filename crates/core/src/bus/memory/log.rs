//! What a topic stores: a log per partition, and what waits for its publish delay.

use std::collections::{BTreeMap, VecDeque};

use crate::bus::{Message, Position, Start, TopicOptions};
use crate::time::plus;
use crate::{Timestamp, time};

#[derive(Debug)]
pub(super) struct Log {
    partitions: Vec<Partition>,
    delayed: BTreeMap<(Timestamp, u64), (u32, Message)>,
    last_delayed: u64,
}

/// Invariant: `stored[i]` has the offset `first + i`, and times never fall.
#[derive(Debug, Default)]
struct Partition {
    first: u64,
    stored: VecDeque<Stored>,
}

#[derive(Debug)]
pub(super) struct Stored {
    pub(super) message: Message,
    pub(super) time: Timestamp,
}

impl Partition {
    fn end(&self) -> u64 {
        self.first + self.stored.len() as u64
    }
}

impl Log {
    pub(super) fn new(partitions: u32) -> Self {
        let partitions = (0..partitions).map(|_| Partition::default()).collect();
        Self { partitions, delayed: BTreeMap::new(), last_delayed: 0 }
    }

    pub(super) fn partitions(&self) -> u32 {
        u32::try_from(self.partitions.len()).unwrap_or(u32::MAX)
    }

    fn partition(&self, n: u32) -> Option<&Partition> {
        self.partitions.get(n as usize)
    }

    /// Stores a message, or keeps it back until its delay has passed. The partition exists: it was checked.
    pub(super) fn append(&mut self, n: u32, mut message: Message, now: Timestamp) -> Position {
        if let Some(delay) = message.delay.take().filter(|delay| !delay.is_zero()) {
            self.last_delayed += 1;
            self.delayed.insert((plus(now, delay), self.last_delayed), (n, message));
            return Position { partition: n, offset: None };
        }
        let Some(partition) = self.partitions.get_mut(n as usize) else {
            return Position { partition: n, offset: None };
        };
        let offset = partition.end();
        let time = partition.stored.back().map_or(now, |last| last.time.max(now));
        message.partition = None;
        partition.stored.push_back(Stored { message, time });
        Position::new(n, offset)
    }

    /// Moves delayed messages that are due into the log.
    pub(super) fn release_due(&mut self, now: Timestamp) {
        while let Some(first) = self.delayed.first_entry().filter(|first| first.key().0 <= now) {
            let (n, message) = first.remove();
            self.append(n, message, now);
        }
    }

    /// When the next delayed message is due.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.delayed.first_key_value().map(|((due, _), _)| *due)
    }

    pub(super) fn get(&self, n: u32, offset: u64) -> Option<&Stored> {
        let partition = self.partition(n)?;
        partition.stored.get(usize::try_from(offset.checked_sub(partition.first)?).ok()?)
    }

    /// The first offset at or after `offset` that is still there; the end if there is none.
    pub(super) fn at_or_after(&self, n: u32, offset: u64) -> u64 {
        self.partition(n).map_or(0, |p| offset.clamp(p.first, p.end()))
    }

    pub(super) fn end(&self, n: u32) -> u64 {
        self.partition(n).map_or(0, Partition::end)
    }

    /// Where `start` lies in partition `n`.
    pub(super) fn locate(&self, n: u32, start: Start) -> u64 {
        let Some(partition) = self.partition(n) else { return 0 };
        match start {
            Start::Newest => partition.end(),
            Start::At(at) if at.partition == n => self.at_or_after(n, at.offset.unwrap_or(0)),
            Start::Time(time) => partition.first + partition.stored.partition_point(|s| s.time < time) as u64,
            Start::Oldest | Start::At(_) => partition.first,
        }
    }

    /// Removes what is too old or too many, oldest first, up to what `settled` says of a partition (`None`: no group).
    pub(super) fn trim(
        &mut self,
        options: &TopicOptions,
        now: Timestamp,
        settled: impl Fn(u32) -> Option<u64>,
    ) -> u64 {
        let mut surplus = options.retention_length.map_or(0, |keep| self.len().saturating_sub(keep));
        let mut removed = 0;
        loop {
            let settled =
                (0..).zip(&mut self.partitions).filter(|(n, p)| p.first < settled(*n).unwrap_or(u64::MAX));
            let oldest =
                settled.filter_map(|(_, p)| Some((p.stored.front()?.time, p))).min_by_key(|(time, _)| *time);
            let Some((time, partition)) = oldest else { return removed };
            if surplus == 0 && options.retention_age.is_none_or(|age| time::since(now, time) <= age) {
                return removed;
            }
            surplus = surplus.saturating_sub(1);
            partition.stored.pop_front();
            partition.first += 1;
            removed += 1;
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.partitions.iter().map(|p| p.stored.len() as u64).sum()
    }

    pub(super) fn delayed(&self) -> u64 {
        self.delayed.len() as u64
    }

    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.partitions.iter().filter_map(|p| p.stored.front()).map(|s| s.time).min()
    }
}
