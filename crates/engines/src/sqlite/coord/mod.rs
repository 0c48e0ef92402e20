//! Coordination in the file.

mod read;
mod round;
mod schema;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use linchpin_core::coord::{Caps, CoordEngine};
use linchpin_core::{Info, Result};
use tokio::sync::oneshot;

use super::NAME;
use super::bus::durability;
use super::core::{Core, closed};
use super::url::Config;
use crate::relational::coord::{Answer, Ask, Look, MAX_VALUE, Needs, Range, RowCoord, Rows, Seen, Stored};
use crate::relational::hub::Hub;

pub(super) use schema::{latest_time, prepare, version};

/// Opens coordination in the file.
pub(super) async fn open(config: Config) -> Result<Arc<dyn CoordEngine>> {
    let info = Info { engine: NAME, url: config.url.clone(), durability: durability(&config) };
    let file = !config.in_memory();
    let caps = Caps {
        durable: file,
        shared: file,
        failover: true,
        min_ttl: Duration::from_secs(1),
        slack: Duration::from_secs(1),
        max_value: MAX_VALUE,
    };
    let opening = tokio::task::spawn_blocking(move || Core::open_coord(config));
    let core = opening.await.map_err(|_| closed().op("open"))??;
    Ok(Arc::new(RowCoord::new(info, caps, "", core)))
}

#[async_trait]
impl Rows for Core {
    fn engine(&self) -> &'static str {
        NAME
    }

    fn hub(&self) -> &Hub {
        &self.hub
    }

    /// The reader thread looks for commits.
    fn poll(&self) -> Option<Duration> {
        None
    }

    fn wait(&self) -> bool {
        let first = self.hub.wait();
        if first {
            Core::poll(self);
        }
        first
    }

    async fn ask(&self, ask: Ask) -> Result<Answer> {
        let (answer, answered) = oneshot::channel();
        let (hub, clock) = (self.hub.clone(), self.clock.clone());
        // Who holds a lease dies with the host that loses its power, so that leases needn't wait for the disk.
        let durable = Needs::of(std::slice::from_ref(&ask)).writes;
        let weight = ask.weight();
        let done = move |result: Result<Answer>| {
            if let Ok(answer) = &result {
                hub.feed.tell(&answer.changed);
            }
            let _gone = answer.send(result);
        };
        self.submit("", durable, weight, move |tx| round::run(tx, &clock, &ask), done);
        answered.await.unwrap_or_else(|_| Err(closed()))
    }

    async fn list(&self, range: Range, limit: usize) -> Result<(u64, Vec<Stored>)> {
        let now = self.clock.now();
        self.read("", move |conn| read::list(conn, now, &range, limit)).await
    }

    async fn changes(&self, range: Range, since: u64) -> Result<Seen> {
        let now = self.clock.now();
        self.read("", move |conn| read::changes(conn, now, &range, since)).await
    }

    async fn look(&self, since: u64) -> Result<Look> {
        let now = self.clock.now();
        self.read("", move |conn| read::look(conn, now, since)).await
    }
}
