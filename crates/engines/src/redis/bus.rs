//! The engine.

use std::sync::Arc;

use async_trait::async_trait;
use linchpin_core::Result;
use linchpin_core::bus::{
    BusEngine, Caps, Info, Message, Position, PublishOptions, Start, SubscribeOptions, Subscription,
    TopicOptions, TopicStats, check_name, check_options,
};

use super::NAME;
use super::core::Core;
use super::form::{Form, STREAMS};
use super::member::Member;
use super::state::SHELF;
use super::subscription::RedisSubscription;
use super::topic::check_start;
use super::url::Config;

/// A bus on Redis streams, or on lists. See the [module](super) for how it works and [`Config`] for its options.
#[derive(Debug)]
pub struct RedisBus {
    core: Arc<Core>,
    info: Info,
}

impl RedisBus {
    /// Connects to the server, or to the cluster.
    ///
    /// # Errors
    /// `Denied` for a wrong password, `Unavailable` for a server that can't be reached.
    pub async fn open(config: Config) -> Result<Self> {
        let durability = if config.cluster {
            "in the memory of its primary, and in that one's log as `appendonly` and `appendfsync` say: under `everysec` a kill can lose up to two seconds on a busy disk; a replica that takes over may lack the last of it"
        } else {
            "in the server's memory, and in its log as `appendonly` and `appendfsync` say: under `everysec` a kill can lose up to two seconds on a busy disk, under `always` nothing"
        };
        Self::in_form(config, &STREAMS, durability).await
    }

    pub(super) async fn in_form(
        config: Config,
        form: &'static Form,
        durability: &'static str,
    ) -> Result<Self> {
        let info = Info { engine: form.name, url: config.url.clone(), durability };
        Ok(Self { core: Core::open(config, form).await?, info })
    }
}

#[async_trait]
impl BusEngine for RedisBus {
    fn info(&self) -> &Info {
        &self.info
    }

    fn caps(&self) -> Caps {
        Caps { failover: !self.core.link.is_cluster(), ..self.core.form.caps }
    }

    // All commands of a bus go through one connection, in order. Only what a cluster moved is sent again, and the script of
    // lists, where the server doesn't know it.
    fn publishes_at_once(&self) -> usize {
        if self.core.link.is_cluster() || self.core.form.lists { 1 } else { 2 }
    }

    async fn ensure(&self, topic: &str, options: &TopicOptions) -> Result<()> {
        let check = || check_name("topic", topic).and_then(|()| check_options(options));
        check().map_err(|e| e.engine(NAME).op("ensure"))?;
        self.core.ensure(topic, options).await.map_err(|e| e.op("ensure").with("topic", topic))
    }

    async fn remove(&self, topic: &str, group: Option<&str>) -> Result<()> {
        let removed = match group {
            Some(group) => self.core.remove_group(topic, group).await,
            None => self.core.remove_topic(topic).await,
        };
        removed.map_err(|e| e.op("remove"))
    }

    async fn publish(
        &self,
        topic: &str,
        messages: Vec<Message>,
        options: &PublishOptions,
    ) -> Vec<Result<Position>> {
        self.core.store_all(topic, messages, options.partitioner).await
    }

    async fn subscribe(&self, topic: &str, options: &SubscribeOptions) -> Result<Box<dyn Subscription>> {
        let known = self.core.look_up(topic, "subscribe").await?;
        let partitions = known.options.partitions;
        let check = || options.check(partitions).and_then(|()| check_start(options.start, partitions));
        check().map_err(|e| e.engine(NAME).op("subscribe"))?;
        self.core.form.check(options).map_err(|e| e.op("subscribe"))?;
        let joined = self.core.join(&known, options, 2 * SHELF).await?;
        let member = Member::new(self.core.clone(), known, joined, options.clone());
        self.core.add(&member);
        tokio::spawn(member.clone().run());
        // Those who are there share with it.
        self.core.tell(topic);
        Ok(Box::new(RedisSubscription(member)))
    }

    async fn stats(&self, topic: Option<&str>) -> Result<Vec<TopicStats>> {
        self.core.stats(topic).await
    }

    async fn seek(&self, topic: &str, group: &str, to: Start) -> Result<()> {
        if !self.core.form.caps.replay {
            self.core.look_up(topic, "seek").await?;
            return Err(self.core.form.unsupported("replay").op("seek"));
        }
        self.core.seek(topic, group, to).await
    }

    async fn trim(&self, topic: &str) -> Result<u64> {
        if !self.core.form.caps.retention {
            return self.core.look_up(topic, "trim").await.map(|_| 0);
        }
        self.core.trim(topic).await
    }

    async fn close(&self) -> Result<()> {
        if !self.core.shut() {
            return Ok(());
        }
        let members = self.core.members();
        // What can't be handed back now comes back when its lease ends.
        let leaving = members.iter().map(|member| member.leave());
        futures_util::future::join_all(leaving).await;
        self.core.stop();
        Ok(())
    }
}
