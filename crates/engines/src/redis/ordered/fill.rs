//! Reading ahead into the gates.

use std::time::{Duration, Instant};

use linchpin_core::time::from_millis;
use linchpin_core::{Result, Timestamp};

use super::super::core::lock;
use super::super::entry::{Entry, decode};
use super::super::error::map;
use super::super::hints::POLL;
use super::super::script::{Call, READ};
use super::{Member, Ordered, Waits};

/// The least that is read ahead.
const CHUNK: usize = 256;

/// What to read of an owned partition: this backlog, or else up to `count` new messages.
struct Reading {
    partition: u32,
    fence: u64,
    backlog: Vec<Waits>,
    count: usize,
}

impl Ordered {
    /// Takes the next of each backlog.
    fn readings(&mut self, wanted: usize, most: usize) -> Vec<Reading> {
        let now = Instant::now();
        let count = wanted.max(CHUNK).min(most.saturating_sub(self.held()));
        let open = self.owned.iter_mut().filter(|(_, o)| !o.leaving && !o.gate.is_shut() && count > 0);
        let ready = open.filter(|(_, o)| !o.backlog.is_empty() || now >= o.read_at);
        let reading = ready.map(|(n, o)| {
            let some = o.backlog.len().min(count);
            let backlog = o.backlog.drain(..some).collect();
            Reading { partition: *n, fence: o.fence, backlog, count }
        });
        reading.collect()
    }
}

impl Member {
    /// Fills the gates: what waited when a partition was taken first, then what was never handed out.
    pub(super) async fn fill(&self, wanted: usize) -> Result<()> {
        let most = self.options.max_in_flight.max(CHUNK * 4);
        let readings = lock(&self.state).ordered().map(|ordered| ordered.readings(wanted, most));
        let filling = readings.unwrap_or_default().into_iter().map(|reading| async move {
            let partition = reading.partition;
            let filled = if reading.backlog.is_empty() {
                self.read(partition, reading.fence, reading.count).await
            } else {
                self.load(partition, reading.fence, reading.backlog).await
            };
            if filled.is_err() {
                // What wasn't read is missing in the gate: the partition is taken anew.
                lock(&self.state).lose(partition);
            }
            filled
        });
        // To the end of each: one that is cut off would leave what it took from its backlog nowhere.
        futures_util::future::join_all(filling).await.into_iter().collect()
    }

    /// Reads the bodies of what waits.
    async fn load(&self, partition: u32, fence: u64, ids: Vec<Waits>) -> Result<()> {
        let stream = self.core.keys.stream(&self.topic.name, partition);
        let mut pipeline = redis::pipe();
        for (id, ..) in &ids {
            pipeline.cmd("XRANGE").arg(&stream).arg(id.to_string()).arg(id.to_string());
        }
        let answers = self.core.link.pipeline(pipeline, &stream, "next").await?;
        for ((id, attempts, due), answer) in ids.into_iter().zip(answers) {
            let read = redis::from_redis_value::<Vec<Entry>>(answer?);
            let entries = read.map_err(|e| map(e.into(), "next"))?;
            let Some(entry) = entries.into_iter().next() else {
                self.ack_all(vec![self.grip(partition, id, 0, fence, 0)]).await?;
                continue;
            };
            let message = decode(&stream, id, entry.fields);
            if let Some(owned) = lock(&self.state).ordered().and_then(|o| o.owned.get_mut(&partition))
                && owned.fence == fence
            {
                owned.put(id, message, attempts, from_millis(due));
            }
        }
        Ok(())
    }

    /// Reads what was never handed out.
    async fn read(&self, partition: u32, fence: u64, count: usize) -> Result<()> {
        let Some(keys) = self.keys_of(partition) else { return Ok(()) };
        let call = Call::new(&READ).keys(keys).text(&self.joined.group).text(&self.joined.consumer);
        let call = call.text(&self.joined.born).number(fence).number(count).text(&self.channel);
        let began = Instant::now();
        let read = self.core.link.call::<(i64, bool, i64, Vec<Entry>)>(&call, "next").await;
        let (now, mine, due, entries) = read.map_err(|e| self.gone(e))?;
        let mut state = lock(&self.state);
        if !mine {
            state.lose(partition);
            return Ok(());
        }
        let Some(ordered) = state.ordered() else { return Ok(()) };
        ordered.heard(now);
        let Some(owned) = ordered.owned.get_mut(&partition).filter(|owned| owned.fence == fence) else {
            return Ok(());
        };
        if entries.is_empty() {
            let wait = Duration::from_millis((due - now).max(1).unsigned_abs());
            owned.read_at = began + if due < 0 { POLL } else { wait.min(POLL) };
        }
        for Entry { id, fields } in entries {
            owned.put(id, decode(&keys[0], id, fields), 0, Timestamp::MIN);
        }
        Ok(())
    }
}
