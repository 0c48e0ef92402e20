//! The end of a pipe in SQLite tables: rows and positions in one transaction.

mod ledger;
mod open;
mod upsert;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use linchpin_core::pipe::{Item, Landed, Sink, Table};
use linchpin_core::{Error, Kind, Result};
use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use self::ledger::Ledger;
use self::upsert::Upsert;
use super::error::Failure;
use super::url::Config;
use super::{NAME, connect};
use crate::relational::sink::{Admission, check_rows};

/// Lands what a pipe brings in tables of a SQLite file, each message once.
///
/// A batch is one `BEGIN IMMEDIATE` transaction: the sink reads how far it is (`lp_sink`), skips what it has, writes the
/// rest, sorted by key and with one statement for many rows, and stores how far it is now. All rows of a message
/// land together or not at all. A batch the tables refuse is halved, under savepoints, until the messages at fault
/// are alone: they go to `lp_sink_dead` with reason and payload, in the same transaction, and the others land.
///
/// Rows of one batch that share a key become one before the tables see them: what a later row replaces is not checked
/// by them. Tables are written in the order they were named, so name parents before children.
///
/// Several pipes, in one process or in many, may write to one file. Deliveries without order are told apart by message id
/// in `lp_sink_seen`; rows of it that are older than the topic's retention may be deleted.
///
/// ```
/// # use std::time::Duration;
/// # use linchpin_core::{Error, Result};
/// use linchpin_core::bus::{Bus, MemoryBus, Message, TopicOptions};
/// use linchpin_core::pipe::{Pipe, Row, Table, Write};
/// use linchpin_engines::sqlite::SqliteSink;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let file = folder.path().join("shop.db");
/// # let file = file.to_str().ok_or("a path that isn't UTF-8")?;
/// let shop = rusqlite::Connection::open(file)?;
/// shop.execute_batch("CREATE TABLE sold (item TEXT PRIMARY KEY, pieces INTEGER NOT NULL) STRICT")?;
///
/// let bus = Bus::new(MemoryBus::new());
/// bus.ensure("sales", &TopicOptions::default()).await?;
/// for item in ["lantern", "candle", "lantern"] {
///     bus.publish("sales", Message::new(item).key(item)).await?;
/// }
///
/// let sold = Table { name: "sold", columns: &["item", "pieces"], key: 1, write: Write::Add };
/// let sink = SqliteSink::open(file, "stock", &[sold]).await?;
/// let pipe = Pipe::new(&bus, "sales", "stock").map(|sale| {
///     let item = String::from_utf8_lossy(&sale.message.payload).into_owned();
///     Ok(vec![Row::new("sold", [item.into(), 1.into()])])
/// });
/// let piping = pipe.run(sink).await?;
/// # while piping.totals().applied < 3 { tokio::time::sleep(Duration::from_millis(5)).await; }
/// piping.stop().await?;
///
/// let pieces = "SELECT pieces FROM sold WHERE item = 'lantern'";
/// assert_eq!(shop.query_row(pieces, [], |row| row.get::<_, i64>(0))?, 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SqliteSink {
    name: String,
    writer: Arc<Mutex<Writer>>,
}

impl SqliteSink {
    /// Opens a sink called `name` onto `tables` of the file that `place` names, by its path or as a `sqlite:` URL with the
    /// options of [`Config`]. The file and the tables must be there; the sink's own tables are created.
    ///
    /// The name is what the sink remembers its positions by, with topic and partition. Pipes that share it share them. A
    /// topic that was removed and made anew, or one of the same name on another bus, counts its offsets from the start
    /// again: give its sink a name of its own. Otherwise writing answers `Config` when it meets a message that was stored
    /// later than one of a higher offset.
    ///
    /// # Errors
    /// `Config` that names the table or column at fault and the remedy: no such file, table or column, no unique index
    /// over the key, a column that must be written and isn't. What SQLite says otherwise.
    pub async fn open(place: &str, name: &str, tables: &[Table]) -> Result<Arc<Self>> {
        let config = config(place)?;
        let (own, tables) = (name.to_owned(), tables.to_vec());
        let writer = blocking("open", move || Writer::open(&config, own, &tables)).await?;
        Ok(Arc::new(Self { name: name.to_owned(), writer: Arc::new(Mutex::new(writer)) }))
    }

    /// The name it remembers its positions by.
    pub fn name(&self) -> &str {
        &self.name
    }
}

#[async_trait]
impl Sink for SqliteSink {
    /// Cancel-safe in effect: a dropped call still commits or rolls back as a whole, and what it landed is a repeat.
    async fn write(&self, topic: &str, batch: &[Item]) -> Result<Vec<Landed>> {
        let (writer, topic, batch) = (self.writer.clone(), topic.to_owned(), batch.to_vec());
        let land = move || {
            let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            writer.land(&topic, &batch).map_err(|failure| failure.into_error("write"))
        };
        blocking("write", land).await
    }
}

fn anew(sink: &str, topic: &str, item: &Item) -> Error {
    let message =
        format!("topic {topic:?} was made anew: sink {sink:?} holds later offsets of earlier messages");
    let help = "open the sink under another name, or delete its rows in lp_sink to land everything again";
    Error::new(Kind::Config, message).with("position", item.position).help(help)
}

