//! The engine.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use linchpin_core::bus::{
    BusEngine, Caps, Info, Message, Position, PublishOptions, Round, Start, SubscribeOptions, Subscription,
    TopicOptions, TopicStats, check_name, check_options,
};
use linchpin_core::{Error, Kind, Result, Retry};

use super::NAME;
use super::append::{Row, append, row};
use super::core::{Core, closed};
use super::topic;
use super::tx::Tx;
use super::url::{Config, Sync};
use super::{group, retain, stats};
use crate::relational::group::check_start;
use crate::relational::hub::lock;
use crate::relational::incoming::{accept, answer};
use crate::relational::member::Member;
use crate::relational::subscription::RowSubscription;
use crate::relational::topic::Known;

/// Messages deleted in one transaction.
const STEP: usize = 2000;

/// A bus in an SQLite file. See the [module](super) for how it works and [`Config`] for its options.
#[derive(Debug)]
pub struct SqliteBus {
    core: Arc<Core>,
    info: Info,
}

impl SqliteBus {
    /// Opens the file, creating it and its tables if need be.
    ///
    /// # Errors
    /// See [`open`](super::open).
    pub async fn open(config: Config) -> Result<Self> {
        let info = Info { engine: NAME, url: config.url.clone(), durability: durability(&config) };
        let opening = tokio::task::spawn_blocking(move || Core::open(config));
        let core = opening.await.map_err(|_| closed().op("open"))??;
        Ok(Self { core, info })
    }

    async fn known(&self, name: &str) -> Result<Arc<Known>> {
        if let Some(known) = lock(&self.core.topics).get(name) {
            return Ok(known.clone());
        }
        let wanted = name.to_owned();
        let topic = self.core.read("publish", move |conn| topic::get(conn, &wanted)).await?;
        let known = Arc::new(Known { topic, round: Round::default() });
        lock(&self.core.topics).insert(name.to_owned(), known.clone());
        Ok(known)
    }

    fn forget(&self, name: &str) {
        lock(&self.core.topics).remove(name);
    }

    /// Stores rows in the topic as this handle knows it; `None` if it has changed since.
    async fn store(&self, known: &Known, rows: &Arc<Vec<Row>>) -> Result<Option<Vec<Option<u64>>>> {
        let (rows, topic) = (rows.clone(), known.topic.clone());
        let weight = rows.len();
        let work = move |tx: &Tx<'_>| {
            tx.begin()?;
            match topic::find(tx.conn(), &topic.name)? {
                Some(now) if now == topic => append(tx, &topic, &rows).map(Some),
                _ => Ok(None),
            }
        };
        self.core.write("publish", weight, work).await
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
            let refuse = |at, error: Error| answer(answers, at, Err(error.engine(NAME)));
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
                Err(error) => return Err((error, Arc::try_unwrap(shared).unwrap_or_default())),
            }
            rows = Arc::try_unwrap(shared).unwrap_or_default();
        }
        let error = Error::new(Kind::Conflict, "the topic keeps changing");
        Err((error.retry_as(Retry::Safe { after: Duration::ZERO }), rows))
    }
}

pub(super) fn durability(config: &Config) -> &'static str {
    match config.sync {
        _ if config.in_memory() => "in memory; gone with the handle",
        Sync::Full => "written to the file's log and synced to disk before the answer",
        Sync::Normal => {
            "written to the file's log before the answer: survives the process; a loss of power may take the last commits"
        }
        Sync::Off => {
            "written to the file's log, never synced: survives the process; a loss of power may damage the file"
        }
    }
}

#[async_trait]
impl BusEngine for SqliteBus {
    fn info(&self) -> &Info {
        &self.info
    }

    fn caps(&self) -> Caps {
        let file = !self.core.config.in_memory();
        Caps {
            durable: file,
            shared: file,
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
        check().map_err(|e| e.engine(NAME).op("ensure"))?;
        let (name, options) = (topic.to_owned(), options.clone());
        self.core.write("ensure", 1, move |tx| topic::ensure(tx, &name, &options).map(drop)).await?;
        self.forget(topic);
        Ok(())
    }

    async fn remove(&self, topic: &str, group: Option<&str>) -> Result<()> {
        let name = topic.to_owned();
        if let Some(group) = group.map(str::to_owned) {
            return self.core.write("remove", 1, move |tx| group::remove(tx, &name, &group)).await;
        }
        self.core.write("remove", 1, move |tx| topic::remove(tx, &name)).await?;
        self.forget(topic);
        while self.core.write("remove", STEP, |tx| topic::sweep(tx, STEP as u64)).await? {}
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
            let error = error.engine(NAME).op("publish").with("topic", topic);
            rows.iter().for_each(|row| answer(&mut answers, row.at, Err(error.clone())));
        }
        answers
    }

    async fn subscribe(&self, topic: &str, options: &SubscribeOptions) -> Result<Box<dyn Subscription>> {
        let (name, wanted) = (topic.to_owned(), options.clone());
        let joining = self.core.write("subscribe", 1, move |tx| {
            let topic = topic::get(tx.conn(), &name)?;
            wanted.check(topic.partitions)?;
            check_start(&topic, wanted.start)?;
            let joined = group::join(tx, &topic, &wanted)?;
            Ok((topic, joined))
        });
        let (topic, joined) = joining.await?;
        let member = Member::new(self.core.clone(), topic, options.clone(), &joined);
        self.core.hub.join(&member);
        Ok(Box::new(RowSubscription(member)))
    }

    async fn stats(&self, topic: Option<&str>) -> Result<Vec<TopicStats>> {
        let (name, now) = (topic.map(str::to_owned), self.core.clock.now());
        self.core.read("stats", move |conn| stats::stats(conn, name.as_deref(), now)).await
    }

    async fn seek(&self, topic: &str, group: &str, to: Start) -> Result<()> {
        check_name("group", group).map_err(|e| e.engine(NAME).op("seek"))?;
        let (topic, group) = (topic.to_owned(), group.to_owned());
        let id = self.core.write("seek", 1, move |tx| group::seek(tx, &topic, &group, to)).await?;
        self.core.hub.members().iter().filter(|m| m.scope.group == id).for_each(|m| m.forget_all());
        Ok(())
    }

    async fn trim(&self, topic: &str) -> Result<u64> {
        let mut gone = 0;
        loop {
            let name = topic.to_owned();
            let step = move |tx: &Tx<'_>| retain::step(tx, &topic::get(tx.conn(), &name)?, STEP as u64);
            match self.core.write("trim", STEP, step).await? {
                0 => return Ok(gone),
                some => gone += some,
            }
        }
    }

    async fn close(&self) -> Result<()> {
        for member in self.core.hub.members() {
            // What can't be handed back now comes back when its lease ends.
            let _left = member.leave().await;
        }
        self.core.close().await;
        Ok(())
    }
}
