//! Redis channels (`redis-pubsub:`): whoever listens gets what is published, and nothing is kept.
//!
//! A topic is a channel of its name, a message is its payload alone: `SUBSCRIBE` and `PUBLISH` of other programs
//! understand it. There is no place for a key, headers or an identity of one's own, so messages with a key or headers are refused
//! (`Unsupported`), and each subscriber gives a message an id of its own. No groups, no redelivery, no delay, no order between
//! members, no offsets: all of it answers `Unsupported`. A subscriber that is slower than its publishers, or cut off,
//! misses messages. Topics are known to the server, so that a misspelt one is `NotFound`.

mod subscription;

use std::sync::Arc;

use async_trait::async_trait;
use linchpin_core::bus::{
    BusEngine, Caps, Info, Message, Position, PublishOptions, Start, SubscribeOptions, Subscription,
    TopicOptions, TopicStats, check_name, check_options,
};
use linchpin_core::url::EngineUrl;
use linchpin_core::{Error, Kind, Result};

use self::subscription::Listener;
use super::core::{Core, lock};
use super::error::{NAME, closed, error};
use super::form::CHANNELS;
use super::url::Config;

/// Opens the bus on the server that `url` names.
///
/// # Errors
/// `Config` for wrong options, `Denied` for a wrong password, `Unavailable` for a server that can't be reached.
pub async fn open(url: &EngineUrl) -> Result<Arc<dyn BusEngine>> {
    let config = Config::from_url(url)?;
    let prefix = if config.prefix.is_empty() { String::new() } else { format!("{}:", config.prefix) };
    let durability = "nowhere: those who listen get it, and it is gone";
    let info = Info { engine: CHANNELS.name, url: config.url.clone(), durability };
    // Records of their own: a stream's topic may have the same name.
    let core = Core::open(Config { prefix: format!("{prefix}lp-pubsub"), ..config }, &CHANNELS).await?;
    Ok(Arc::new(PubsubBus { core, info, prefix, listeners: std::sync::Mutex::default() }))
}

#[derive(Debug)]
struct PubsubBus {
    core: Arc<Core>,
    info: Info,
    prefix: String,
    listeners: std::sync::Mutex<Vec<std::sync::Weak<subscription::State>>>,
}

fn unsupported(what: &str) -> Error {
    CHANNELS.unsupported(what)
}

impl PubsubBus {
    async fn send(&self, topic: &str, message: Message, limit: u64) -> Result<Position> {
        let size = message.size() as u64;
        if size > limit {
            return Err(error(
                Kind::Invalid,
                format!("a message of {size} bytes is over the limit of {limit}"),
            )
            .help("raise the topic's `max_message`, or store the content elsewhere and send a reference"));
        }
        if message.delay.is_some_and(|delay| !delay.is_zero()) {
            return Err(unsupported("delay"));
        }
        if message.key.is_some() || !message.headers.is_empty() {
            return Err(error(Kind::Unsupported, "a channel has no place for a key or headers")
                .help("leave them out, or use redis://, where they are fields of the entry"));
        }
        let mut cmd = redis::cmd("PUBLISH");
        cmd.arg(format!("{}{topic}", self.prefix)).arg(message.payload.as_ref());
        self.core.link.command(&cmd, "publish").await?;
        Ok(Position { partition: 0, offset: None })
    }
}

#[async_trait]
impl BusEngine for PubsubBus {
    fn info(&self) -> &Info {
        &self.info
    }

    fn caps(&self) -> Caps {
        CHANNELS.caps
    }

    async fn ensure(&self, topic: &str, options: &TopicOptions) -> Result<()> {
        let check = || check_name("topic", topic).and_then(|()| check_options(options));
        check().map_err(|e| e.engine(NAME).op("ensure"))?;
        self.core.check_open().map_err(|e| e.op("ensure"))?;
        if self.core.record(topic, options).await?.is_some() {
            self.core.ready(topic).await?;
        }
        self.core.changed(topic);
        Ok(())
    }

    async fn remove(&self, topic: &str, group: Option<&str>) -> Result<()> {
        self.core.look_up(topic, "remove").await?;
        if let Some(group) = group {
            let message = format!("topic {topic:?} has no group {group:?}");
            return Err(error(Kind::NotFound, message).op("remove").help("channels have no groups"));
        }
        self.core.erase(topic).await
    }

    async fn publish(
        &self,
        topic: &str,
        messages: Vec<Message>,
        _: &PublishOptions,
    ) -> Vec<Result<Position>> {
        let limit = match self.core.known(topic, "publish").await {
            Ok(known) => known.options.max_message,
            Err(e) => return vec![Err(e.op("publish").with("topic", topic)); messages.len()],
        };
        let mut answers = Vec::with_capacity(messages.len());
        for message in messages {
            let sent = self.send(topic, message, limit).await;
            answers.push(sent.map_err(|e| e.op("publish").with("topic", topic)));
        }
        answers
    }

    async fn subscribe(&self, topic: &str, options: &SubscribeOptions) -> Result<Box<dyn Subscription>> {
        let known = self.core.look_up(topic, "subscribe").await?;
        options.check(known.options.partitions).map_err(|e| e.engine(NAME).op("subscribe"))?;
        CHANNELS.check(options).map_err(|e| e.op("subscribe"))?;
        let channel = format!("{}{topic}", self.prefix);
        let listener = Listener::open(self.core.clone(), topic, channel, options.max_in_flight).await?;
        let mut listeners = lock(&self.listeners);
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(Arc::downgrade(&listener.state));
        Ok(Box::new(listener))
    }

    async fn stats(&self, topic: Option<&str>) -> Result<Vec<TopicStats>> {
        self.core.check_open().map_err(|e| e.op("stats"))?;
        let names = match topic {
            Some(topic) => vec![topic.to_owned()],
            None => self.core.catalogue().await?,
        };
        let mut all = Vec::new();
        for name in names {
            let known = self.core.look_up(&name, "stats").await?;
            all.push(TopicStats {
                topic: name,
                options: known.options.clone(),
                messages: 0,
                delayed: 0,
                oldest: None,
                groups: Vec::new(),
            });
        }
        Ok(all)
    }

    async fn seek(&self, topic: &str, group: &str, _: Start) -> Result<()> {
        check_name("group", group).map_err(|e| e.engine(NAME).op("seek"))?;
        self.core.look_up(topic, "seek").await?;
        Err(unsupported("replay").op("seek"))
    }

    async fn trim(&self, topic: &str) -> Result<u64> {
        self.core.look_up(topic, "trim").await.map(|_| 0)
    }

    async fn close(&self) -> Result<()> {
        if self.core.shut() {
            self.core.stop();
            let listeners = std::mem::take(&mut *lock(&self.listeners));
            listeners
                .iter()
                .filter_map(std::sync::Weak::upgrade)
                .for_each(|state| state.end(closed().op("next")));
        }
        Ok(())
    }
}
