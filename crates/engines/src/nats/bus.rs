//! The engine.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::future::join_all;
use linchpin_core::bus::{
    BusEngine, Caps, Info, Message, Position, PublishOptions, Start, SubscribeOptions, Subscription,
    TopicOptions, TopicStats, check_name, check_options,
};
use linchpin_core::{Error, Kind, Result};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::core::Core;
use super::member::{Member, State};
use super::page::{Page, lock};
use super::roster::Roster;
use super::subscription::NatsSubscription;
use super::topic::{self, Topic};
use super::url::Config;
use super::{NAME, delayed, group, stats, trim};

const DURABILITY: &str = "written to the stream's files before the answer and synced to disk by the server's \
                          sync_interval (2 minutes by default): survives the server's process; a loss of power may \
                          take the last writes of a server without replicas";

/// A bus on NATS with JetStream. See the [module](super) for how it works and [`Config`] for its options.
#[derive(Debug)]
pub struct NatsBus {
    core: Arc<Core>,
    info: Info,
    /// Moves delayed messages; started when they matter.
    mover: Mutex<Option<JoinHandle<()>>>,
}

impl NatsBus {
    /// Connects.
    ///
    /// # Errors
    /// See [`open`](super::open).
    pub async fn open(config: Config) -> Result<Self> {
        let info = Info { engine: NAME, url: config.url.clone(), durability: DURABILITY };
        let core = Core::open(config).await?;
        Ok(Self { core, info, mover: Mutex::default() })
    }

    fn move_delayed(&self) {
        lock(&self.mover).get_or_insert_with(|| tokio::spawn(delayed::run(self.core.clone())));
    }

    async fn join(&self, topic: Arc<Topic>, options: &SubscribeOptions) -> Result<Arc<Member>> {
        let core = &self.core;
        core.clock.refresh(&core.store).await?;
        let Some(group) = options.group.as_deref() else { return self.listen(topic, options).await };
        let (roster, id) = group::join(core, &topic, group, options).await?;
        let pages = group::pages(core, &topic, group, &roster, id);
        let member = self.member(topic, options, id, roster.born, pages);
        tokio::spawn(member.clone().drive(roster));
        Ok(member)
    }

    /// A broadcast subscriber: its ledgers are in memory, and gone with it.
    async fn listen(&self, topic: Arc<Topic>, options: &SubscribeOptions) -> Result<Arc<Member>> {
        let places = group::places(&self.core, &topic, options.start).await?;
        let alone = Roster::new("", 0, topic.created, places);
        let pages = alone.starts.iter().map(|start| Page::new(None, String::new(), 1, 0, *start)).collect();
        let member = self.member(topic, options, 1, 0, pages);
        member.own_all().await?;
        Ok(member)
    }

    fn member(
        &self,
        topic: Arc<Topic>,
        options: &SubscribeOptions,
        id: i64,
        born: u64,
        pages: Vec<Arc<Page>>,
    ) -> Arc<Member> {
        let state = Mutex::new(State::new(pages.len()));
        let (core, options) = (self.core.clone(), options.clone());
        let (changed, nudge) = (Notify::new(), Notify::new());
        let member = Arc::new(Member { core, topic, options, id, born, pages, state, changed, nudge });
        self.core.join(&member);
        member
    }
}

impl Drop for NatsBus {
    fn drop(&mut self) {
        if let Some(mover) = lock(&self.mover).take() {
            mover.abort();
        }
    }
}

fn said(op: &'static str) -> impl Fn(Error) -> Error {
    move |e| e.engine(NAME).op(op)
}

#[async_trait]
impl BusEngine for NatsBus {
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
            offsets: true,
            failover: true,
        }
    }

    async fn ensure(&self, topic: &str, options: &TopicOptions) -> Result<()> {
        check_name("topic", topic).and_then(|()| check_options(options)).map_err(said("ensure"))?;
        self.core.link.check_open().map_err(said("ensure"))?;
        let (link, names, replicas) = (&self.core.link, &self.core.names, self.core.config.replicas);
        let made = topic::ensure(link, names, topic, options, replicas).await.map_err(said("ensure"))?;
        self.core.remember(made);
        Ok(())
    }

    async fn remove(&self, topic: &str, group: Option<&str>) -> Result<()> {
        let core = &self.core;
        let removing = async {
            let topic = core.look_up(topic).await?;
            match group {
                Some(group) => group::remove(core, &topic, group).await,
                None => topic::remove(core, &topic).await,
            }
        };
        removing.await.map_err(said("remove"))
    }

    async fn publish(
        &self,
        topic: &str,
        messages: Vec<Message>,
        options: &PublishOptions,
    ) -> Vec<Result<Position>> {
        if messages.iter().any(|message| message.delay.is_some()) {
            self.move_delayed();
        }
        let answers = self.core.publish(topic, messages, options).await;
        answers.into_iter().map(|a| a.map_err(|e| said("publish")(e).with("topic", topic))).collect()
    }

    async fn subscribe(&self, topic: &str, options: &SubscribeOptions) -> Result<Box<dyn Subscription>> {
        let joining = async {
            let topic = self.core.look_up(topic).await?;
            options.check(topic.options.partitions)?;
            self.join(topic, options).await
        };
        let member = joining.await.map_err(said("subscribe"))?;
        self.move_delayed();
        Ok(Box::new(NatsSubscription(member)))
    }

    async fn stats(&self, topic: Option<&str>) -> Result<Vec<TopicStats>> {
        let core = &self.core;
        let counting = async {
            core.link.check_open()?;
            let names = match topic {
                Some(topic) => vec![topic.to_owned()],
                None => topic::list(&core.link, &core.names).await?,
            };
            let mut all = Vec::with_capacity(names.len());
            for name in names {
                match core.look_up(&name).await {
                    // Removed since it was listed.
                    Err(e) if e.kind() == Kind::NotFound && topic.is_none() => {}
                    found => all.push(stats::of(core, &*found?).await?),
                }
            }
            Ok(all)
        };
        counting.await.map_err(said("stats"))
    }

    async fn seek(&self, topic: &str, group: &str, to: Start) -> Result<()> {
        let seeking = async {
            check_name("group", group)?;
            let topic = self.core.look_up(topic).await?;
            group::seek(&self.core, &topic, group, to).await
        };
        seeking.await.map_err(said("seek"))
    }

    async fn trim(&self, topic: &str) -> Result<u64> {
        let trimming = async {
            self.core.link.check_open()?;
            let topic = topic::get(&self.core.link, &self.core.names, topic).await?;
            trim::trim(&self.core, topic).await
        };
        trimming.await.map_err(said("trim"))
    }

    async fn close(&self) -> Result<()> {
        let members = self.core.members();
        let leaving = join_all(members.iter().map(|member| member.leave()));
        // What can't be handed back now comes back when its lease ends.
        let _late = timeout(self.core.link.timeout, leaving).await;
        self.core.link.close();
        members.iter().for_each(|member| member.changed.notify_waiters());
        if let Some(mover) = lock(&self.mover).take() {
            mover.abort();
        }
        Ok(())
    }
}
