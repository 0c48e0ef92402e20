//! Consuming from the embedded file, beside a queue table read by hand.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::harness::{Claim, Job, Result, Side};
use crate::work::Handler;
use crate::{sqlite_publish, work};

const MESSAGES: usize = 1_000_000;

pub(crate) const CLAIM: Claim = Claim {
    name: "sqlite_consume",
    what: "100-byte messages read from a SQLite file, handled, and acknowledged one by one, until the disk has every \
           acknowledgement",
    unit: "messages/s",
    goal: 1.0,
    floor: 0.0,
    cost: false,
    ours: Side {
        what: "`Consumer` on `sqlite:`, default options, with an async handler that doesn't await; the messages stay for other groups",
        messages: MESSAGES,
        settings: &[0],
        run: |job| Box::pin(ours(job, Handler::Ready)),
    },
    theirs: Side {
        what: "rusqlite by hand: one loop that selects 1,000 or 10,000 rows and deletes each handled row by its primary \
               key, one transaction to a batch, WAL, `synchronous=FULL`; a single reader without leases",
        messages: MESSAGES,
        settings: &[1_000, 10_000],
        run: |job| Box::pin(async move { raw(&job) }),
    },
    needs: None,
    memory: true,
};

/// A handler that awaits takes the other way through the consumer: slots, and small fetches.
pub(crate) const AWAITING: Claim = Claim {
    name: "sqlite_consume_awaiting",
    what: "The same with a handler that awaits",
    goal: 0.4,
    ours: Side {
        what: "`Consumer` as above, its handler yielding to the scheduler once; default concurrency, 16",
        run: |job| Box::pin(ours(job, Handler::Yields)),
        ..CLAIM.ours
    },
    memory: false,
    ..CLAIM
};

async fn ours(job: Job, handler: Handler) -> Result<Duration> {
    let bus = work::bus(&job.folder).await?;
    work::publish(&bus, job.messages, 100).await?;
    let took = work::consume(&bus, job.messages, 100, handler).await?;
    bus.close().await?;
    Ok(took)
}

fn raw(job: &Job) -> Result<Duration> {
    let mut conn = sqlite_publish::table(&job.folder)?;
    sqlite_publish::insert(&mut conn, job.messages, 10_000)?;
    let start = Instant::now();
    let mut handled = 0;
    while handled < job.messages {
        handled += round(&mut conn, job.setting)?;
    }
    Ok(start.elapsed())
}

fn round(conn: &mut Connection, batch: usize) -> Result<usize> {
    let tx = conn.transaction()?;
    let mut select =
        tx.prepare_cached("SELECT seq, id, key, payload, time FROM message ORDER BY seq LIMIT ?")?;
    let rows = select.query_map([batch], |row| {
        let (seq, payload): (i64, Vec<u8>) = (row.get(0)?, row.get(3)?);
        let (id, key, time): (Vec<u8>, Vec<u8>, i64) = (row.get(1)?, row.get(2)?, row.get(4)?);
        Ok((seq, id, key, payload, time))
    })?;
    let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut delete = tx.prepare_cached("DELETE FROM message WHERE seq = ?")?;
    for (seq, _id, _key, payload, _time) in &rows {
        if payload.len() == 100 {
            delete.execute([seq])?;
        }
    }
    drop((select, delete));
    tx.commit()?;
    Ok(rows.len())
}
