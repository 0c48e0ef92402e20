//! Opening connections, all with the same settings.

use std::path::Path;
use std::time::{Duration, Instant};

use linchpin_core::{Error, Kind, Result};
use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags};

use super::NAME;
use super::error::map;
use super::url::{Config, Sync};

/// Pages of the log after which a commit copies them into the file: rarely enough that hot pages are copied once per
/// many commits, often enough that the log stays in the page cache.
const CHECKPOINT_PAGES: u32 = 4000;
/// What is left of the log's file when it is started anew, in bytes.
const LOG_BYTES: u32 = 64 << 20;
/// Page cache of a connection, in KiB.
const CACHE_KIB: u32 = 16 << 10;
/// The pause until a file is looked at again that somebody else is opening.
const AGAIN: Duration = Duration::from_millis(2);

/// A connection that may write, in WAL mode.
pub(crate) fn writer(config: &Config) -> Result<Connection> {
    if !config.in_memory() {
        check_path(config)?;
    }
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, config.create);
    let conn = connect(config, flags)?;
    set_up(&conn, config).map_err(|e| name(map(e, "open"), config))?;
    check_mode(&conn, config)?;
    Ok(conn)
}

/// A connection that only reads, beside a writer.
pub(crate) fn reader(config: &Config) -> Result<Connection> {
    let conn = connect(config, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    let settings = format!("PRAGMA query_only=1; PRAGMA cache_size=-{CACHE_KIB};");
    conn.execute_batch(&settings).map_err(|e| name(map(e, "open"), config))?;
    Ok(conn)
}

/// Sets how a commit waits for the disk. Only between transactions.
pub(crate) fn set_sync(conn: &Connection, sync: Sync) -> rusqlite::Result<()> {
    conn.execute_batch(match sync {
        Sync::Full => "PRAGMA synchronous=FULL",
        Sync::Normal => "PRAGMA synchronous=NORMAL",
        Sync::Off => "PRAGMA synchronous=OFF",
    })
}

fn connect(config: &Config, flags: OpenFlags) -> Result<Connection> {
    let conn = Connection::open_with_flags(&config.path, flags);
    let conn = conn.map_err(|e| name(map(e, "open"), config))?;
    conn.busy_timeout(config.busy).map_err(|e| map(e, "open"))?;
    conn.set_prepared_statement_cache_capacity(128);
    Ok(conn)
}

fn set_up(conn: &Connection, config: &Config) -> rusqlite::Result<()> {
    if !config.in_memory() {
        begin_log(conn, config)?;
    }
    set_sync(conn, config.sync)?;
    conn.execute_batch(&format!("PRAGMA cache_size=-{CACHE_KIB}"))?;
    conn.query_row(&format!("PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}"), [], |_| Ok(()))?;
    conn.query_row(&format!("PRAGMA journal_size_limit={LOG_BYTES}"), [], |_| Ok(()))?;
    if let Some(max) = config.max_size {
        let page: u64 = conn.query_row("PRAGMA page_size", [], |row| row.get(0))?;
        conn.query_row(&format!("PRAGMA max_page_count={}", max / page.max(1)), [], |_| Ok(()))?;
    }
    Ok(())
}

/// Makes the file one with a log. SQLite waits for nobody here: of those who do it at the same time all but one are told
/// that it is locked, however long they may wait.
fn begin_log(conn: &Connection, config: &Config) -> rusqlite::Result<()> {
    let began = Instant::now();
    loop {
        let done = conn.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()));
        let busy =
            done.as_ref().is_err_and(|error| error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy));
        if !busy || began.elapsed() >= config.busy {
            return done;
        }
        std::thread::sleep(AGAIN);
    }
}

fn check_path(config: &Config) -> Result<()> {
    let wrong = |kind, message: &str, help: String| Err(name(Error::new(kind, message).help(help), config));
    let folder = config.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        let help = format!("create it: mkdir -p {}", folder.display());
        return wrong(Kind::Config, "the folder of the database doesn't exist", help);
    }
    if config.path.is_dir() {
        return wrong(Kind::Config, "the path is a folder", "name a file in it".into());
    }
    if !config.create && !config.path.exists() {
        return wrong(Kind::NotFound, "the file doesn't exist", "leave create=false out to create it".into());
    }
    Ok(())
}

fn check_mode(conn: &Connection, config: &Config) -> Result<()> {
    if conn.is_readonly(MAIN_DB).map_err(|e| map(e, "open"))? {
        let error = Error::new(Kind::Config, "the file can't be written");
        return Err(name(error.help("let the user write the file and its folder"), config));
    }
    let mode: String =
        conn.query_row("PRAGMA journal_mode", [], |row| row.get(0)).map_err(|e| map(e, "open"))?;
    if mode != "wal" && !config.in_memory() {
        let error = Error::new(Kind::Config, format!("the file stays in journal mode {mode}, WAL is needed"));
        return Err(name(
            error.help("keep it on a local disk; network file systems can't share a log"),
            config,
        ));
    }
    Ok(())
}

fn name(error: Error, config: &Config) -> Error {
    error.engine(NAME).op("open").with("file", config.path.display())
}
