//! Where deliveries come from: one queue, on a channel of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use linchpin_core::Result;
use tokio::time::timeout;

use super::core::lock;
use super::error;
use super::link::asked;
use super::message::Stored;
use super::send::{To, acknowledge, prove, store};

/// A copy that takes the place of a delivery.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) tag: u64,
    pub(super) to: To,
    pub(super) stored: Stored,
}

#[derive(Debug)]
pub(super) struct Source {
    pub(super) id: u64,
    pub(super) queue: String,
    pub(super) channel: Channel,
    within: Duration,
    /// Whether the queue outlives its connection: only then is there something to prove.
    durable: bool,
    tags: Mutex<Tags>,
    /// One batch of settles at a time.
    turn: tokio::sync::Mutex<()>,
}

/// What isn't settled.
#[derive(Debug, Default)]
struct Tags {
    /// Behind each delivery, the grant it came by.
    open: BTreeMap<u64, u32>,
    /// All that came up to this one was read, and of what came later, this was.
    read: u64,
    ahead: BTreeSet<u64>,
    /// Grants so far: each is a consumer of its own.
    grants: u32,
    active: bool,
    /// What the active consumer may have unsettled, and has.
    granted: u32,
    used: u32,
    broken: bool,
    /// Closed, because it isn't needed any more.
    left: bool,
}

impl Tags {
    /// The server counts up by one; two consumers of a channel may be read out of turn.
    fn read(&mut self, tag: u64) {
        self.ahead.insert(tag);
        while self.ahead.first() == Some(&(self.read + 1)) {
            self.ahead.pop_first();
            self.read += 1;
        }
    }
}

