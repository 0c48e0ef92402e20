//! The run itself: watched, disturbed, and over when every message is settled.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use linchpin::bus::dead_topic;
use linchpin::{Bus, Error, Kind, Result};
use rusqlite::Connection;
use tokio::task::JoinSet;

use super::crew::Crew;
use super::data::Source;
use super::feed::feed;
use super::place::Place;
use super::screen::{Group, Now, Screen};
use super::shop;
use super::worker::Role;

/// How often the run is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long a kill that is due waits for somebody to be at work: longer than a dead worker's messages stay away.
const PATIENCE: Duration = Duration::from_secs(6);
/// How long the workers have to join.
const GATHERED: Duration = Duration::from_secs(30);
/// Without any progress for so long the run is over, and the audit tells what is missing.
const STALLED: Duration = Duration::from_secs(60);

/// The feeder, in a task of its own that ends with this.
#[derive(Debug)]
pub(super) struct Feed {
    task: JoinSet<Result<()>>,
    fed: Arc<AtomicU64>,
    done: bool,
}

impl Feed {
    /// Starts feeding.
    pub(super) fn start(bus: &Bus, topic: &str, source: &Source, rate: u32) -> Self {
        let (fed, mut task) = (Arc::default(), JoinSet::new());
        task.spawn(feed(bus.clone(), topic.to_owned(), source.clone(), rate, Arc::clone(&fed)));
        Self { task, fed, done: false }
    }

    /// Whether everything is published by now.
    fn done(&mut self) -> Result<bool> {
        if let Some(ended) = self.task.try_join_next() {
            ended.map_err(|e| Error::new(Kind::Unexpected, "the feeder ended early").source(e))??;
            self.done = true;
        }
        Ok(self.done)
    }
}

/// What is watched.
#[derive(Debug)]
pub(super) struct Run<'a> {
    bus: &'a Bus,
    topic: &'a str,
    shop: Connection,
    crew: Crew,
    /// How many kills there are to be.
    kills: u32,
    screen: &'a Screen,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        bus: &'a Bus,
        place: &'a Place,
        crew: Crew,
        kills: u32,
        screen: &'a Screen,
    ) -> Result<Self> {
        Ok(Self { bus, topic: &place.topic, shop: shop::connect(&place.shop)?, crew, kills, screen })
    }

    /// Waits until both groups are there: not every engine keeps what is published before a group is.
    ///
    /// # Errors
    /// What looking or starting workers says; `Timeout` if they don't come.
    pub(super) async fn gather(&mut self) -> Result<()> {
        let deadline = Instant::now() + GATHERED;
        loop {
            let stats = self.bus.stats(Some(self.topic)).await?;
            let there =
                |role: Role| stats.iter().flat_map(|topic| &topic.groups).any(|g| g.group == role.group());
            if Role::ALL.into_iter().all(there) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Error::new(Kind::Timeout, "the workers don't join their groups"));
            }
            self.crew.tend().await?;
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Watches, and kills workers evenly over the progress, until both groups have settled everything that was fed.
    ///
    /// # Errors
    /// What feeding, looking or starting workers says.
    pub(super) async fn watch(&mut self, mut feed: Feed) -> Result<()> {
        let mut moved = (Instant::now(), Now::default());
        let mut due_since = None;
        loop {
            let fed = feed.done()?;
            let now = self.look(feed.fed.load(Ordering::Relaxed)).await?;
            self.screen.show(&now);
            if moved.1 != now {
                moved = (Instant::now(), now);
            }
            let open = now.stock.open + now.tables.open;
            // Not every engine can tell what other processes have in hand: that comes again, and then something moves.
            let all = [now.stock, now.tables].iter().all(|group| group.settled() == self.screen.messages());
            let over = open == 0 && (all || moved.0.elapsed() > PATIENCE);
            if fed && over && now.kills >= self.kills {
                return Ok(());
            }
            if moved.0.elapsed() > STALLED {
                self.screen.note("nothing moves any more");
                return Ok(());
            }
            self.crew.tend().await?;
            if now.kills < self.kills && self.is_due(&now) {
                let due = *due_since.get_or_insert_with(Instant::now);
                let idle = due.elapsed() > PATIENCE || (fed && open == 0);
                if self.crew.kill(idle).await? {
                    due_since = None;
                }
            } else {
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Whether the next kill's turn has come: the first of five at a tenth of the progress, the last at nine.
    fn is_due(&self, now: &Now) -> bool {
        let messages = self.screen.messages() as f64;
        let done = (now.stock.settled() + now.tables.settled()) as f64 / 2.0;
        done >= messages * (f64::from(now.kills) + 0.5) / f64::from(self.kills.max(1))
    }

    /// How far everything is: by the tables and by the bus, not by what anybody counted.
    async fn look(&self, fed: u64) -> Result<Now> {
        let done = shop::done(&self.shop)?;
        let stats = self.bus.stats(Some(self.topic)).await?;
        let mut groups =
            [Group { done: done.stock, ..Group::default() }, Group { done: done.tables, ..Group::default() }];
        for (group, role) in groups.iter_mut().zip(Role::ALL) {
            group.dead = self.dead(role).await?;
            let stats = stats.iter().flat_map(|topic| &topic.groups).find(|g| g.group == role.group());
            // A group nobody has joined yet has everything before it.
            group.open = stats.map_or(u64::MAX / 2, |g| g.lag + g.in_flight + g.waiting);
            group.lag = stats.map_or(fed, |g| g.lag);
            group.in_flight = stats.map_or(0, |g| g.in_flight);
        }
        let [stock, tables] = groups;
        Ok(Now { fed, stock, tables, redelivered: self.crew.redelivered(), kills: self.crew.kills() })
    }

    async fn dead(&self, role: Role) -> Result<u64> {
        match self.bus.stats(Some(&dead_topic(self.topic, role.group()))).await {
            Err(e) if e.kind() == Kind::NotFound => Ok(0),
            stats => Ok(stats?.first().map_or(0, |topic| topic.messages)),
        }
    }

    /// Stops the workers, and says how many were killed and how many deliveries they had again.
    pub(super) async fn stop(self) -> (u32, u64) {
        let (kills, redelivered) = (self.crew.kills(), self.crew.redelivered());
        self.crew.stop().await;
        (kills, redelivered)
    }
}
