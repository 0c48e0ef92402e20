//! What a job sees: one write transaction, begun when something is first written.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use rusqlite::{CachedStatement, Connection, OptionalExtension, Params, Row};

use super::error::{Failure, is_busy};

/// The outcome of a step inside a transaction.
pub(super) type Step<T> = Result<T, Failure>;

/// One round of the writer: reads see the committed state until [`Tx::begin`], then the transaction's.
#[derive(Debug)]
pub(super) struct Tx<'c> {
    conn: &'c Connection,
    busy: Duration,
    now: i64,
    begun: Cell<bool>,
    touched: RefCell<Vec<i64>>,
}

impl<'c> Tx<'c> {
    pub(super) fn new(conn: &'c Connection, busy: Duration, now: i64) -> Self {
        Self { conn, busy, now, begun: Cell::new(false), touched: RefCell::default() }
    }

    /// The time of this round, in milliseconds since 1970.
    pub(super) fn now(&self) -> i64 {
        self.now
    }

    /// Takes the file's write lock unless this round has it. To be called before the reads that a write rests on.
    pub(super) fn begin(&self) -> Step<()> {
        if self.begun.get() {
            return Ok(());
        }
        let deadline = Instant::now() + self.busy;
        let mut wait = Duration::from_micros(50);
        loop {
            match self.run("BEGIN IMMEDIATE", []) {
                Ok(_) => break,
                Err(Failure::Driver(e)) if is_busy(&e) && Instant::now() < deadline => {}
                Err(e) => return Err(e),
            }
            // Short waits: other processes hold the lock for about a millisecond, and there is no queue.
            std::thread::sleep(wait);
            wait = (wait * 2).min(Duration::from_millis(1));
        }
        self.begun.set(true);
        Ok(())
    }

    /// For reads that are also made outside of transactions.
    pub(super) fn conn(&self) -> &'c Connection {
        self.conn
    }

    /// Notes that subscriptions of this topic may find something after the commit.
    pub(super) fn touch(&self, topic: i64) {
        let mut touched = self.touched.borrow_mut();
        if !touched.contains(&topic) {
            touched.push(topic);
        }
    }

    pub(super) fn commit(self) -> Step<Vec<i64>> {
        if self.begun.get() {
            self.run("COMMIT", [])?;
        }
        Ok(self.touched.into_inner())
    }

    pub(super) fn prepare(&self, sql: &str) -> Step<CachedStatement<'c>> {
        Ok(self.conn.prepare_cached(sql)?)
    }

    /// Runs a statement that returns nothing; says how many rows it changed.
    pub(super) fn run(&self, sql: &str, params: impl Params) -> Step<usize> {
        Ok(self.prepare(sql)?.execute(params)?)
    }

    /// Runs an insert; says the new row's id.
    pub(super) fn insert(&self, sql: &str, params: impl Params) -> Step<i64> {
        Ok(self.prepare(sql)?.insert(params)?)
    }

    /// The one row there must be.
    pub(super) fn one<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Step<T> {
        Ok(self.prepare(sql)?.query_row(params, read)?)
    }

    /// The row, if it is there.
    pub(super) fn maybe<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Step<Option<T>> {
        Ok(self.prepare(sql)?.query_row(params, read).optional()?)
    }

    /// All rows.
    pub(super) fn all<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Step<Vec<T>> {
        Ok(self.prepare(sql)?.query_map(params, read)?.collect::<Result<_, _>>()?)
    }
}
