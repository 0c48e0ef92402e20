//! Ids: rows of a table of counters, or the file's own auto-increment.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use linchpin_core::id::{IdEngine, Segment};
use linchpin_core::url::EngineUrl;
use linchpin_core::{Error, Info, Kind, Result};
use rusqlite::{Connection, Row, params};
use tokio::task::spawn_blocking;

use super::bus::durability;
use super::tx::{Step, Tx};
use super::url::Config;
use super::{NAME, connect};
use crate::relational::ids::{
    CREATE, CounterRow, IdOptions, KEYS, LISTED, TRIES, ambiguous, contended, no_counter, no_table,
};

/// Counters in a SQLite file. See [`IdOptions`] for the options beside those of [`Config`].
#[derive(Debug)]
pub struct SqliteIds {
    info: Info,
    options: IdOptions,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    conn: Mutex<Connection>,
    config: Config,
    options: IdOptions,
}

impl SqliteIds {
    /// Opens the file that `url` names; makes it, and its table, where the URL says `create=true`.
    ///
    /// # Errors
    /// `Config` for wrong options, `NotFound` for a file or table that isn't there.
    pub async fn open(url: &EngineUrl) -> Result<Self> {
        let (shown, mut url) = (url.to_string(), url.clone());
        let options = IdOptions::take(&mut url)?;
        let own: Vec<_> = KEYS.iter().copied().filter(|key| *key != CREATE).collect();
        let config = Config { create: options.create, ..Config::read(&url, &own)? };
        let info = Info { engine: NAME, url: shown, durability: durability(&config) };
        let kept = options.clone();
        let shared = blocking(move || {
            let conn = connect::writer(&config)?;
            let shared = Shared { conn: Mutex::new(conn), config, options };
            shared.transact("open", prepare)?;
            Ok(Arc::new(shared))
        });
        Ok(Self { info, options: kept, shared: shared.await? })
    }
}

#[async_trait]
impl IdEngine for SqliteIds {
    fn info(&self) -> &Info {
        &self.info
    }

    fn name(&self) -> Option<&str> {
        self.options.name.as_deref()
    }