impl Source {
    pub(super) fn new(id: u64, queue: String, channel: Channel, within: Duration, durable: bool) -> Self {
        Self {
            id,
            queue,
            channel,
            within,
            durable,
            tags: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Lets `count` more deliveries come, by a new consumer in place of the one there is; `None` if that one may still get some.
    ///
    /// A queue takes back, and counts, what is on its way to a consumer that is cancelled. So one is replaced when it has got all it
    /// may have, and while nothing is settled, which would let it get more.
    pub(super) async fn grant(&self, count: u32) -> Result<Option<(u32, Consumer)>> {
        let _turn = self.turn.lock().await;
        if self.free() > 0 {
            return Ok(None);
        }
        self.cancel().await?;
        let count = count.min(u32::from(u16::MAX));
        let grant = {
            let mut tags = lock(&self.tags);
            tags.grants += 1;
            (tags.granted, tags.used, tags.active) = (count, 0, true);
            tags.grants
        };
        let prefetch = u16::try_from(count).unwrap_or(u16::MAX);
        asked(self.within, self.channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
        let options = BasicConsumeOptions::default();
        let tag = format!("{grant}").as_str().into();
        let consuming =
            self.channel.basic_consume(self.queue.as_str().into(), tag, options, FieldTable::default());
        Ok(Some((grant, asked(self.within, consuming).await?)))
    }

    /// Settles nothing until this is dropped.
    pub(super) async fn hold(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Lets nothing more come. What came before may still have to be read.
    pub(super) async fn cancel(&self) -> Result<()> {
        let grant = {
            let mut tags = lock(&self.tags);
            if !std::mem::take(&mut tags.active) {
                return Ok(());
            }
            tags.grants
        };
        let tag = format!("{grant}").as_str().into();
        asked(self.within, self.channel.basic_cancel(tag, BasicCancelOptions::default())).await
    }

    /// Whether this is the consumer that is to bring deliveries.
    pub(super) fn is_active(&self, grant: u32) -> bool {
        let tags = lock(&self.tags);
        tags.active && tags.grants == grant
    }

    /// How many the consumer may have unsettled.
    pub(super) fn granted(&self) -> u32 {
        lock(&self.tags).granted
    }

    /// How many more may come.
    pub(super) fn free(&self) -> u32 {
        let tags = lock(&self.tags);
        if tags.active { tags.granted.saturating_sub(tags.used) } else { 0 }
    }

    pub(super) fn arrived(&self, tag: u64, grant: u32) {
        let mut tags = lock(&self.tags);
        tags.read(tag);
        tags.open.insert(tag, grant);
        if tags.grants == grant {
            tags.used += 1;
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        lock(&self.tags).broken || !self.channel.status().connected()
    }

    /// Whether it was closed because it isn't needed any more.
    pub(super) fn is_left(&self) -> bool {
        lock(&self.tags).left
    }

    /// Everything unsettled goes back: what became of it is unknown, or nobody needs the channel any more.
    pub(super) fn fail(&self) {
        lock(&self.tags).broken = true;
        let (channel, within) = (self.channel.clone(), self.within);
        tokio::spawn(async move {
            // One that is gone is as good.
            let _ = timeout(within, channel.close(200, "failed".into())).await;
        });
    }

    /// Ends the channel once what is being settled is settled; what is unsettled goes back.
    pub(super) async fn close(&self) {
        let _turn = self.turn.lock().await;
        {
            let mut tags = lock(&self.tags);
            (tags.broken, tags.left) = (true, true);
        }
        let _ = timeout(self.within, self.channel.close(200, "done".into())).await;
    }

    /// Acknowledges for good.
    pub(super) async fn done(&self, settled: &[u64]) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.acknowledge(settled, self.durable).await
    }

    /// Acknowledges what was stored elsewhere: should a crash undo it, there are two of it, not none.
    pub(super) async fn moved(&self, settled: &[u64]) -> Result<()> {
        let _turn = self.turn.lock().await;
        self.acknowledge(settled, false).await
    }

    /// Stores the copies, and acknowledges what they replace. A crash between the two leaves both.
    pub(super) async fn replace(&self, copies: Vec<Copy>) -> Result<()> {
        if copies.is_empty() {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        let settled: Vec<u64> = copies.iter().map(|copy| copy.tag).collect();
        self.store(copies.into_iter().map(|copy| (copy.to, copy.stored)).collect()).await?;
        self.acknowledge(&settled, false).await
    }

    /// Stores messages through this channel: it is known to live when what it holds is replaced.
    pub(super) async fn store(&self, messages: Vec<(To, Stored)>) -> Result<()> {
        let message = |(to, stored): (To, Stored)| (to, stored.message.payload.to_vec(), stored.properties());
        let stored = store(&self.channel, self.within, messages.into_iter().map(message).collect()).await;
        stored.inspect_err(|_| self.fail())
    }

    async fn acknowledge(&self, settled: &[u64], proven: bool) -> Result<()> {
        let mut rest: BTreeSet<u64> = settled.iter().copied().collect();
        let upto = {
            let tags = lock(&self.tags);
            if tags.broken {
                return Err(error::fenced());
            }
            // What wasn't read yet must not go with what was settled.
            let first = tags.open.keys().take_while(|tag| rest.contains(tag) && **tag <= tags.read);
            first.copied().last()
        };
        if let Some(upto) = upto {
            rest = rest.split_off(&(upto + 1));
        }
        let single: Vec<u64> = rest.into_iter().collect();
        let proved = if proven {
            prove(&self.channel, self.within, &self.queue, upto, &single).await
        } else {
            let telling = timeout(self.within, acknowledge(&self.channel, upto, &single)).await;
            telling.unwrap_or_else(|_| Err(error::late(self.within)))
        };
        proved.inspect_err(|_| self.fail())?;
        let mut tags = lock(&self.tags);
        for tag in settled {
            if tags.open.remove(tag).is_some_and(|grant| grant == tags.grants) {
                tags.used = tags.used.saturating_sub(1);
            }
        }
        Ok(())
    }

    /// Drops a message that is none.
    pub(super) async fn drop_marker(&self, tag: u64) {
        lock(&self.tags).read(tag);
        // If it fails the marker comes again.
        let _ = asked(self.within, self.channel.basic_ack(tag, BasicAckOptions::default())).await;
    }
}
