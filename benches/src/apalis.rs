//! Beside apalis, jobs on SQLite.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use apalis::prelude::{BoxDynError, Data, TaskSink, WorkerBuilder};
use apalis_sqlite::{Config, SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteStorage};
use rusqlite::Connection;

use crate::harness::{Claim, Job, Result, Side};
use crate::{sqlite_consume, sqlite_publish, work};

const JOBS: usize = 10_000;
/// When a worker that doesn't finish is given up.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) const ENQUEUE: Claim = Claim {
    name: "apalis_enqueue",
    what: "10,000 jobs stored in a SQLite file",
    unit: "jobs/s",
    goal: 1.0,
    ours: Side { messages: JOBS, ..sqlite_publish::CLAIM.ours },
    theirs: Side {
        what: "apalis-sqlite, `push_bulk` of 1,000 jobs at a time, set up by its own `setup` (WAL, `synchronous=OFF`)",
        messages: JOBS,
        settings: &[0],
        run: |job| Box::pin(enqueue(job)),
    },
    memory: false,
    ..sqlite_publish::CLAIM
};

pub(crate) const RUN: Claim = Claim {
    name: "apalis_run",
    what: "10,000 stored jobs run and acknowledged",
    unit: "jobs/s",
    goal: 1.0,
    ours: Side { messages: JOBS, ..sqlite_consume::CLAIM.ours },
    theirs: Side {
        what: "an apalis worker, batches of 10 (its default) or 100, until every job is stored as done; set up as above",
        messages: JOBS,
        settings: &[10, 100],
        run: |job| Box::pin(run(job)),
    },
    memory: false,
    ..sqlite_consume::CLAIM
};

type Jobs = SqliteStorage<Vec<u8>>;

async fn storage(job: &Job) -> Result<(SqlitePool, Jobs)> {
    let options = SqliteConnectOptions::new().filename(job.folder.join("apalis.db")).create_if_missing(true);
    // One connection, because `setup` sets its pragmas on one: more would wait for the disk, and for each other.
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
    SqliteStorage::setup(&pool).await?;
    let config = Config::default().queue("bench").batch_size(job.setting.max(10));
    Ok((pool.clone(), SqliteStorage::new(&pool).with_config(config)))
}

async fn push(jobs: &mut Jobs, count: usize) -> Result {
    for first in (0..count).step_by(1_000) {
        let bulk = (first..count.min(first + 1_000)).map(|n| work::payload(n).to_vec());
        jobs.push_bulk(bulk.collect()).await.map_err(|e| e.to_string())?;
    }
    Ok(())
}

async fn enqueue(job: Job) -> Result<Duration> {
    let (_pool, mut jobs) = storage(&job).await?;
    let start = Instant::now();
    push(&mut jobs, job.messages).await?;
    Ok(start.elapsed())
}

async fn handle(payload: Vec<u8>, left: Data<Arc<AtomicUsize>>) -> std::result::Result<(), BoxDynError> {
    if payload.len() == 100 {
        left.fetch_sub(1, Ordering::Relaxed);
    }
    Ok(())
}

async fn run(job: Job) -> Result<Duration> {
    let (_pool, mut jobs) = storage(&job).await?;
    push(&mut jobs, job.messages).await?;
    let left = Arc::new(AtomicUsize::new(job.messages));
    let start = Instant::now();
    let worker = WorkerBuilder::new("bench").backend(jobs).data(left.clone()).build(handle);
    let working = tokio::spawn(async move { worker.run().await.map_err(|e| e.to_string()) });
    let file = Connection::open(job.folder.join("apalis.db"))?;
    file.busy_timeout(Duration::from_secs(5))?;
    // Only looked at once every job ran, so that looking costs the worker nothing.
    while left.load(Ordering::Relaxed) > 0 || done(&file)? < job.messages {
        if start.elapsed() > PATIENCE {
            return Err(format!("{} of {} jobs are done", done(&file)?, job.messages).into());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let took = start.elapsed();
    working.abort();
    Ok(took)
}

fn done(file: &Connection) -> Result<usize> {
    let count = "SELECT count(*) FROM Jobs WHERE status = 'Done'";
    Ok(usize::try_from(file.query_row(count, [], |row| row.get::<_, i64>(0))?)?)
}
