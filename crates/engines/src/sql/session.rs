//! A connection that makes transactions, and makes itself anew when it broke.

use std::sync::Arc;
use std::time::Duration;

use linchpin_core::{Error, Result};
use tokio::time::{Instant, sleep, timeout_at};

use super::clock::DatabaseClock;
use super::conn::{Answer, Conn};
use super::dialect::Dialect;
use super::error::{Failure, Fate, Phase};
use super::tx::{Step, Tx, Work, within};
use super::url::Config;

/// How often a transaction that others got in the way of is run.
const TRIES: u32 = 12;
/// A rollback that takes longer isn't worth the connection.
const ROLLBACK: Duration = Duration::from_secs(1);

/// At most one connection, made when it is needed.
///
/// Cancel-safe: a connection that was in use when a future was dropped is closed, so the server rolls back.
#[derive(Debug)]
pub(super) struct Session {
    config: Arc<Config>,
    clock: Arc<DatabaseClock>,
    idle: Option<Tx>,
}

impl Session {
    pub(super) fn new(config: Arc<Config>, clock: Arc<DatabaseClock>) -> Self {
        Self { config, clock, idle: None }
    }

    /// Runs `work` with `context` and commits what it began, until `deadline`. `work` may run more than once: after a deadlock, say, or on a
    /// connection that turned out to be broken. Answers which topics were touched, too.
    pub(super) async fn transact<C: Sync, T>(
        &mut self,
        op: &'static str,
        deadline: Instant,
        context: &C,
        work: impl for<'t> Fn(&'t mut Tx, &'t C) -> Work<'t, T> + Send + Sync,
    ) -> Result<(T, Vec<i64>)> {
        let dialect = self.config.dialect;
        let mut tries = 1;
        loop {
            let (mut tx, fresh) =
                self.tx(deadline).await.map_err(|e| e.into_error(dialect, op, Phase::Before))?;
            let (failure, phase) = match attempt(&mut tx, context, &work).await {
                Ok(done) => {
                    self.idle = Some(tx);
                    return Ok(done);
                }
                Err(failed) => failed,
            };
            let fate = failure.fate();
            if fate != Fate::Broken {
                self.roll_back(tx).await;
            }
            let again = match (fate, phase) {
                (Fate::Again, _) => tries < TRIES,
                (Fate::Broken, Phase::Before) => !fresh && tries < TRIES,
                _ => false,
            };
            if !again || Instant::now() >= deadline {
                return Err(failure.into_error(dialect, op, phase));
            }
            if fate == Fate::Again {
                sleep(Duration::from_millis(jitter(tries))).await;
            }
            tries += 1;
        }
    }

    /// A connection, and whether it was made just now.
    async fn tx(&mut self, deadline: Instant) -> Step<(Tx, bool)> {
        let (mut tx, fresh) = match self.idle.take() {
            Some(tx) => (tx, false),
            None => {
                let conn = within(deadline, connect(&self.config)).await?;
                (Tx::new(conn, self.config.clone(), self.clock.clone()), true)
            }
        };
        tx.reset(deadline);
        Ok((tx, fresh))
    }

    /// Keeps the connection if it can be rolled back.
    async fn roll_back(&mut self, mut tx: Tx) {
        if !tx.begun() {
            self.idle = Some(tx);
            return;
        }
        tx.reset(Instant::now() + ROLLBACK);
        if timeout_at(Instant::now() + ROLLBACK, tx.rollback()).await.is_ok_and(|done| done.is_ok()) {
            self.idle = Some(tx);
        }
    }
}

async fn attempt<C: Sync, T>(
    tx: &mut Tx,
    context: &C,
    work: &(impl for<'t> Fn(&'t mut Tx, &'t C) -> Work<'t, T> + Sync),
) -> Result<(T, Vec<i64>), (Failure, Phase)> {
    let value = work(tx, context).await.map_err(|failure| (failure, Phase::Before))?;
    let touched = match tx.begun() {
        true => tx.commit().await.map_err(|failure| (failure, Phase::Commit))?,
        false => Vec::new(),
    };
    Ok((value, touched))
}

/// Milliseconds to wait before the next try, so that those who collided don't collide again.
fn jitter(tries: u32) -> u64 {
    fastrand::u64(1..=4 << tries.min(5))
}

/// Opens a connection of the dialect.
pub(super) async fn connect(config: &Config) -> Answer<Box<dyn Conn>> {
    match config.dialect {
        #[cfg(feature = "postgres")]
        Dialect::Postgres => super::postgres::connect(config).await,
        #[cfg(feature = "mysql")]
        Dialect::MySql => super::mysql::connect(config).await,
        #[cfg(not(all(feature = "postgres", feature = "mysql")))]
        other => Err(sqlx::Error::Configuration(format!("this build has no {}", other.name()).into())),
    }
}

/// An error for who comes when the engine is closed.
pub(super) fn closed(dialect: Dialect) -> Error {
    Error::new(linchpin_core::Kind::Closed, "the engine is closed").engine(dialect.name())
}
