//! The engine.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::join_all;
use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use linchpin_core::bus::{
    BusEngine, Caps, Info, Message, Order, Position, PublishOptions, Start, SubscribeOptions, Subscription,
    TopicOptions, TopicStats, check_name, check_options,
};
use linchpin_core::{Error, Kind, Result};

use super::core::{Core, Topic, lock};
use super::driver::{Driver, enrol};
use super::link::asked;
use super::member::Member;
use super::notes::Facts;
use super::ordered::Owned;
use super::source::Source;
use super::subscription::RabbitSubscription;
use super::url::Config;
use super::{LEASE, NAME};

const DURABILITY: &str = "in a quorum queue per group and partition, in the log of most of its replicas and synced to \
                          their disks before the answer";

/// A bus on RabbitMQ. See the [module](super) for how it works and [`Config`] for its options.
#[derive(Debug)]
pub struct RabbitBus {
    core: Arc<Core>,
    info: Info,
}

impl RabbitBus {
    /// Connects.
    ///
    /// # Errors
    /// See [`open`](super::open).
    pub async fn open(config: Config) -> Result<Self> {
        let info = Info { engine: NAME, url: config.url.clone(), durability: DURABILITY };
        Ok(Self { core: Core::open(config).await?, info })
    }

    async fn join(&self, topic: Arc<Topic>, options: &SubscribeOptions) -> Result<Arc<Member>> {
        let core = &self.core;
        let Some(group) = options.group.as_deref() else {
            let member = Arc::new(Member::new(core.clone(), topic, None, options.clone()));
            let source = listen(&member).await?;
            let mut driver = Driver::new(member.clone(), None);
            driver.listen(source).await?;
            tokio::spawn(driver.run());
            return Ok(member);
        };
        let link = core.link_for(options.ack_wait);
        // It is counted while nobody else joins.
        let enter = async |slot: super::names::Slot| {
            let channel = link.channel().await?;
            let roster = enrol(&channel, &slot.roster(), core.config.timeout).await?;
            Ok((slot, channel, roster))
        };
        let (slot, channel, roster) = core.join(&topic.name, group, options, enter).await?;
        let member = Arc::new(Member::new(core.clone(), topic, Some(slot), options.clone()));
        tokio::spawn(Driver::new(member.clone(), Some((channel, roster))).run());
        Ok(member)
    }
}

/// A queue of a listener's own, which goes with it.
pub(super) async fn listen(member: &Arc<Member>) -> Result<Arc<Source>> {
    let within = member.core.config.timeout;
    let source = member.source(String::new()).await?;
    let options =
        QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let declaring = source.channel.queue_declare("".into(), options, FieldTable::default());
    let queue = asked(within, declaring).await?.name().to_string();
    let exchange = member.core.names.exchange(&member.topic.name);
    for partition in &member.parts {
        let (queue, key) = (queue.as_str().into(), partition.to_string());
        let (options, key) = (QueueBindOptions::default(), key.as_str().into());
        let exchange = exchange.as_str().into();
        asked(within, source.channel.queue_bind(queue, exchange, key, options, FieldTable::default()))
            .await?;
    }
    let source = Arc::new(Source::new(source.id, queue, source.channel.clone(), within, false));
    if member.options.order != Order::None {
        let owned = |partition: &u32| {
            (*partition, Owned::new(source.clone(), member.options.order, 1, Facts::default()))
        };
        lock(&member.state).owned = member.parts.iter().map(owned).collect();
    }
    Ok(source)
}

/// What groups need from those who join them, and this engine can give.
fn check(options: &SubscribeOptions, partitions: u32) -> Result<()> {
    options.check(partitions)?;
    if options.ack_wait < LEASE {
        let wait = options.ack_wait;
        return Err(Error::new(Kind::Invalid, format!("an ack_wait of {wait:?} is too short for RabbitMQ"))
            .help(
                "use 3s or more: a member's death is heard by three heartbeats, of at least a second each",
            ));
    }
    if matches!(options.start, Start::At(_) | Start::Time(_)) {
        return Err(Error::new(Kind::Unsupported, "a queue has no past to start at")
            .help("start at the oldest, which is what comes from now on, or use an engine with replay"));
    }
    Ok(())
}

fn said(op: &'static str) -> impl Fn(Error) -> Error {
    move |e| e.engine(NAME).op(op)
}

#[async_trait]
impl BusEngine for RabbitBus {
    fn info(&self) -> &Info {
        &self.info
    }

    fn caps(&self) -> Caps {
        Caps {
            durable: true,
            shared: true,
            groups: true,
            broadcast: true,
            ordered: true,
            redelivery: true,
            delay: true,
            replay: false,
            metadata: true,
            retention: false,
            offsets: false,
            failover: true,
        }
    }

    async fn ensure(&self, topic: &str, options: &TopicOptions) -> Result<()> {
        check_name("topic", topic).and_then(|()| check_options(options)).map_err(said("ensure"))?;
        self.core.ensure(topic, options).await.map(drop).map_err(said("ensure"))
    }

    async fn remove(&self, topic: &str, group: Option<&str>) -> Result<()> {
        let removed = match group {
            Some(group) => self.core.remove_group(topic, group).await,
            None => self.core.remove_topic(topic).await,
        };
        removed.map_err(said("remove"))
    }

    async fn publish(
        &self,
        topic: &str,
        messages: Vec<Message>,
        options: &PublishOptions,
    ) -> Vec<Result<Position>> {
        let answers = self.core.publish(topic, messages, options).await;
        answers.into_iter().map(|a| a.map_err(|e| said("publish")(e).with("topic", topic))).collect()
    }

    async fn subscribe(&self, topic: &str, options: &SubscribeOptions) -> Result<Box<dyn Subscription>> {
        let joining = async {
            let topic = self.core.topic(topic).await?;
            check(options, topic.entry.partitions)?;
            self.join(topic, options).await
        };
        let member = joining.await.map_err(said("subscribe"))?;
        self.core.add(&member);
        Ok(Box::new(RabbitSubscription(member)))
    }

    async fn stats(&self, topic: Option<&str>) -> Result<Vec<TopicStats>> {
        self.core.stats(topic).await.map_err(said("stats"))
    }

    async fn seek(&self, topic: &str, _: &str, _: Start) -> Result<()> {
        let known = self.core.look_up(topic).await;
        known.map_err(said("seek"))?;
        Err(said("seek")(Error::new(Kind::Unsupported, "a queue has no past to go back to")))
    }

    async fn trim(&self, topic: &str) -> Result<u64> {
        // What every group settled is gone already.
        self.core.look_up(topic).await.map(|_| 0).map_err(said("trim"))
    }

    async fn close(&self) -> Result<()> {
        if !self.core.shut() {
            return Ok(());
        }
        let members = self.core.members();
        let leaving = join_all(members.iter().map(|member| member.leave()));
        // What can't be handed back now comes back when the connection ends.
        let _late = tokio::time::timeout(self.core.config.timeout, leaving).await;
        self.core.hang_up().await;
        Ok(())
    }
}
