//! The engine.

use std::sync::Arc;

use async_trait::async_trait;
use linchpin_core::Result;
use linchpin_core::bus::{
    BusEngine, Caps, Info, Message, Position, PublishOptions, Start, SubscribeOptions, Subscription,
    TopicOptions, TopicStats, check_name, check_options,
};

use super::NAME;
use super::client::{Control, blocking};
use super::core::Core;
use super::publish::Producer;
use super::subscription::KafkaSubscription;
use super::topic::kafka_name;
use super::url::{Acks, Config};
use super::{delay, retain, seek, stats};

/// A bus on a Kafka cluster. See the [module](super) for how it works and [`Config`] for its options.
#[derive(Debug)]
pub struct KafkaBus {
    core: Arc<Core>,
    info: Info,
}

impl KafkaBus {
    /// Opens the cluster; the brokers must answer.
    ///
    /// # Errors
    /// See [`open`](super::open).
    pub async fn open(config: Config) -> Result<Self> {
        let control = Control::new(config.clone())?;
        let producer = Producer::new(config.clone())?;
        let durability = match config.acks {
            Acks::All => {
                "taken by every replica in step (acks=all) before the answer; Kafka writes to disk later"
            }
            Acks::Leader => {
                "taken by the partition's leader before the answer; what it didn't pass on dies with it"
            }
            Acks::None => "sent; nobody says whether it arrived",
        };
        let info = Info { engine: NAME, url: config.url.clone(), durability };
        let core = Core::new(config, control, producer);
        let bus = Self { core: Arc::new(core), info };
        bus.core.control.greet().await?;
        retain::spawn(&bus.core);
        Ok(bus)
    }
}

#[async_trait]
impl BusEngine for KafkaBus {
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
            replay: true,
            metadata: true,
            retention: true,
            offsets: self.core.config.acks != Acks::None,
            failover: self.core.config.acks == Acks::All,
        }
    }

    async fn ensure(&self, topic: &str, options: &TopicOptions) -> Result<()> {
        self.core.check("ensure")?;
        let check = || check_name("topic", topic).and_then(|()| check_options(options));
        check().map_err(|e| e.engine(NAME).op("ensure"))?;
        let kafka = kafka_name(&self.core.config.prefix, topic);
        let ensured = self.core.control.ensure(topic, &kafka, options).await;
        self.core.forget(topic);
        ensured.map_err(|e| e.engine(NAME).op("ensure").with("topic", topic))
    }

    async fn remove(&self, topic: &str, group: Option<&str>) -> Result<()> {
        self.core.check("remove")?;
        let known = self.core.look(topic, "remove").await?;
        match group {
            Some(group) => seek::remove_group(&self.core, topic, group).await,
            None => seek::remove_topic(&self.core, topic, &known.kafka).await,
        }
        .map_err(|e| e.engine(NAME).op("remove"))?;
        if group.is_none() {
            self.core.forget(topic);
        }
        Ok(())
    }

    async fn publish(
        &self,
        topic: &str,
        messages: Vec<Message>,
        options: &PublishOptions,
    ) -> Vec<Result<Position>> {
        self.core.publish(topic, messages, options).await
    }

    async fn subscribe(&self, topic: &str, options: &SubscribeOptions) -> Result<Box<dyn Subscription>> {
        self.core.check("subscribe")?;
        let (hub, seat) = self.core.hub(topic, options).await.map_err(|e| e.engine(NAME).op("subscribe"))?;
        delay::look(&self.core, topic).await;
        Ok(Box::new(KafkaSubscription::new(hub, seat)))
    }

    async fn stats(&self, topic: Option<&str>) -> Result<Vec<TopicStats>> {
        self.core.check("stats")?;
        stats::stats(&self.core, topic).await
    }

    async fn seek(&self, topic: &str, group: &str, to: Start) -> Result<()> {
        self.core.check("seek")?;
        check_name("group", group).map_err(|e| e.engine(NAME).op("seek"))?;
        seek::seek(&self.core, topic, group, to).await.map_err(|e| e.engine(NAME).op("seek"))
    }

    async fn trim(&self, topic: &str) -> Result<u64> {
        self.core.check("trim")?;
        retain::trim(&self.core, topic).await.map_err(|e| e.engine(NAME).op("trim"))
    }

    async fn close(&self) -> Result<()> {
        if !self.core.closes() {
            return Ok(());
        }
        for hub in self.core.hubs(None) {
            // What can't be handed back now comes back when its lease ends.
            let _left = hub.leave_all(self.core.config.timeout).await;
        }
        let core = self.core.clone();
        blocking("close", move || {
            core.producer.flush();
            Ok(())
        })
        .await
    }
}
