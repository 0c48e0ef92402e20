//! Ids: rows of a table of counters, or the database's own auto-increment.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use linchpin_core::id::{IdEngine, Segment};
use linchpin_core::url::EngineUrl;
use linchpin_core::{Info, Result};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};

use super::clock::DatabaseClock;
use super::conn::Row;
use super::core::create_database;
use super::dialect::Dialect;
use super::error::{Failure, Phase};
use super::session::Session;
use super::tx::{Step, Tx};
use super::url::Config;
use super::{auto, counters};
use crate::relational::ids::{CounterRow, IdOptions, KEYS, LISTED, TRIES, ambiguous, contended, no_counter};

/// Counters in a PostgreSQL or MySQL database. See [`IdOptions`] for the options beside those of [`Config`].
#[derive(Debug)]
pub struct SqlIds {
    info: Info,
    config: Arc<Config>,
    options: IdOptions,
    session: Mutex<Session>,
}

/// What one call wants.
struct Ask {
    options: IdOptions,
    schema: String,
    name: String,
    count: Option<u64>,
}

impl SqlIds {
    /// Connects; makes the table or sequence where the URL says `create=true`.
    ///
    /// # Errors
    /// See [`ids`](super::ids).
    pub async fn open(url: &EngineUrl) -> Result<Self> {
        let (shown, mut url) = (url.to_string(), url.clone());
        let options = IdOptions::take(&mut url)?;
        let config = Arc::new(Config::read(&url, KEYS)?);
        if options.create {
            create_database(&config).await?;
        }
        let durability = "committed by the server before any of the numbers is given out";
        let info = Info { engine: config.dialect.name(), url: shown, durability };
        let session = Session::new(config.clone(), Arc::new(DatabaseClock::new()));
        let name = options.name.clone().unwrap_or_default();
        let ids = Self { info, config, options, session: Mutex::new(session) };
        ids.transact("open", ids.ask(&name, None), |tx, ask| Box::pin(prepare(tx, ask))).await?;
        Ok(ids)
    }

    fn ask(&self, name: &str, count: Option<u64>) -> Ask {
        let (options, schema) = (self.options.clone(), self.config.schema.clone());
        Ask { options, schema, name: name.to_owned(), count }
    }

    async fn transact<T>(
        &self,
        op: &'static str,
        ask: Ask,
        work: impl for<'t> Fn(&'t mut Tx, &'t Ask) -> super::tx::Work<'t, T> + Send + Sync,
    ) -> Result<T> {
        let deadline = Instant::now() + self.config.timeout;
        let late = |_| Failure::Late.into_error(self.config.dialect, op, Phase::Before);
        let mut session = timeout_at(deadline, self.session.lock()).await.map_err(late)?;
        session.transact(op, deadline, &ask, work).await.map(|(value, _)| value)
    }
}

#[async_trait]
impl IdEngine for SqlIds {
    fn info(&self) -> &Info {
        &self.info
    }

    fn name(&self) -> Option<&str> {
        self.options.name.as_deref()
    }

    async fn take(&self, name: &str, count: Option<u64>) -> Result<Segment> {
        self.transact("next", self.ask(name, count), |tx, ask| Box::pin(take(tx, ask))).await
    }
}

async fn prepare(tx: &mut Tx, ask: &Ask) -> Step<()> {
    match ask.options.auto {
        true if ask.name.is_empty() => Ok(()),
        true => auto::prepare(tx, &ask.schema, &ask.name, ask.options.create).await,
        false => counters::prepare(tx, &ask.schema, &ask.options).await,
    }
}

async fn take(tx: &mut Tx, ask: &Ask) -> Step<Segment> {
    let Ask { options, schema, name, count } = ask;
    if options.auto {
        auto::prepare(tx, schema, name, options.create).await?;
        tx.begin().await?;
        return auto::take(tx, name, count.unwrap_or(options.step), options.step).await;
    }
    // Each look sees what others committed meanwhile.
    for n in 0..TRIES {
        let row = match read(tx, &options.table, name).await?.as_slice() {
            [row] => *row,
            [] if options.create => {
                counters::create(tx, options, name).await?;
                continue;
            }
            [] => return Err(no_counter(name, &options.table, &some(tx, &options.table).await?).into()),
            _ => return Err(ambiguous(name, &options.table).into()),
        };
        let (segment, max_id) = row.next(name, *count, options.at)?;
        tx.begin().await?;
        if advance(tx, &options.table, row, max_id).await? {
            return Ok(segment);
        }
        tx.rollback().await?;
        sleep(Duration::from_millis(fastrand::u64(0..=u64::from(n.min(20))))).await;
    }
    Err(contended(name).into())
}

fn quoted(tx: &Tx, name: &str) -> String {
    tx.dialect().quoted(name)
}

async fn read(tx: &mut Tx, table: &str, name: &str) -> Step<Vec<CounterRow>> {
    // Whatever the types of the columns.
    let int = if tx.dialect() == Dialect::MySql { "SIGNED" } else { "bigint" };
    let columns = ["id", "max_id", "step", "version"].map(|column| format!("CAST({column} AS {int})"));
    let (table, columns) = (quoted(tx, table), columns.join(", "));
    let sql = format!("SELECT {columns} FROM {table} WHERE biz_type = ? AND deleted_at IS NULL LIMIT 2");
    let row = |row: &Row| -> Step<CounterRow> {
        let (id, max_id) = (row.int(0)?, row.int(1)?);
        Ok(CounterRow { id, max_id, step: row.int(2)?, version: row.int(3)? })
    };
    tx.all(&sql, &[name.into()]).await?.iter().map(row).collect()
}

/// Moves the row on, unless somebody else did meanwhile.
async fn advance(tx: &mut Tx, table: &str, row: CounterRow, max_id: i64) -> Step<bool> {
    let sql = format!(
        "UPDATE {} SET max_id = ?, version = version + 1, updated_at = CURRENT_TIMESTAMP
         WHERE id = ? AND version = ? AND max_id = ? AND deleted_at IS NULL",
        quoted(tx, table)
    );
    let changed =
        tx.run(&sql, &[max_id.into(), row.id.into(), row.version.into(), row.max_id.into()]).await?;
    Ok(changed == 1)
}

/// Some of the names that there are.
async fn some(tx: &mut Tx, table: &str) -> Step<Vec<String>> {
    let sql = format!(
        "SELECT biz_type FROM {} WHERE deleted_at IS NULL ORDER BY biz_type LIMIT {LISTED}",
        quoted(tx, table)
    );
    tx.all(&sql, &[]).await?.iter().map(|row| Ok(row.text(0)?)).collect()
}
