//! Linchpin's side of the claims about servers: a server of its own for each run, and Linchpin on it.

use std::time::Duration;

use linchpin::Bus;
use linchpin_harness::{Running, find};
use tokio::task::spawn_blocking;

use crate::harness::{Job, Result};
use crate::work::{self, Handler};

/// Members that consume at once where the claim says so.
const MEMBERS: usize = 8;

/// Starts this engine; it ends with the value.
pub(crate) async fn start(engine: &'static str) -> Result<Running> {
    let engine = find(engine).ok_or_else(|| format!("no engine {engine}"))?;
    Ok(spawn_blocking(|| engine.start()).await?.map_err(|e| e.to_string())?)
}

/// Everything published and answered.
pub(crate) async fn publish(job: Job, engine: &'static str, size: usize) -> Result<Duration> {
    let server = start(engine).await?;
    let bus = work::open(server.url()).await?;
    let took = work::publish(&bus, job.messages, size).await?;
    bus.close().await?;
    Ok(took)
}

/// Everything handled, each message acknowledged, and the acknowledgements answered.
pub(crate) async fn consume(job: Job, engine: &'static str, size: usize) -> Result<Duration> {
    let server = start(engine).await?;
    let bus = work::open(server.url()).await?;
    work::publish(&bus, job.messages, size).await?;
    let took = work::consume(&bus, job.messages, size, Handler::Ready).await?;
    bus.close().await?;
    Ok(took)
}

/// The same by several members of the group.
pub(crate) async fn consume_by_many(job: Job, engine: &'static str, size: usize) -> Result<Duration> {
    let server = start(engine).await?;
    let bus = work::open(server.url()).await?;
    work::publish(&bus, job.messages, size).await?;
    let buses: Vec<Bus> = (0..MEMBERS).map(|_| bus.clone()).collect();
    let took = work::consume_together(&buses, job.messages, size).await?;
    bus.close().await?;
    Ok(took)
}
