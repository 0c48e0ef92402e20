//! What a handle and its subscriptions share: connections, the clock, and who is to be woken.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use foldhash::fast::RandomState;
use linchpin_core::{Error, Kind, Result};
use tokio::sync::{Mutex as AsyncMutex, Notify, Semaphore, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::append::{Offsets, Row, append};
use super::clock::DatabaseClock;
use super::coord::{self, Leasing, Writing};
use super::error::{Failure, Phase};
use super::lane::{Lane, Work, gone};
use super::session::{Session, closed};
use super::settle::{self, settle_all};
use super::tx::{self, Tx};
use super::url::Config;
use super::{chores, schema, watcher};
use crate::relational::hub::{Hub, lock};
use crate::relational::store::{Done, Settled};
use crate::relational::topic::Known;

/// Connections that only write: to publish, to settle, to claim.
const WRITERS: usize = 3;

/// Tells who waits, here and in other processes, that there may be something.
#[derive(Debug, Default)]
pub(super) struct Tell {
    pub(super) hub: Hub,
    /// Topics that other processes weren't told of yet; empty on a database that can't tell.
    pending: Mutex<BTreeSet<i64>>,
    pub(super) more: Notify,
    /// The first `next` call began to wait.
    pub(super) waiting: Notify,
    notifies: bool,
}

impl Tell {
    /// Something of these topics was committed.
    pub(super) fn touched(&self, topics: &[i64]) {
        self.hub.wake(topics);
        if self.notifies && !topics.is_empty() {
            lock(&self.pending).extend(topics);
            self.more.notify_one();
        }
    }

    /// What other processes are to be told.
    #[cfg(feature = "postgres")]
    pub(super) fn take(&self) -> BTreeSet<i64> {
        std::mem::take(&mut *lock(&self.pending))
    }
}

/// Stores messages.
#[derive(Debug)]
pub(super) struct Publishing;

/// What one caller publishes.
#[derive(Debug)]
pub(super) struct Publish {
    pub(super) known: Arc<Known>,
    pub(super) rows: Arc<Vec<Row>>,
}

impl Work for Publishing {
    type Ask = Publish;
    type Answer = Option<Offsets>;
    const OP: &'static str = "publish";

    fn weight(ask: &Publish) -> usize {
        ask.rows.len()
    }

    fn run<'t>(tx: &'t mut Tx, asks: &'t [Publish]) -> tx::Work<'t, Vec<Option<Offsets>>> {
        Box::pin(async move {
            let asks: Vec<_> = asks.iter().map(|ask| (&ask.known.topic, ask.rows.as_slice())).collect();
            append(tx, &asks).await
        })
    }
}

/// Settles deliveries.
#[derive(Debug)]
pub(super) struct Settling;

impl Work for Settling {
    type Ask = settle::Ask;
    type Answer = Vec<Settled>;
    const OP: &'static str = "settle";

    fn weight(ask: &settle::Ask) -> usize {
        ask.weight()
    }

    fn run<'t>(tx: &'t mut Tx, asks: &'t [settle::Ask]) -> tx::Work<'t, Vec<Vec<Settled>>> {
        Box::pin(settle_all(tx, asks))
    }
}

/// What a handle is for: which tables it needs, and what it does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Bus,
    Coord,
}

/// The living engine of one handle. Connections are made when they are first needed.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) config: Arc<Config>,
    pub(super) clock: Arc<DatabaseClock>,
    pub(super) tell: Arc<Tell>,
    pub(super) topics: Mutex<HashMap<String, Arc<Known>, RandomState>>,
    pub(super) publishing: Lane<Publishing>,
    pub(super) settling: Lane<Settling>,
    /// Coordination: what changes keys, and what keeps leases.
    pub(super) writing: Lane<Writing>,
    pub(super) leasing: Lane<Leasing>,
    /// Claims, and everything else that is written: one transaction at a time, in the order of the calls.
    claiming: Arc<AsyncMutex<Session>>,
    readers: Arc<Readers>,
    closed: AtomicBool,
    /// Ends the tasks, by its drop at the latest.
    stop: watch::Sender<bool>,
}

