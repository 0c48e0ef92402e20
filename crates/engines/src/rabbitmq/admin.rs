//! Requests about exchanges and queues. A refusal ends a channel, so each goes to one that lives.

use std::time::Duration;

use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicGetOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};
use linchpin_core::Result;
use tokio::time::{Instant, timeout};

use super::error;
use super::link::{Link, asked};
use super::names::Names;

/// How often a queue takes a message back before it drops it: as good as always.
const RETURNS: i64 = 1_000_000_000;
/// An answer about a queue that took longer may be the server's guess: it waits for the queue for 250 ms.
pub(super) const GUESS: Duration = Duration::from_millis(200);
/// More nodes than clusters have.
const EVERY_NODE: i64 = 99;
/// How long a queue lives that was made for its own sake, should its maker die, in milliseconds.
const PASSING_MS: i64 = 60_000;

/// A channel for such requests.
pub(super) struct Admin<'c> {
    link: &'c Link,
    within: Duration,
    channel: Option<Channel>,
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// Arguments of a queue, in the order they are given.
pub(super) fn table<const N: usize>(pairs: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert(name.into(), value);
    }
    table
}

impl<'c> Admin<'c> {
    pub(super) fn new(link: &'c Link, within: Duration) -> Self {
        Self { link, within, channel: None }
    }

    pub(super) async fn channel(&mut self) -> Result<Channel> {
        if let Some(channel) = self.channel.as_ref().filter(|channel| channel.status().connected()) {
            return Ok(channel.clone());
        }
        let channel = self.link.channel().await?;
        self.channel = Some(channel.clone());
        Ok(channel)
    }

    /// A new quorum queue that takes a message back as often as need be; to be sealed before it is used. One that is there was
    /// left by a try that ended early.
    pub(super) async fn quorum(&mut self, name: &str, mut arguments: FieldTable) -> Result<()> {
        self.delete_queue(name).await?;
        arguments.insert("x-queue-type".into(), text("quorum"));
        // Since 4.0 it would be 20. That -1 is none is new as well: before, it drops what comes back.
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(RETURNS));
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let channel = self.channel().await?;
        let declared = asked(self.within, channel.queue_declare(name.into(), options, arguments)).await;
        declared.map(drop).map_err(|e| e.with("queue", name))
    }

    /// Makes those queues outlive the server that were made before, and those stay away that were removed: nothing may be stored in a
    /// queue that wasn't sealed.
    ///
    /// A node notes which log belongs to which queue in a file that it writes seconds later. Killed before that, it knows the
    /// queue but not its log, and begins an empty one. It writes the file at once when it looks for a name that it
    /// hasn't met, so it is made to look for one, on every node. Servers with rabbitmq/ra#443 write it by themselves.
    pub(super) async fn seal(&mut self, names: &Names) -> Result<()> {
        let (name, options) = (names.seal(), QueueDeclareOptions { durable: true, ..Default::default() });
        let arguments = table([
            ("x-queue-type", text("quorum")),
            ("x-quorum-initial-group-size", AMQPValue::LongLongInt(EVERY_NODE)),
            ("x-expires", AMQPValue::LongLongInt(PASSING_MS)),
        ]);
        let channel = self.channel().await?;
        asked(self.within, channel.queue_declare(name.as_str().into(), options, arguments)).await?;
        self.delete_queue(&name).await
    }

    /// A queue of this connection alone; false if another has it.
    pub(super) async fn own(&mut self, name: &str) -> Result<bool> {
        let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let channel = self.channel().await?;
        let declaring =
            async { Ok(channel.queue_declare(name.into(), options, FieldTable::default()).await.map(drop)) };
        match asked(self.within, declaring).await? {
            Err(said) if error::is_locked(&said) => Ok(false),
            answer => answer.map(|()| true).map_err(error::map),
        }
    }

    /// Messages that wait in a queue, and its consumers; `None` if it isn't there.
    pub(super) async fn count(&mut self, name: &str) -> Result<Option<(u64, u64)>> {
        let channel = self.channel().await?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let asking = async { Ok(channel.queue_declare(name.into(), options, FieldTable::default()).await) };
        match asked(self.within, asking).await? {
            Ok(queue) => Ok(Some((queue.message_count().into(), queue.consumer_count().into()))),
            Err(said) if error::is_missing(&said) => Ok(None),
            Err(said) => Err(error::map(said)),
        }
    }

    /// The same, and no guess: a queue that doesn't answer its server in time is said to have nothing.
    pub(super) async fn sure_count(&mut self, name: &str) -> Result<Option<(u64, u64)>> {
        let started = Instant::now();
        loop {
            let asked = Instant::now();
            let count = self.count(name).await?;
            if count.is_none() || asked.elapsed() < GUESS {
                return Ok(count);
            }
            if started.elapsed() > self.within {
                return Err(error::late(self.within));
            }
        }
    }

    pub(super) async fn exchange(&mut self, name: &str, kind: ExchangeKind) -> Result<()> {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let channel = self.channel().await?;
        let declaring = channel.exchange_declare(name.into(), kind, options, FieldTable::default());
        asked(self.within, declaring).await.map_err(|e| e.with("exchange", name))
    }

    pub(super) async fn is_exchange(&mut self, name: &str) -> Result<bool> {
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        let channel = self.channel().await?;
        let asking = async {
            let kind = ExchangeKind::Direct;
            Ok(channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await)
        };
        match asked(self.within, asking).await? {
            Err(said) if error::is_missing(&said) => Ok(false),
            answer => answer.map(|()| true).map_err(error::map),
        }
    }

    pub(super) async fn bind(&mut self, queue: &str, exchange: &str, key: &str) -> Result<()> {
        let channel = self.channel().await?;
        let options = QueueBindOptions::default();
        let binding =
            channel.queue_bind(queue.into(), exchange.into(), key.into(), options, FieldTable::default());
        asked(self.within, binding).await
    }

    pub(super) async fn delete_queue(&mut self, name: &str) -> Result<()> {
        let channel = self.channel().await?;
        let deleting = async { Ok(channel.queue_delete(name.into(), QueueDeleteOptions::default()).await) };
        match asked(self.within, deleting).await? {
            Err(said) if error::is_missing(&said) => Ok(()),
            answer => answer.map(drop).map_err(error::map),
        }
    }

    pub(super) async fn delete_exchange(&mut self, name: &str) -> Result<()> {
        let channel = self.channel().await?;
        let options = ExchangeDeleteOptions::default();
        let deleting = async { Ok(channel.exchange_delete(name.into(), options).await) };
        match asked(self.within, deleting).await? {
            Err(said) if error::is_missing(&said) => Ok(()),
            answer => answer.map_err(error::map),
        }
    }

    pub(super) async fn purge(&mut self, name: &str) -> Result<()> {
        let channel = self.channel().await?;
        asked(self.within, channel.queue_purge(name.into(), QueuePurgeOptions::default())).await.map(drop)
    }

    /// Takes one message in hand; it goes back when the channel ends.
    pub(super) async fn get(&mut self, name: &str) -> Result<Option<BasicGetMessage>> {
        let channel = self.channel().await?;
        asked(self.within, channel.basic_get(name.into(), BasicGetOptions::default())).await
    }

    /// Ends the channel: what it has in hand goes back.
    pub(super) async fn close(&mut self) {
        if let Some(channel) = self.channel.take() {
            // One that is gone is as good.
            let _ = timeout(self.within, channel.close(200, "done".into())).await;
        }
    }
}
