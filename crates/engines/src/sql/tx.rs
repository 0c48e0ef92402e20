//! What work on the database sees: one connection, and one transaction, begun when something is first written.

use std::future::Future;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout_at};

use super::clock::DatabaseClock;
use super::conn::{Answer, Arg, Conn, Line, Row};
use super::dialect::{Dialect, padded, places};
use super::error::Failure;
use super::url::Config;

/// Up to so many bytes of a request come in no time.
const LARGE: usize = 1 << 20;

/// The outcome of a step inside a transaction.
pub(super) type Step<T> = Result<T, Failure>;

/// What is done with a [`Tx`], on its way.
pub(super) type Work<'t, T> = BoxFuture<'t, Step<T>>;

/// Statements before [`Tx::begin`] see what is committed at each moment; those after it are one transaction.
#[derive(Debug)]
pub(super) struct Tx {
    conn: Box<dyn Conn>,
    config: Arc<Config>,
    clock: Arc<DatabaseClock>,
    deadline: Instant,
    now: Option<i64>,
    touched: Vec<i64>,
    /// Statements that go with the commit.
    last: String,
}

impl Tx {
    pub(super) fn new(conn: Box<dyn Conn>, config: Arc<Config>, clock: Arc<DatabaseClock>) -> Self {
        Self {
            conn,
            config,
            clock,
            deadline: Instant::now(),
            now: None,
            touched: Vec::new(),
            last: String::new(),
        }
    }

    /// Prepares for other work, all of which must be done at `deadline`.
    pub(super) fn reset(&mut self, deadline: Instant) {
        self.deadline = deadline;
        self.now = None;
        self.touched.clear();
        self.last.clear();
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.config.dialect
    }

    /// What is put before each topic's name.
    pub(super) fn prefix(&self) -> &str {
        &self.config.prefix
    }

    /// A topic's name as it is stored.
    pub(super) fn stored_name(&self, name: &str) -> String {
        format!("{}{name}", self.config.prefix)
    }

    /// The database's time, in milliseconds since 1970: that at the beginning of the transaction, or about now before it.
    pub(super) fn now(&self) -> i64 {
        self.now.unwrap_or_else(|| self.clock.now())
    }

    /// Begins the transaction, unless it has begun.
    pub(super) async fn begin(&mut self) -> Step<()> {
        if self.now.is_none() {
            let sql = format!("BEGIN; SELECT {}", self.dialect().now());
            self.now = Some(self.clocked(sql).await?);
        }
        Ok(())
    }

    /// Begins the transaction with these statements, each ended by `;`, in one request. The time is that after them.
    pub(super) async fn begin_with(&mut self, sql: &str) -> Step<Vec<Row>> {
        let sql = format!("BEGIN; {sql} SELECT {}", self.dialect().now());
        let mut rows = within(self.deadline, self.conn.script(sql)).await?;
        let now = rows.pop().ok_or(sqlx::Error::RowNotFound)?.int(0)?;
        self.clock.read(now);
        self.now = Some(now);
        Ok(rows)
    }

    /// Puts statements, each ended by `;`, into the request that commits.
    pub(super) fn at_commit(&mut self, sql: String) {
        self.last = sql;
    }

    /// Begins a transaction that only reads, all of it as of one moment.
    pub(super) async fn snapshot(&mut self) -> Step<()> {
        let sql = format!("{}; SELECT {}", self.dialect().snapshot(), self.dialect().now());
        self.now = Some(self.clocked(sql).await?);
        Ok(())
    }

    /// Reads the database's clock.
    pub(super) async fn look_at_clock(&mut self) -> Step<i64> {
        self.clocked(format!("SELECT {}", self.dialect().now())).await
    }

    async fn clocked(&mut self, sql: String) -> Step<i64> {
        let rows = within(self.deadline, self.conn.script(sql)).await?;
        let now = rows.last().ok_or(sqlx::Error::RowNotFound)?.int(0)?;
        self.clock.read(now);
        Ok(now)
    }

