//! The engine.

use std::sync::Arc;

use async_trait::async_trait;
use linchpin_core::bus::{
    BusEngine, Caps, Info, Message, Position, PublishOptions, Round, Start, SubscribeOptions, Subscription,
    TopicOptions, TopicStats, check_name, check_options,
};
use linchpin_core::{Error, Result};
use tokio::sync::oneshot;

use super::append::{Offsets, Row, row};
use super::core::{Core, Publish, Purpose, keeps_changing};
use super::lane::gone;
use super::tx::{Step, Tx};
use super::url::Config;
use super::{group, retain, stats, topic};
use crate::relational::hub::lock;
use crate::relational::incoming::{accept, answer};
use crate::relational::member::Member;
use crate::relational::subscription::RowSubscription;
use crate::relational::topic::Known;

/// Messages deleted in one transaction.
const STEP: u64 = 2000;

/// What "stored" means here.
pub(super) const DURABILITY: &str =
    "committed by the server before the answer, and on disk there unless it is set to be lazy";

/// A bus in a PostgreSQL or MySQL database. See the [module](super) for how it works and [`Config`] for its options.
#[derive(Debug)]
pub struct SqlBus {
    core: Arc<Core>,
    info: Info,
}

impl SqlBus {
    /// Connects, creating the tables if need be.
    ///
    /// # Errors
    /// See [`open`](super::open).
    pub async fn open(config: Config) -> Result<Self> {
        let info = Info { engine: config.dialect.name(), url: config.url.clone(), durability: DURABILITY };
        Ok(Self { core: Core::open(config, Purpose::Bus).await?, info })
    }

    async fn known(&self, name: &str) -> Result<Arc<Known>> {
        if let Some(known) = lock(&self.core.topics).get(name) {
            return Ok(known.clone());
        }
        let topic =
            self.core.read("publish", name.to_owned(), |tx, name| Box::pin(topic::get(tx, name))).await?;
        let known = Arc::new(Known { topic, round: Round::default() });
        lock(&self.core.topics).insert(name.to_owned(), known.clone());
        Ok(known)
    }

    fn forget(&self, name: &str) {
        lock(&self.core.topics).remove(name);
    }

    /// Stores rows in the topic as this handle knows it; `None` if it has changed since.
    async fn store(&self, known: &Arc<Known>, rows: &Arc<Vec<Row>>) -> Result<Option<Offsets>> {
        self.core.check_open()?;
        let (stored, answered) = oneshot::channel();
        let done = move |result| {
            let _gone = stored.send(result);
        };
        let ask = Publish { known: known.clone(), rows: rows.clone() };
        self.core.publishing.ask(ask, self.core.deadline(), Box::new(done));
        gone(answered.await, self.core.gone())
    }

    /// Publishes what is in `rows`, filling in the answers.
    async fn put(
        &self,
        topic: &str,
        mut rows: Vec<Row>,
        options: &PublishOptions,
        answers: &mut [Result<Position>],
    ) -> Result<(), (Error, Vec<Row>)> {
        // The topic as known may have been changed by another process; it isn't changed all the time.
        for _ in 0..4 {
            let known = match self.known(topic).await {
                Ok(known) => known,
                Err(error) => return Err((error, rows)),
            };
            let refuse = |at, error: Error| answer(answers, at, Err(error.engine(self.info.engine)));
            rows = accept(&known.topic, &known.round, options.partitioner, rows, refuse);
            if rows.is_empty() {
                return Ok(());
            }
            let shared = Arc::new(rows);
            match self.store(&known, &shared).await {
                Ok(Some(offsets)) => {
                    for (row, offset) in shared.iter().zip(offsets) {
                        answer(answers, row.at, Ok(Position { partition: row.partition, offset }));
                    }
                    return Ok(());
                }
                Ok(None) => self.forget(topic),
                Err(error) => return Err((error, taken(shared))),
            }
            rows = taken(shared);
        }
        Err((keeps_changing(), rows))
    }
}

