//! What everything of one bus shares.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_nats::jetstream::stream::RawMessage;
use linchpin_core::bus::TopicOptions;
use linchpin_core::{Kind, Result};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::clock::ServerClock;
use super::link::Link;
use super::member::Member;
use super::message::{message, raw, time};
use super::names::Names;
use super::page::lock;
use super::reader::Read;
use super::store::Store;
use super::topic::{self, Topic};
use super::trim;
use super::url::Config;

/// How long a topic is believed to be as it was found.
const KNOWN: Duration = Duration::from_secs(5);
/// How often a topic in use is trimmed.
const TRIM: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Core {
    pub(super) link: Arc<Link>,
    pub(super) names: Names,
    pub(super) store: Arc<Store>,
    pub(super) clock: ServerClock,
    pub(super) config: Config,
    topics: Mutex<HashMap<String, (Instant, Arc<Topic>)>>,
    members: Mutex<Vec<Weak<Member>>>,
    trimmed: Mutex<HashMap<String, Instant>>,
}

impl Core {
    pub(super) async fn open(config: Config) -> Result<Arc<Self>> {
        let link = Arc::new(Link::open(&config).await?);
        let names = Names::new(&config.prefix);
        let store = Arc::new(Store::new(link.clone(), names.clone(), config.replicas));
        let clock = ServerClock::default();
        let (topics, members, trimmed) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok(Arc::new(Self { link, names, store, clock, config, topics, members, trimmed }))
    }

    /// The topic, as it was found lately.
    pub(super) async fn topic(&self, name: &str) -> Result<Arc<Topic>> {
        self.link.check_open()?;
        let known = lock(&self.topics).get(name).filter(|(at, _)| at.elapsed() < KNOWN).cloned();
        match known {
            Some((_, topic)) => Ok(topic),
            None => self.look_up(name).await,
        }
    }

    /// The topic as it is now.
    pub(super) async fn look_up(&self, name: &str) -> Result<Arc<Topic>> {
        self.link.check_open()?;
        match topic::get(&self.link, &self.names, name).await {
            Ok(topic) => Ok(self.remember(topic)),
            Err(e) => {
                self.forget(name);
                Err(e)
            }
        }
    }

    pub(super) fn remember(&self, topic: Topic) -> Arc<Topic> {
        let topic = Arc::new(topic);
        lock(&self.topics).insert(topic.name.clone(), (Instant::now(), topic.clone()));
        topic
    }

    pub(super) fn forget(&self, name: &str) {
        lock(&self.topics).remove(name);
    }

    /// Creates the topic of dead letters beside `origin` if it isn't there.
    pub(super) async fn ensure_grave(&self, grave: &str, origin: &Topic) -> Result<Arc<Topic>> {
        match self.topic(grave).await {
            Err(e) if e.kind() == Kind::NotFound => {
                let forever =
                    TopicOptions { retention_age: None, retention_length: None, ..origin.options.clone() };
                let made =
                    topic::ensure(&self.link, &self.names, grave, &forever, self.config.replicas).await?;
                Ok(self.remember(made))
            }
            found => found,
        }
    }

    /// One stored message; `None` if it isn't there any more.
    pub(super) async fn fetch(&self, topic: &Topic, offset: u64) -> Result<Option<Read>> {
        #[derive(Deserialize)]
        struct Got {
            message: RawMessage,
        }
        let subject = format!("STREAM.MSG.GET.{}", topic.stream);
        let got = match self.link.call::<Got>(&subject, &json!({ "seq": offset })).await {
            Ok(got) => raw(got.message)?,
            Err(e) if e.kind() == Kind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let read = message(Some(&got.headers), got.payload, &topic.stream, offset);
        Ok(Some(Read { offset, message: read, time: time(got.time) }))
    }

    /// Tells those members in this process that what they are members of was removed.
    pub(super) fn end(&self, which: impl Fn(&Member) -> bool) {
        self.members().iter().filter(|member| which(member)).for_each(|member| member.end());
    }

    /// Tells the members of a group, wherever they are, to look at it. It may get lost: they look by themselves too.
    pub(super) async fn tell(&self, topic: &str, group: &str) {
        let subject = self.names.news(topic, group);
        if let Err(e) = self.link.client.publish(subject, bytes::Bytes::new()).await {
            tracing::debug!(error = %e, "the members weren't told");
        }
    }

    /// Applies the topic's retention in the background, if that wasn't done lately.
    pub(super) fn trim_now_and_then(self: &Arc<Self>, topic: &Topic) {
        let keeps_all = topic.options.retention_age.is_none() && topic.options.retention_length.is_none();
        if keeps_all || !topic.ours {
            return;
        }
        {
            let mut trimmed = lock(&self.trimmed);
            let last = trimmed.entry(topic.name.clone()).or_insert_with(Instant::now);
            if last.elapsed() < TRIM {
                return;
            }
            *last = Instant::now();
        }
        let (core, name) = (self.clone(), topic.name.clone());
        tokio::spawn(async move {
            let trimming =
                async { trim::trim(&core, topic::get(&core.link, &core.names, &name).await?).await };
            if let Err(e) = trimming.await {
                tracing::debug!(error = %e, topic = name, "retention wasn't applied");
            }
        });
    }

    pub(super) fn join(&self, member: &Arc<Member>) {
        let mut members = lock(&self.members);
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(member));
    }

    pub(super) fn members(&self) -> Vec<Arc<Member>> {
        lock(&self.members).iter().filter_map(Weak::upgrade).collect()
    }
}
