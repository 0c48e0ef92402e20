//! Publishing to the embedded file, beside rows written by hand.

use std::path::Path;
use std::time::{Duration, Instant};

use linchpin::bus::MessageId;
use rusqlite::{Connection, params};

use crate::harness::{Claim, Job, Result, Side};
use crate::work;

const MESSAGES: usize = 1_000_000;

pub(crate) const CLAIM: Claim = Claim {
    name: "sqlite_publish",
    what: "100-byte messages stored in a SQLite file, each answered once the disk has it",
    unit: "messages/s",
    goal: 0.6,
    floor: 0.0,
    cost: false,
    ours: Side {
        what: "`Publisher` on `sqlite:`, every answer awaited; 4 partitions, ids, keys, times, default options",
        messages: MESSAGES,
        settings: &[0],
        run: |job| Box::pin(ours(job)),
    },
    theirs: Side {
        what: "rusqlite by hand: a prepared insert of id, key, payload and time into a plain table, 1,000 or 10,000 \
               rows to a transaction, WAL, `synchronous=FULL`; no topics, groups or answers",
        messages: MESSAGES,
        settings: &[1_000, 10_000],
        run: |job| Box::pin(async move { raw(&job) }),
    },
    needs: None,
    memory: true,
};

async fn ours(job: Job) -> Result<Duration> {
    let bus = work::bus(&job.folder).await?;
    let took = work::publish(&bus, job.messages, 100).await?;
    bus.close().await?;
    Ok(took)
}

/// A file as durable as Linchpin's, with a plain table of messages.
pub(crate) fn table(folder: &Path) -> Result<Connection> {
    let conn = Connection::open(folder.join("raw.db"))?;
    conn.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=4000; PRAGMA cache_size=-16384;
         CREATE TABLE message (
             seq INTEGER PRIMARY KEY, id BLOB NOT NULL, key BLOB, payload BLOB NOT NULL, time INTEGER NOT NULL)",
    )?;
    Ok(conn)
}

/// Writes messages, `batch` to a transaction.
pub(crate) fn insert(conn: &mut Connection, messages: usize, batch: usize) -> Result {
    for first in (0..messages).step_by(batch.max(1)) {
        let tx = conn.transaction()?;
        let mut insert =
            tx.prepare_cached("INSERT INTO message (id, key, payload, time) VALUES (?, ?, ?, ?)")?;
        for n in first..messages.min(first + batch) {
            let (id, key, payload) = (MessageId::new(), work::key(n), work::payload(n));
            let time = jiff::Timestamp::now().as_millisecond();
            insert.execute(params![id.as_bytes(), key.as_bytes(), payload, time])?;
        }
        drop(insert);
        tx.commit()?;
    }
    Ok(())
}

fn raw(job: &Job) -> Result<Duration> {
    let mut conn = table(&job.folder)?;
    let start = Instant::now();
    insert(&mut conn, job.messages, job.setting)?;
    Ok(start.elapsed())
}