/// The rows, which nobody else needs any more: whoever answered has let go of them, or is about to.
fn taken(mut shared: Arc<Vec<Row>>) -> Vec<Row> {
    loop {
        match Arc::try_unwrap(shared) {
            Ok(rows) => return rows,
            Err(still) => shared = still,
        }
        std::thread::yield_now();
    }
}

#[async_trait]
impl BusEngine for SqlBus {
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
        let check = || check_name("topic", topic).and_then(|()| check_options(options));
        check().map_err(|e| e.engine(self.info.engine).op("ensure"))?;
        let context = (topic.to_owned(), options.clone());
        let ensuring = self
            .core
            .write("ensure", context, |tx, (name, options)| Box::pin(topic::ensure(tx, name, options)));
        ensuring.await?;
        self.forget(topic);
        Ok(())
    }

    async fn remove(&self, topic: &str, group: Option<&str>) -> Result<()> {
        if let Some(group) = group {
            let context = (topic.to_owned(), group.to_owned());
            let remove = self
                .core
                .write("remove", context, |tx, (topic, group)| Box::pin(group::remove(tx, topic, group)));
            return remove.await;
        }
        self.core.write("remove", topic.to_owned(), |tx, topic| Box::pin(topic::remove(tx, topic))).await?;
        self.forget(topic);
        while self.core.write("remove", (), |tx, ()| Box::pin(topic::sweep(tx, STEP))).await? {}
        Ok(())
    }

    async fn publish(
        &self,
        topic: &str,
        messages: Vec<Message>,
        options: &PublishOptions,
    ) -> Vec<Result<Position>> {
        let nowhere = Position { partition: 0, offset: None };
        let mut answers: Vec<_> = (0..messages.len()).map(|_| Ok(nowhere)).collect();
        let rows = messages.into_iter().enumerate().map(|(at, message)| row(at, 0, message)).collect();
        if let Err((error, rows)) = self.put(topic, rows, options, &mut answers).await {
            let error = error.engine(self.info.engine).op("publish").with("topic", topic);
            rows.iter().for_each(|row| answer(&mut answers, row.at, Err(error.clone())));
        }
        answers
    }

    async fn subscribe(&self, topic: &str, options: &SubscribeOptions) -> Result<Box<dyn Subscription>> {
        let context = (topic.to_owned(), options.clone());
        let joining = self
            .core
            .write("subscribe", context, |tx, (name, options)| Box::pin(group::join(tx, name, options)));
        let (topic, joined) = joining.await?;
        let member = Member::new(self.core.clone(), topic, options.clone(), &joined);
        self.core.tell.hub.join(&member);
        Ok(Box::new(RowSubscription(member)))
    }

    async fn stats(&self, topic: Option<&str>) -> Result<Vec<TopicStats>> {
        let name = topic.map(str::to_owned);
        self.core.read("stats", name, |tx, name| Box::pin(stats::stats(tx, name.as_deref()))).await
    }

    async fn seek(&self, topic: &str, group: &str, to: Start) -> Result<()> {
        check_name("group", group).map_err(|e| e.engine(self.info.engine).op("seek"))?;
        let context = (topic.to_owned(), group.to_owned());
        let seeking = self
            .core
            .write("seek", context, move |tx, (topic, group)| Box::pin(group::seek(tx, topic, group, to)));
        let id = seeking.await?;
        self.core.tell.hub.members().iter().filter(|m| m.scope.group == id).for_each(|m| m.forget_all());
        Ok(())
    }

    async fn trim(&self, topic: &str) -> Result<u64> {
        let mut gone = 0;
        loop {
            let step = self.core.write("trim", topic.to_owned(), |tx, name| Box::pin(trim(tx, name)));
            match step.await? {
                0 => return Ok(gone),
                some => gone += some,
            }
        }
    }

    async fn close(&self) -> Result<()> {
        for member in self.core.tell.hub.members() {
            // What can't be handed back now comes back when its lease ends.
            let _left = member.leave().await;
        }
        self.core.close().await;
        Ok(())
    }
}

async fn trim(tx: &mut Tx, name: &str) -> Step<u64> {
    let topic = topic::get(tx, name).await?;
    retain::step(tx, &topic, STEP).await
}