impl Core {
    /// Connects, creates the tables if need be, and starts the tasks.
    pub(super) async fn open(config: Config, purpose: Purpose) -> Result<Arc<Self>> {
        crate::pem::check(config.tls_ca.as_deref(), config.tls_cert.as_deref(), config.tls_key.as_deref())
            .map_err(|e| e.engine(config.dialect.name()).op("open"))?;
        let config = Arc::new(config);
        let clock = Arc::new(DatabaseClock::new());
        let session = || Session::new(config.clone(), clock.clone());
        create_database(&config).await?;
        let mut first = session();
        let deadline = Instant::now() + config.timeout;
        let tables = match purpose {
            Purpose::Bus => &schema::TABLES,
            Purpose::Coord => &coord::schema::TABLES,
        };
        let context = (config.schema.clone(), tables);
        let prepare = first.transact("open", deadline, &context, |tx, (schema, tables)| {
            Box::pin(schema::prepare(tx, schema, tables))
        });
        prepare.await?;
        let notifies = config.dialect == super::dialect::Dialect::Postgres;
        let tell = Arc::new(Tell { notifies, ..Tell::default() });
        let (stop, stopped) = watch::channel(false);
        let core = Arc::new(Self {
            publishing: Lane::start(session(), tell.clone()),
            settling: Lane::start(session(), tell.clone()),
            writing: Lane::start(session(), tell.clone()),
            leasing: Lane::start(session(), tell.clone()),
            claiming: Arc::new(AsyncMutex::new(first)),
            readers: Arc::new(Readers::new(&config, &clock)),
            topics: Mutex::default(),
            closed: AtomicBool::new(false),
            config,
            clock,
            tell,
            stop,
        });
        watcher::start(&core, &stopped, purpose);
        if purpose == Purpose::Bus {
            chores::start(&core, stopped);
        }
        Ok(core)
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::SeqCst) { Err(self.gone()) } else { Ok(()) }
    }

    /// The error of who comes when it is closed.
    pub(super) fn gone(&self) -> Error {
        closed(self.config.dialect)
    }

    /// When a call that begins now must be answered.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.config.timeout
    }

    /// Runs `work` with `context` in a transaction and waits for its commit. `work` may run more than once.
    pub(super) async fn write<C: Send + Sync + 'static, T: Send + 'static>(
        &self,
        op: &'static str,
        context: C,
        work: impl for<'t> Fn(&'t mut Tx, &'t C) -> tx::Work<'t, T> + Send + Sync + 'static,
    ) -> Result<T> {
        self.check_open().map_err(|e| e.op(op))?;
        let (answer, answered) = oneshot::channel();
        // In a task of its own: it is done whole even if the caller goes away.
        self.submit(op, context, work, move |result| {
            let _gone = answer.send(result);
        });
        gone(answered.await, self.gone().op(op))
    }

    /// Runs `work` in a transaction, then `done`.
    pub(super) fn submit<C: Send + Sync + 'static, T: Send + 'static>(
        &self,
        op: &'static str,
        context: C,
        work: impl for<'t> Fn(&'t mut Tx, &'t C) -> tx::Work<'t, T> + Send + Sync + 'static,
        done: impl FnOnce(Result<T>) + Send + 'static,
    ) {
        let (session, tell, deadline) = (self.claiming.clone(), self.tell.clone(), self.deadline());
        let dialect = self.config.dialect;
        tokio::spawn(async move {
            let Ok(mut session) = timeout_at(deadline, session.lock()).await else {
                return done(Err(Failure::Late.into_error(dialect, op, Phase::Before)));
            };
            let result = session.transact(op, deadline, &context, work).await;
            drop(session);
            done(result.map(|(value, touched)| {
                tell.touched(&touched);
                value
            }));
        });
    }

    /// Runs `work` on a connection for reading, beside the writers, and waits for the answer.
    pub(super) async fn read<C: Send + Sync, T: Send>(
        &self,
        op: &'static str,
        context: C,
        work: impl for<'t> Fn(&'t mut Tx, &'t C) -> tx::Work<'t, T> + Send + Sync,
    ) -> Result<T> {
        self.check_open().map_err(|e| e.op(op))?;
        self.readers.read(op, self.deadline(), context, work).await
    }

    /// Runs `work` on a connection for reading, then `done`.
    pub(super) fn look<C: Send + Sync + 'static, T: Send + 'static>(
        &self,
        op: &'static str,
        context: C,
        work: impl for<'t> Fn(&'t mut Tx, &'t C) -> tx::Work<'t, T> + Send + Sync + 'static,
        done: Done<T>,
    ) {
        let (readers, deadline) = (self.readers.clone(), self.deadline());
        tokio::spawn(async move { done(readers.read(op, deadline, context, work).await) });
    }

    /// Refuses new work, finishes what is queued, and lets go of the connections.
    pub(super) async fn close(&self) {
        if self.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        self.stop.send_replace(true);
        self.publishing.close().await;
        self.settling.close().await;
        self.writing.close().await;
        self.leasing.close().await;
        *self.claiming.lock().await = Session::new(self.config.clone(), self.clock.clone());
        self.readers.close();
        self.tell.hub.wake_all();
    }
}

/// Connections for reading, made as they are needed.
#[derive(Debug)]
struct Readers {
    config: Arc<Config>,
    clock: Arc<DatabaseClock>,
    most: Semaphore,
    idle: Mutex<Vec<Session>>,
}

impl Readers {
    fn new(config: &Arc<Config>, clock: &Arc<DatabaseClock>) -> Self {
        let most = Semaphore::new(config.pool.saturating_sub(WRITERS).max(1));
        Self { config: config.clone(), clock: clock.clone(), most, idle: Mutex::default() }
    }

    async fn read<C: Send + Sync, T>(
        &self,
        op: &'static str,
        deadline: Instant,
        context: C,
        work: impl for<'t> Fn(&'t mut Tx, &'t C) -> tx::Work<'t, T> + Send + Sync,
    ) -> Result<T> {
        let late = || Failure::Late.into_error(self.config.dialect, op, Phase::Before);
        let permit = timeout_at(deadline, self.most.acquire()).await.map_err(|_| late())?;
        let _permit = permit.map_err(|_| closed(self.config.dialect).op(op))?;
        let session = lock(&self.idle).pop();
        let mut session = session.unwrap_or_else(|| Session::new(self.config.clone(), self.clock.clone()));
        let result = session.transact(op, deadline, &context, work).await;
        lock(&self.idle).push(session);
        result.map(|(value, _)| value)
    }

    fn close(&self) {
        self.most.close();
        lock(&self.idle).clear();
    }
}

pub(super) async fn create_database(config: &Config) -> Result<()> {
    match config.dialect {
        #[cfg(feature = "mysql")]
        super::dialect::Dialect::MySql => {
            let deadline = Instant::now() + config.timeout;
            let made = super::tx::within(deadline, super::mysql::create_database(config)).await;
            made.map_err(|e| e.into_error(config.dialect, "open", Phase::Before))
        }
        _ => Ok(()),
    }
}

/// The topic as it was known is out of date, again and again.
pub(super) fn keeps_changing() -> Error {
    let after = std::time::Duration::ZERO;
    Error::new(Kind::Conflict, "the topic keeps changing").retry_as(linchpin_core::Retry::Safe { after })
}