    pub(super) fn begun(&self) -> bool {
        self.now.is_some()
    }

    /// Notes that subscriptions of this topic may find something after the commit.
    pub(super) fn touch(&mut self, topic: i64) {
        if !self.touched.contains(&topic) {
            self.touched.push(topic);
        }
    }

    /// Commits; says which topics were touched.
    pub(super) async fn commit(&mut self) -> Step<Vec<i64>> {
        let commit = format!("{} COMMIT", std::mem::take(&mut self.last));
        self.script(commit).await?;
        self.now = None;
        Ok(std::mem::take(&mut self.touched))
    }

    pub(super) async fn rollback(&mut self) -> Step<()> {
        self.now = None;
        self.script("ROLLBACK").await.map(drop)
    }

    /// Runs statements without arguments, separated by `;`.
    pub(super) async fn script(&mut self, sql: impl Into<String>) -> Step<Vec<Row>> {
        within(self.deadline, self.conn.script(sql.into())).await
    }

    /// Runs a statement that returns nothing; says how many rows it changed.
    pub(super) async fn run(&mut self, sql: &str, args: &[Arg<'_>]) -> Step<u64> {
        self.announce(args.iter().map(Arg::size).sum()).await?;
        within(self.deadline, self.conn.run(sql, args)).await
    }

    /// Runs an insert; says the new row's id.
    pub(super) async fn insert(&mut self, sql: &str, args: &[Arg<'_>]) -> Step<i64> {
        within(self.deadline, self.conn.insert(sql, args)).await
    }

    /// All rows.
    pub(super) async fn all(&mut self, sql: &str, args: &[Arg<'_>]) -> Step<Vec<Row>> {
        within(self.deadline, self.conn.all(sql, args)).await
    }

    /// The row, if it is there.
    pub(super) async fn maybe(&mut self, sql: &str, args: &[Arg<'_>]) -> Step<Option<Row>> {
        Ok(self.all(sql, args).await?.into_iter().next())
    }

    /// The one row there must be.
    pub(super) async fn one(&mut self, sql: &str, args: &[Arg<'_>]) -> Step<Row> {
        Ok(self.maybe(sql, args).await?.ok_or(sqlx::Error::RowNotFound)?)
    }

    /// The rows that `sql`, which ends in `IN`, finds for these values; `tail` is put behind. Nothing for no values.
    pub(super) async fn all_in(&mut self, sql: &str, values: &[i64], tail: &str) -> Step<Vec<Row>> {
        if values.is_empty() {
            return Ok(Vec::new());
        }
        let args: Vec<Arg<'_>> = padded(values).into_iter().map(Arg::Int).collect();
        self.all(&format!("{sql} {} {tail}", places(values.len())), &args).await
    }

    /// Like [`Tx::all_in`], for a statement that returns nothing.
    pub(super) async fn run_in(&mut self, sql: &str, values: &[i64]) -> Step<u64> {
        if values.is_empty() {
            return Ok(0);
        }
        let args: Vec<Arg<'_>> = padded(values).into_iter().map(Arg::Int).collect();
        self.run(&format!("{sql} {}", places(values.len())), &args).await
    }

    /// Inserts many messages: see [`Conn::fill`].
    pub(super) async fn fill(&mut self, table: &str, heads: [&str; 2], lines: &[Line<'_>]) -> Step<()> {
        if lines.is_empty() {
            return Ok(());
        }
        self.announce(lines.iter().map(Line::size).sum()).await?;
        within(self.deadline, self.conn.fill(table, heads, lines)).await
    }

    /// Prepares the database for a request of so many bytes.
    async fn announce(&mut self, bytes: usize) -> Step<()> {
        if bytes > LARGE
            && self.begun()
            && let Some(sql) = self.conn.patience(bytes)
        {
            self.script(sql).await?;
        }
        Ok(())
    }
}

pub(super) async fn within<T>(deadline: Instant, call: impl Future<Output = Answer<T>>) -> Step<T> {
    match timeout_at(deadline, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Failure::Late),
    }
}
