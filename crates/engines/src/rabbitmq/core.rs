//! What everything of one bus shares.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use lapin::Channel;
use linchpin_core::bus::Round;
use linchpin_core::{Error, Result};
use tokio::time::Instant;

use super::admin::Admin;
use super::book::Entry;
use super::error;
use super::link::Link;
use super::member::Member;
use super::names::Names;
use super::url::Config;

/// How long a topic is believed to be as it was found.
const KNOWN: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Core {
    pub(super) config: Config,
    pub(super) names: Names,
    /// For requests.
    pub(super) link: Link,
    /// For publishing.
    pub(super) road: Link,
    /// For members, by the heartbeat they need.
    links: Mutex<HashMap<u16, Arc<Link>>>,
    /// Members of this process take turns with the book.
    pub(super) book: Arc<tokio::sync::Mutex<()>>,
    pub(super) made: AtomicBool,
    topics: Mutex<HashMap<String, Arc<Topic>>>,
    members: Mutex<Vec<Weak<Member>>>,
    closed: AtomicBool,
}

/// A topic as it was found.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: String,
    pub(super) entry: Entry,
    pub(super) lane: Arc<Lane>,
    found: Instant,
}

/// What publishing to a topic needs, for as long as it is known.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) round: Round,
    pub(super) channel: tokio::sync::Mutex<Option<Channel>>,
}

/// A poisoned lock is taken all the same: what it guards is whole between any two statements.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    pub(super) async fn open(config: Config) -> Result<Arc<Self>> {
        let seconds = (config.timeout.as_secs() / 4).clamp(1, 10);
        let heartbeat = u16::try_from(seconds).unwrap_or(10);
        let core = Arc::new(Self {
            names: Names::new(&config.prefix),
            link: Link::new(config.clone(), heartbeat),
            road: Link::new(config.clone(), heartbeat),
            links: Mutex::default(),
            book: Arc::default(),
            made: AtomicBool::new(false),
            topics: Mutex::default(),
            members: Mutex::default(),
            closed: AtomicBool::new(false),
            config,
        });
        core.link.channel().await?;
        Ok(core)
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(error::closed()) } else { Ok(()) }
    }

    /// Marks it closed; false if it was.
    pub(super) fn shut(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }

    pub(super) async fn hang_up(&self) {
        let links: Vec<_> = lock(&self.links).drain().map(|(_, link)| link).collect();
        let links = links.iter().map(|link| link.close());
        futures_util::future::join_all(links).await;
        self.road.close().await;
        self.link.close().await;
    }

    pub(super) fn admin(&self) -> Admin<'_> {
        Admin::new(&self.link, self.config.timeout)
    }

    /// A connection on which the server gives a silent client up within `ack_wait`: after three heartbeats at the latest.
    pub(super) fn link_for(&self, ack_wait: Duration) -> Arc<Link> {
        let seconds = u16::try_from((ack_wait.as_secs() / 3).clamp(1, 60)).unwrap_or(60);
        let new = || Arc::new(Link::new(self.config.clone(), seconds));
        lock(&self.links).entry(seconds).or_insert_with(new).clone()
    }

    /// The topic, as it was found lately.
    pub(super) async fn topic(self: &Arc<Self>, name: &str) -> Result<Arc<Topic>> {
        self.check_open()?;
        let known = lock(&self.topics).get(name).filter(|topic| topic.found.elapsed() < KNOWN).cloned();
        match known {
            Some(topic) => Ok(topic),
            None => self.look_up(name).await,
        }
    }

    /// The topic as it is now.
    pub(super) async fn look_up(self: &Arc<Self>, name: &str) -> Result<Arc<Topic>> {
        self.check_open()?;
        let held = self.open_book().await?;
        match held.book.topics.get(name) {
            Some(entry) => Ok(self.remember(name, entry.clone())),
            None => {
                self.forget(name);
                Err(error::missing(name))
            }
        }
    }

    pub(super) fn remember(&self, name: &str, entry: Entry) -> Arc<Topic> {
        let mut topics = lock(&self.topics);
        let lane = topics.get(name).map(|topic| topic.lane.clone()).unwrap_or_default();
        let topic = Arc::new(Topic { name: name.to_owned(), entry, lane, found: Instant::now() });
        topics.insert(name.to_owned(), topic.clone());
        topic
    }

    pub(super) fn forget(&self, name: &str) {
        lock(&self.topics).remove(name);
    }

    pub(super) fn add(&self, member: &Arc<Member>) {
        let mut members = lock(&self.members);
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(member));
    }

    /// Tells the members in this process that their group was removed, or, without one, their topic. Others hear it from the server.
    pub(super) fn end(&self, topic: &str, group: Option<&str>, gone: &Error) {
        let mine = |member: &Arc<Member>| {
            member.topic.name == topic && (group.is_none() || member.options.group.as_deref() == group)
        };
        for member in self.members().into_iter().filter(mine) {
            member.end(gone.clone());
        }
    }

    pub(super) fn members(&self) -> Vec<Arc<Member>> {
        lock(&self.members).iter().filter_map(Weak::upgrade).collect()
    }
}
