//! What a handle and its subscriptions share: the queues to the threads, and who is to be woken.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread;

use foldhash::fast::RandomState;
use linchpin_core::{Error, Kind, Result};
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::NAME;
use super::chores::Chores;
use super::connect;
use super::coord;
use super::error::Failure;
use super::reader::{Look, Reader};
use super::schema;
use super::tx::{Step, Tx};
use super::url::Config;
use super::worker::{Call, Task, Worker};
use crate::relational::MonotoneClock;
use crate::relational::hub::Hub;
use crate::relational::topic::Known;

/// The living engine of one handle.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) config: Arc<Config>,
    pub(super) hub: Arc<Hub>,
    pub(super) clock: Arc<MonotoneClock>,
    pub(super) topics: Mutex<HashMap<String, Arc<Known>, RandomState>>,
    writer: Sender<Task>,
    reader: Option<Sender<Look>>,
    closed: AtomicBool,
}

impl Core {
    /// Opens the file for a bus and starts the threads. Blocks.
    pub(super) fn open(config: Config) -> Result<Arc<Self>> {
        let mut conn = connect::writer(&config)?;
        schema::prepare(&mut conn)?;
        let latest = schema::latest_time(&conn)?;
        Self::start(config, conn, latest, Chores::new())
    }

    /// Opens the file for coordination and starts the threads. Blocks.
    pub(super) fn open_coord(config: Config) -> Result<Arc<Self>> {
        let mut conn = connect::writer(&config)?;
        coord::prepare(&mut conn)?;
        let latest = coord::latest_time(&conn)?;
        Self::start(config, conn, latest, Chores::none())
    }

    fn start(config: Config, conn: Connection, latest: i64, chores: Chores) -> Result<Arc<Self>> {
        let config = Arc::new(config);
        let clock = Arc::new(MonotoneClock::new(latest));
        let hub = Arc::new(Hub::default());
        let reader = if config.in_memory() { None } else { Some(Self::read_along(&config, &hub)?) };
        let (writer, tasks) = mpsc::channel();
        let worker = Worker::new(conn, config.clone(), hub.clone(), clock.clone());
        spawn("linchpin-sqlite-writer", move || worker.work(&tasks, chores))?;
        let (topics, closed) = (Mutex::default(), AtomicBool::new(false));
        Ok(Arc::new(Self { config, hub, clock, topics, writer, reader, closed }))
    }

    fn read_along(config: &Arc<Config>, hub: &Arc<Hub>) -> Result<Sender<Look>> {
        let conn = connect::reader(config)?;
        let (sender, looks) = mpsc::channel();
        let reader = Reader::new(conn, config.poll, hub.clone());
        spawn("linchpin-sqlite-reader", move || reader.work(&looks))?;
        Ok(sender)
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::SeqCst) { Err(closed()) } else { Ok(()) }
    }

    /// Runs `work` in a transaction and waits for its commit. `work` may run more than once.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        op: &'static str,
        weight: usize,
        work: impl FnMut(&Tx<'_>) -> Step<T> + Send + 'static,
    ) -> Result<T> {
        self.check_open().map_err(|e| e.op(op))?;
        let (answer, answered) = oneshot::channel();
        self.submit(op, true, weight, work, move |result| {
            let _gone = answer.send(result);
        });
        answered.await.unwrap_or_else(|_| Err(closed().op(op)))
    }

    /// Runs `work` in a transaction, then `done` on the writer thread. If the engine is gone, `done` is dropped.
    pub(super) fn submit<T: Send + 'static>(
        &self,
        op: &'static str,
        durable: bool,
        weight: usize,
        work: impl FnMut(&Tx<'_>) -> Step<T> + Send + 'static,
        done: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        let _gone = self.writer.send(Task::Job(Box::new(Call::new(op, durable, weight, work, done))));
    }

    /// Runs `work` on the reading connection, beside the writer.
    pub(super) fn look(&self, work: impl FnOnce(&Connection) + Send + 'static) {
        match &self.reader {
            Some(reader) => drop(reader.send(Look::Read(Box::new(work)))),
            None => drop(self.writer.send(Task::Read(Box::new(work)))),
        }
    }

    /// Reads, and waits for the answer.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        op: &'static str,
        work: impl FnOnce(&Connection) -> Step<T> + Send + 'static,
    ) -> Result<T> {
        self.check_open().map_err(|e| e.op(op))?;
        let (answer, answered) = oneshot::channel();
        self.look(move |conn| {
            let _gone = answer.send(in_snapshot(conn, work).map_err(|e| e.into_error(op)));
        });
        answered.await.unwrap_or_else(|_| Err(closed().op(op)))
    }

    /// Makes the reader thread look for other processes' commits.
    pub(super) fn poll(&self) {
        if let Some(reader) = &self.reader {
            let _gone = reader.send(Look::Wake);
        }
    }

    /// Refuses new work, finishes what is queued, and lets go of the file.
    pub(super) async fn close(&self) {
        if self.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        let (answer, stopped) = oneshot::channel();
        if self.writer.send(Task::Stop(answer)).is_ok() {
            let _stopped = stopped.await;
        }
        let (answer, stopped) = oneshot::channel();
        if let Some(reader) = &self.reader
            && reader.send(Look::Stop(answer)).is_ok()
        {
            let _stopped = stopped.await;
        }
        self.hub.wake_all();
    }
}

/// Several reads of one moment.
fn in_snapshot<T>(conn: &Connection, work: impl FnOnce(&Connection) -> Step<T>) -> Step<T> {
    let snapshot = conn.unchecked_transaction()?;
    let value = work(&snapshot)?;
    snapshot.finish().map_err(Failure::from)?;
    Ok(value)
}

pub(super) fn closed() -> Error {
    Error::new(Kind::Closed, "the engine is closed").engine(NAME)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let spawned = thread::Builder::new().name(name.into()).spawn(work);
    let failed =
        |e| Error::new(Kind::Limited, "no thread could be started").engine(NAME).op("open").source(e);
    spawned.map(drop).map_err(failed)
}