    async fn take(&self, name: &str, count: Option<u64>) -> Result<Segment> {
        let (shared, name) = (self.shared.clone(), name.to_owned());
        blocking(move || {
            shared.transact("next", |tx, options| match options.auto {
                true => auto(tx, options, &name, count),
                false => segment(tx, options, &name, count),
            })
        })
        .await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let lost = |e| Error::new(Kind::Unexpected, "a blocking task was lost").engine(NAME).source(e);
    spawn_blocking(work).await.map_err(lost)?
}

impl Shared {
    fn transact<T>(&self, op: &'static str, work: impl FnOnce(&Tx<'_>, &IdOptions) -> Step<T>) -> Result<T> {
        let conn = self.conn.lock().unwrap_or_else(PoisonError::into_inner);
        let tx = Tx::new(&conn, self.config.busy, 0);
        let done = tx.begin().and_then(|()| work(&tx, &self.options)).and_then(|value| {
            tx.commit()?;
            Ok(value)
        });
        if done.is_err() && !conn.is_autocommit() {
            // SQLite may have rolled back by itself; if this fails, there is nothing left to roll back.
            let _rolled_back = conn.execute_batch("ROLLBACK");
        }
        done.map_err(|failure| failure.into_error(op))
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn is_there(tx: &Tx<'_>, table: &str) -> Step<bool> {
    let sql = "SELECT count(*) FROM sqlite_master WHERE type IN ('table', 'view') AND name = ?1";
    tx.one(sql, [table], |row| row.get::<_, i64>(0)).map(|count| count > 0)
}

/// Sees to it that the table is there.
fn prepare(tx: &Tx<'_>, options: &IdOptions) -> Step<()> {
    match &options.name {
        Some(name) if options.auto => prepare_auto(tx, options, name),
        _ if options.auto || is_there(tx, &options.table)? => Ok(()),
        _ if !options.create => Err(no_table(&options.table).into()),
        _ => {
            let (table, index) = (quoted(&options.table), quoted(&format!("{}_biz_type", options.table)));
            tx.conn().execute_batch(&format!(
                "CREATE TABLE {table}(
                    id INTEGER PRIMARY KEY AUTOINCREMENT, max_id INTEGER NOT NULL DEFAULT 0,
                    step INTEGER NOT NULL DEFAULT 1000, biz_type TEXT NOT NULL, version INTEGER NOT NULL DEFAULT 0,
                    created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
                    updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, deleted_at TEXT);
                 CREATE UNIQUE INDEX {index} ON {table}(biz_type) WHERE deleted_at IS NULL;"
            ))?;
            Ok(())
        }
    }
}

fn row(row: &Row<'_>) -> rusqlite::Result<CounterRow> {
    Ok(CounterRow { id: row.get(0)?, max_id: row.get(1)?, step: row.get(2)?, version: row.get(3)? })
}

fn segment(tx: &Tx<'_>, options: &IdOptions, name: &str, count: Option<u64>) -> Step<Segment> {
    let table = quoted(&options.table);
    for _ in 0..TRIES {
        let sql = format!(
            "SELECT id, max_id, step, version FROM {table} WHERE biz_type = ?1 AND deleted_at IS NULL LIMIT 2"
        );
        let row = match tx.all(&sql, [name], row)?.as_slice() {
            [row] => *row,
            [] if options.create => {
                create(tx, options, name)?;
                continue;
            }
            [] => {
                let sql = format!(
                    "SELECT biz_type FROM {table} WHERE deleted_at IS NULL ORDER BY biz_type LIMIT {LISTED}"
                );
                let some = tx.all(&sql, [], |row| row.get(0))?;
                return Err(no_counter(name, &options.table, &some).into());
            }
            _ => return Err(ambiguous(name, &options.table).into()),
        };
        let (segment, max_id) = row.next(name, count, options.at)?;
        let sql = format!(
            "UPDATE {table} SET max_id = ?1, version = version + 1, updated_at = CURRENT_TIMESTAMP
             WHERE id = ?2 AND version = ?3 AND deleted_at IS NULL"
        );
        if tx.run(&sql, params![max_id, row.id, row.version])? == 1 {
            return Ok(segment);
        }
    }
    Err(contended(name).into())
}

/// A row that goes on where soft-deleted ones of its name ended.
fn create(tx: &Tx<'_>, options: &IdOptions, name: &str) -> Step<()> {
    let table = quoted(&options.table);
    let sql = format!(
        "INSERT INTO {table}(max_id, step, biz_type, version, created_at, updated_at)
         SELECT coalesce(max(max_id), 0), ?1, ?2, 0, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP
         FROM {table} WHERE biz_type = ?2"
    );
    tx.run(&sql, params![i64::try_from(options.step).unwrap_or(i64::MAX), name]).map(drop)
}

fn prepare_auto(tx: &Tx<'_>, options: &IdOptions, name: &str) -> Step<()> {
    let sql: Option<String> =
        tx.maybe("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?1", [name], |row| {
            row.get(0)
        })?;
    match sql {
        Some(sql) if sql.to_ascii_uppercase().contains("AUTOINCREMENT") => Ok(()),
        Some(_) => {
            let message = format!("the table {name} has no AUTOINCREMENT: without it numbers are used again");
            let error = Error::new(Kind::Config, message);
            Err(error.help("make it with `id INTEGER PRIMARY KEY AUTOINCREMENT`, or name another").into())
        }
        None if options.create => {
            let sql = format!("CREATE TABLE {}(id INTEGER PRIMARY KEY AUTOINCREMENT)", quoted(name));
            tx.run(&sql, []).map(drop)
        }
        None => Err(no_table(name).into()),
    }
}

/// The table's sequence moves past `count` numbers; its rows stay as they are.
fn auto(tx: &Tx<'_>, options: &IdOptions, name: &str, count: Option<u64>) -> Step<Segment> {
    prepare_auto(tx, options, name)?;
    let table = quoted(name);
    let first = tx.insert(&format!("INSERT INTO {table} DEFAULT VALUES"), [])?;
    let last = first.saturating_add_unsigned(count.unwrap_or(options.step).max(1) - 1);
    if last > first {
        tx.run(&format!("INSERT INTO {table}(id) VALUES (?1)"), [last])?;
    }
    tx.run(&format!("DELETE FROM {table} WHERE id IN (?1, ?2)"), [first, last])?;
    Ok(Segment { first, last, step: options.step })
}
