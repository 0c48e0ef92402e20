//! The writer thread: it drains its queue and runs many jobs in one transaction.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use linchpin_core::{Error, Kind, Result};
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::chores::Chores;
use super::connect::set_sync;
use super::error::{Failure, is_busy};
use super::tx::{Step, Tx};
use super::url::{Config, Sync};
use crate::relational::MonotoneClock;
use crate::relational::hub::Hub;

/// The most messages or settles of one transaction: what a hundred publishers of small batches fill within the time
/// of an `fsync`, and little enough that nobody waits long for the lock.
const ROUND: usize = 16_384;

/// Something to do in a transaction. It may be run again after a rollback.
pub(super) trait Job: Send {
    fn run(&mut self, tx: &Tx<'_>) -> Step<()>;
    /// Called once, after the commit or the final rollback.
    fn done(self: Box<Self>, result: Result<()>);
    /// Whether the commit waits for the disk (as far as the URL asks for it).
    fn durable(&self) -> bool;
    /// How many messages it is about.
    fn weight(&self) -> usize;
}

/// What the writer thread is asked.
pub(super) enum Task {
    Job(Box<dyn Job>),
    /// Reads outside of transactions, for engines without a reader thread.
    Read(Box<dyn FnOnce(&Connection) + Send>),
    Stop(oneshot::Sender<()>),
}

/// A job made of two closures.
pub(super) struct Call<T, W, D> {
    op: &'static str,
    durable: bool,
    weight: usize,
    value: Option<T>,
    work: W,
    done: D,
}

impl<T, W, D> Call<T, W, D>
where
    W: FnMut(&Tx<'_>) -> Step<T> + Send,
    D: FnOnce(Result<T>) + Send,
{
    pub(super) fn new(op: &'static str, durable: bool, weight: usize, work: W, done: D) -> Self {
        Self { op, durable, weight, value: None, work, done }
    }
}

impl<T, W, D> Job for Call<T, W, D>
where
    T: Send,
    W: FnMut(&Tx<'_>) -> Step<T> + Send,
    D: FnOnce(Result<T>) + Send,
{
    fn run(&mut self, tx: &Tx<'_>) -> Step<()> {
        self.value = Some((self.work)(tx)?);
        Ok(())
    }

    fn done(self: Box<Self>, result: Result<()>) {
        let Self { op, value, work, done, .. } = *self;
        // What the work held is free again once the answer is out.
        drop(work);
        let never = || Error::new(Kind::Unexpected, "the job never ran");
        let value = result.and_then(|()| value.ok_or_else(never));
        done(value.map_err(|e| e.engine(super::NAME).op(op)));
    }

    fn durable(&self) -> bool {
        self.durable
    }

    fn weight(&self) -> usize {
        self.weight
    }
}

pub(super) struct Worker {
    conn: Connection,
    config: Arc<Config>,
    hub: Arc<Hub>,
    clock: Arc<MonotoneClock>,
    /// What the connection is set to.
    sync: Sync,
}

impl Worker {
    pub(super) fn new(
        conn: Connection,
        config: Arc<Config>,
        hub: Arc<Hub>,
        clock: Arc<MonotoneClock>,
    ) -> Self {
        let sync = config.sync;
        Self { conn, config, hub, clock, sync }
    }

    /// Runs until it is stopped or every handle is gone.
    pub(super) fn work(mut self, tasks: &Receiver<Task>, mut chores: Chores) {
        loop {
            let first = match tasks.recv_timeout(chores.pause(&self.hub)) {
                Ok(task) => Some(task),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Some(answer) = first.and_then(|first| self.round(first, tasks)) {
                // Whoever waits for the stop may open or move the file at once.
                drop(self);
                let _gone = answer.send(());
                return;
            }
            let hub = self.hub.clone();
            chores.run(&hub, &mut self);
        }
    }

    /// Runs a task and what is queued behind it. `Some` once it was told to stop.
    fn round(&mut self, first: Task, tasks: &Receiver<Task>) -> Option<oneshot::Sender<()>> {
        let mut jobs = Vec::new();
        let mut weight = 0;
        let mut next = Some(first);
        while let Some(task) = next {
            match task {
                Task::Job(job) => {
                    weight += job.weight();
                    jobs.push(job);
                }
                Task::Read(read) => read(&self.conn),
                Task::Stop(answer) => {
                    self.jobs(jobs);
                    return Some(answer);
                }
            }
            next = if weight < ROUND { tasks.try_recv().ok() } else { None };
        }
        self.jobs(jobs);
        None
    }

    /// Commits the jobs together; if one of them fails, each by itself.
    fn jobs(&mut self, mut jobs: Vec<Box<dyn Job>>) {
        if jobs.is_empty() {
            return;
        }
        match self.attempt(&mut jobs) {
            Ok(touched) => {
                jobs.into_iter().for_each(|job| job.done(Ok(())));
                self.hub.wake(&touched);
            }
            Err(Failure::Driver(e)) if jobs.len() == 1 || is_busy(&e) => {
                let error = Failure::Driver(e).into_error("");
                jobs.into_iter().for_each(|job| job.done(Err(error.clone())));
            }
            Err(Failure::Said(error)) if jobs.len() == 1 => {
                jobs.into_iter().for_each(|job| job.done(Err(error.clone())));
            }
            Err(_) => jobs.into_iter().for_each(|job| self.jobs(vec![job])),
        }
    }

    fn attempt(&mut self, jobs: &mut [Box<dyn Job>]) -> Step<Vec<i64>> {
        let durable = jobs.iter().any(|job| job.durable());
        let ((), touched) = self.transact(durable, |tx| jobs.iter_mut().try_for_each(|job| job.run(tx)))?;
        Ok(touched)
    }

    /// Runs a chore in a transaction of its own. What fails is tried again in the next round.
    pub(super) fn chore<T>(&mut self, work: impl FnOnce(&Tx<'_>) -> Step<T>) -> Option<T> {
        match self.transact(false, work) {
            Ok((value, touched)) => {
                self.hub.wake(&touched);
                Some(value)
            }
            Err(error) => {
                let error = error.into_error("chore");
                tracing::warn!(%error, file = %self.config.path.display(), "a chore failed");
                None
            }
        }
    }

    fn transact<T>(&mut self, durable: bool, work: impl FnOnce(&Tx<'_>) -> Step<T>) -> Step<(T, Vec<i64>)> {
        self.set_sync(durable)?;
        let tx = Tx::new(&self.conn, self.config.busy, self.clock.now());
        let ran = work(&tx).and_then(|value| Ok((value, tx.commit()?)));
        if ran.is_err() && !self.conn.is_autocommit() {
            // SQLite may have rolled back by itself; if this fails, there is nothing left to roll back.
            let _rolled_back = self.conn.execute_batch("ROLLBACK");
        }
        ran
    }

    fn set_sync(&mut self, durable: bool) -> rusqlite::Result<()> {
        let lazy = if self.config.sync == Sync::Full { Sync::Normal } else { self.config.sync };
        let sync = if durable { self.config.sync } else { lazy };
        if sync != self.sync {
            set_sync(&self.conn, sync)?;
            self.sync = sync;
        }
        Ok(())
    }
}
