//! A log file, rotated while it grows, goes line by line into a topic and from there into a SQL table: each line once.
//!
//! ```console
//! $ cargo run -p linchpin-examples --bin log_collection [URL [FOLDER]]
//! ```
//!
//! The program writes the log itself, `app.log` in FOLDER, and the table is in `lines.db` beside it. Kill it and run it again
//! with the same URL and FOLDER: it reads the files from the start, and the table still has each line once, because a line's
//! id is its place in the file, and the table's key is the id.

mod tail;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use linchpin::bus::{Delivery, Message, PublisherOptions};
use linchpin::engines::sqlite::SqliteSink;
use linchpin::pipe::{Pipe, Row, Table, Write as Landing};
use linchpin::{Bus, Error, Kind, Result, Timestamp, TopicOptions};
use linchpin_examples::Place;
use rusqlite::Connection;
use tokio::task::block_in_place;
use tokio::time::{Instant, interval};

use self::tail::{Tail, files};

const LINES: usize = 2000;
/// Lines after which the log is rotated.
const ROTATE: usize = 300;
const TABLE: Table = Table { name: "lines", columns: &["id", "text"], key: 1, write: Landing::Ignore };

#[tokio::main]
async fn main() -> Result<()> {
    let Place { bus, folder: temporary, .. } = Place::open().await?;
    let folder = std::env::args().nth(2).map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    let (log, tables) = (folder.join("app.log"), folder.join("lines.db"));
    let table = Connection::open(&tables).map_err(failed)?;
    let create = "CREATE TABLE IF NOT EXISTS lines (id TEXT PRIMARY KEY, text TEXT NOT NULL) STRICT";
    table.execute_batch(create).map_err(failed)?;

    bus.ensure("app-log", &TopicOptions::default()).await?;
    let sink = SqliteSink::open(&tables.to_string_lossy(), "lines", &[TABLE]).await?;
    let pipe =
        Pipe::new(&bus, "app-log", "tables").ack_wait(Duration::from_secs(3)).map(|line: &Delivery| {
            let text = std::str::from_utf8(&line.message.payload).map_err(|e| e.to_string())?;
            Ok(vec![Row::new("lines", [line.message.id.to_string().into(), text.into()])])
        });
    let piping = pipe.run(sink).await?;

    ship(&bus, &log).await?;
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut clock = interval(Duration::from_millis(50));
    while audit(&log, &table)?.missing > 0 {
        clock.tick().await;
        if Instant::now() > deadline {
            return Err(
                Error::new(Kind::Timeout, "lines are missing in the table").with("log", log.display())
            );
        }
    }
    let totals = piping.stop().await?;
    let Audit { lines, files, repeated, .. } = audit(&log, &table)?;
    println!("{lines} lines in {files} files, 0 missing in the table, {repeated} there twice");
    println!("{} messages landed by this run", totals.applied);
    bus.close().await
}

/// Sends each line of the log while it is written.
async fn ship(bus: &Bus, log: &Path) -> Result<()> {
    let publisher = bus.publisher("app-log", PublisherOptions::default());
    let mut tail = Tail::new(log);
    let path = log.to_owned();
    let writer = tokio::task::spawn_blocking(move || write_log(&path));
    let mut clock = interval(Duration::from_millis(20));
    loop {
        // Asked before the log is read: what it wrote last is then read too.
        let written = writer.is_finished();
        for line in block_in_place(|| tail.read()).map_err(failed)? {
            publisher.send(Message::new(line.text).id(line.id.as_str())).await?;
        }
        if written {
            break;
        }
        clock.tick().await;
    }
    publisher.close().await?;
    writer.await.map_err(failed)?.map_err(failed)
}

/// Somebody else's program: it writes lines, and rotates its log.
fn write_log(path: &Path) -> io::Result<()> {
    let process = std::process::id();
    for n in 0..LINES {
        if n % ROTATE == 0 {
            for (age, file) in files(path).iter().enumerate().rev().filter(|(_, file)| file.exists()) {
                fs::rename(file, format!("{}.{}", path.display(), age + 1))?;
            }
        }
        let mut file = File::options().create(true).append(true).open(path)?;
        writeln!(file, "{} process {process}, line {n}", Timestamp::now())?;
        if n % 10 == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

struct Audit {
    lines: usize,
    files: usize,
    missing: usize,
    repeated: usize,
}

/// Counts each line of the log in the table.
fn audit(log: &Path, table: &Connection) -> Result<Audit> {
    let mut query = table.prepare("SELECT text, count(*) FROM lines GROUP BY text").map_err(failed)?;
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(failed)?;
    let counts: HashMap<String, usize> = rows.collect::<Result<_, _>>().map_err(failed)?;
    let files = files(log);
    let texts = files.iter().map(fs::read_to_string).collect::<io::Result<Vec<_>>>().map_err(failed)?;
    let lines: Vec<&str> = texts.iter().flat_map(|text| text.lines()).collect();
    let count = |line: &&str| counts.get(*line).copied().unwrap_or(0);
    let missing = lines.iter().filter(|line| count(line) == 0).count();
    let repeated = lines.iter().filter(|line| count(line) > 1).count();
    Ok(Audit { lines: lines.len(), files: files.len(), missing, repeated })
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Kind::Unexpected, "can't go on").source(error)
}
