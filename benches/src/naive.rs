//! The same work as tutorials do it: a transaction for every message.

use std::time::{Duration, Instant};

use rusqlite::{OptionalExtension, TransactionBehavior};

use crate::harness::{Claim, Job, Result, Side};
use crate::{sqlite_consume, sqlite_publish};

const MESSAGES: usize = 5_000;

pub(crate) const PUBLISH: Claim = Claim {
    name: "naive_publish",
    what: "What batching is worth: messages stored in a SQLite file",
    goal: 10.0,
    theirs: Side {
        what: "rusqlite, one insert to a transaction, WAL, `synchronous=FULL`",
        messages: MESSAGES,
        settings: &[0],
        run: |job| Box::pin(async move { insert_each(&job) }),
    },
    memory: false,
    ..sqlite_publish::CLAIM
};

pub(crate) const CONSUME: Claim = Claim {
    name: "naive_consume",
    what: "What batching is worth: messages read from a SQLite file, handled and done with",
    goal: 10.0,
    theirs: Side {
        what: "rusqlite, a transaction of `SELECT … LIMIT 1` and `DELETE` for each message, WAL, `synchronous=FULL`",
        messages: MESSAGES,
        settings: &[0],
        run: |job| Box::pin(async move { poll_each(&job) }),
    },
    memory: false,
    ..sqlite_consume::CLAIM
};

fn insert_each(job: &Job) -> Result<Duration> {
    let mut conn = sqlite_publish::table(&job.folder)?;
    let start = Instant::now();
    sqlite_publish::insert(&mut conn, job.messages, 1)?;
    Ok(start.elapsed())
}

fn poll_each(job: &Job) -> Result<Duration> {
    let mut conn = sqlite_publish::table(&job.folder)?;
    sqlite_publish::insert(&mut conn, job.messages, 1_000)?;
    let start = Instant::now();
    loop {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let next = "SELECT seq, payload FROM message ORDER BY seq LIMIT 1";
        let row: Option<(i64, Vec<u8>)> =
            tx.prepare_cached(next)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let Some((seq, _payload)) = row else { break };
        tx.prepare_cached("DELETE FROM message WHERE seq = ?")?.execute([seq])?;
        tx.commit()?;
    }
    Ok(start.elapsed())
}