fn config(place: &str) -> Result<Config> {
    let mut config = match place.strip_prefix("sqlite:") {
        Some(_) => Config::from_url(&place.parse()?)?,
        None => {
            Config { path: place.into(), url: place.to_owned(), ..Config::from_url(&"sqlite:-".parse()?)? }
        }
    };
    config.create = false;
    if config.in_memory() || !Path::new(&config.path).is_file() {
        let error = Error::new(Kind::Config, format!("{:?} is no file", config.path.display().to_string()));
        return Err(error
            .engine(NAME)
            .op("open")
            .help("name a database that exists and holds the sink's tables"));
    }
    Ok(config)
}

async fn blocking<T: Send + 'static>(
    op: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|end| {
        Err(Error::new(Kind::Unexpected, "the sink's thread ended early").engine(NAME).op(op).source(end))
    })
}

#[derive(Debug)]
struct Writer {
    conn: Connection,
    name: String,
    tables: Vec<Upsert>,
}

/// An item that is new, and the place for its verdict.
type Fresh<'a> = (&'a Item, &'a mut Landed);

impl Writer {
    fn open(config: &Config, name: String, tables: &[Table]) -> Result<Self> {
        let mut conn = connect::writer(config)?;
        let tables = open::tables(&mut conn, &name, tables).map_err(|failure| failure.into_error("open"))?;
        let statements: usize = tables.iter().map(Upsert::statements).sum();
        conn.set_prepared_statement_cache_capacity(statements + 16);
        Ok(Self { conn, name, tables })
    }

    fn land(&mut self, topic: &str, items: &[Item]) -> Result<Vec<Landed>, Failure> {
        let Self { conn, name, tables } = self;
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut ledger = Ledger::new(&tx, name, topic);
        let mut landed = Vec::with_capacity(items.len());
        for item in items {
            landed.push(match ledger.admit(item)? {
                Admission::Land => Landed::Applied,
                Admission::Repeat => Landed::Repeat,
                Admission::Fenced => Landed::Fenced,
                Admission::Anew => return Err(anew(name, topic, item).into()),
            });
        }
        let mut fresh: Vec<Fresh<'_>> = Vec::with_capacity(items.len());
        for (item, landed) in items.iter().zip(&mut landed).filter(|(_, landed)| **landed == Landed::Applied)
        {
            match check_rows(tables.iter().map(Upsert::target), &item.rows) {
                Ok(()) => fresh.push((item, landed)),
                Err(reason) => *landed = Landed::Dead(reason),
            }
        }
        apply(&tx, tables, &mut fresh)?;
        for (item, landed) in items.iter().zip(&mut landed) {
            match landed {
                Landed::Dead(reason) => ledger.bury(item, reason)?,
                // After its first occurrence, which may be in this very batch.
                Landed::Repeat => {
                    if let Some(reason) = ledger.buried(item)? {
                        *landed = Landed::Dead(reason);
                    }
                }
                Landed::Applied | Landed::Fenced => {}
            }
        }
        ledger.store()?;
        tx.commit().map_err(at_commit)?;
        Ok(landed)
    }
}

/// Writes the rows of every item, or, if the tables refuse them, of each half by itself, down to the items at fault.
fn apply(tx: &Connection, tables: &[Upsert], fresh: &mut [Fresh<'_>]) -> Result<(), Failure> {
    if fresh.is_empty() {
        return Ok(());
    }
    let Some(reason) = attempt(tx, tables, fresh)? else { return Ok(()) };
    if let [(_, landed)] = fresh {
        **landed = Landed::Dead(reason);
        return Ok(());
    }
    let (first, second) = fresh.split_at_mut(fresh.len() / 2);
    apply(tx, tables, first)?;
    apply(tx, tables, second)
}

/// Writes the rows of every item or of none; the reason if the tables refuse them for good.
fn attempt(tx: &Connection, tables: &[Upsert], fresh: &[Fresh<'_>]) -> Result<Option<String>, Failure> {
    let run = |sql| tx.prepare_cached(sql)?.execute([]);
    run("SAVEPOINT lp_sink_try")?;
    let items = || fresh.iter().map(|(item, _)| *item);
    let refused = match tables.iter().try_for_each(|table| table.write(tx, items())) {
        Ok(()) => None,
        Err(upsert::Trouble::Refused(reason)) => Some(reason),
        Err(upsert::Trouble::Driver(error)) if is_refusal(&error) => Some(error.to_string()),
        Err(upsert::Trouble::Driver(error)) => return Err(error.into()),
    };
    if refused.is_some() {
        if tx.is_autocommit() {
            return Err(rolled_back());
        }
        run("ROLLBACK TO lp_sink_try")?;
    }
    run("RELEASE lp_sink_try")?;
    Ok(refused)
}

/// Whether the tables refuse a row for what it is, and would again.
fn is_refusal(error: &rusqlite::Error) -> bool {
    use ErrorCode::{ConstraintViolation, TooBig, TypeMismatch};
    matches!(error.sqlite_error_code(), Some(ConstraintViolation | TooBig | TypeMismatch))
}

fn rolled_back() -> Failure {
    let error = Error::new(Kind::Config, "a refused row ended the whole transaction");
    error.help("let the table's constraints and triggers say ABORT or FAIL instead of ROLLBACK").into()
}

fn at_commit(error: rusqlite::Error) -> Failure {
    if !is_refusal(&error) {
        return error.into();
    }
    let refused = Error::new(Kind::Config, "a deferred constraint refused the batch when it was committed");
    refused.help("declare the table's foreign keys without DEFERRED").source(error).into()
}

#[cfg(test)]
mod tests;
