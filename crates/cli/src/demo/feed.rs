//! The feeder: the file as messages, at a pace.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use linchpin::bus::PublisherOptions;
use linchpin::{Bus, Result};
use tokio::time::{Instant, sleep_until};

use super::data::{Entries, Source};
use super::wire;

/// Bursts a second. Within one, messages go as fast as they can: the workers have a backlog when they are killed.
const BURSTS: u32 = 4;

/// Publishes every entry of `source`, at most `rate` per second (0 for as fast as it goes), counting them in `fed`.
///
/// # Errors
/// What reading the file or publishing says.
pub(super) async fn feed(
    bus: Bus,
    topic: String,
    source: Source,
    rate: u32,
    fed: Arc<AtomicU64>,
) -> Result<()> {
    let publisher = bus.publisher(&topic, PublisherOptions::default());
    let mut entries = Entries::new(source.rows()?);
    let started = Instant::now();
    let mut sent = 0_u64;
    while let Some(entry) = entries.next()? {
        publisher.send(wire::message(&entry)?).await?;
        sent += 1;
        fed.store(sent, Ordering::Relaxed);
        if rate > 0 && sent.is_multiple_of(u64::from(rate.div_ceil(BURSTS))) {
            sleep_until(started + Duration::from_secs_f64(sent as f64 / f64::from(rate))).await;
        }
    }
    publisher.close().await
}
