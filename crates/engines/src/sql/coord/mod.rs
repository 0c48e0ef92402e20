//! Coordination in the database.

mod read;
mod round;
mod save;
pub(super) mod schema;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use linchpin_core::coord::{Caps, CoordEngine};
use linchpin_core::{Info, Result};
use tokio::sync::oneshot;

use super::bus::DURABILITY;
use super::core::{Core, Purpose};
use super::dialect::Dialect;
use super::lane::{Work, gone};
use super::tx::{self, Tx};
use super::url::Config;
use crate::relational::coord::{Answer, Ask, Look, MAX_VALUE, Needs, Range, RowCoord, Rows, Seen, Stored};
use crate::relational::hub::Hub;

/// What a value needs beside it in a packet, twice over.
const BESIDE: usize = 8 << 10;

/// Opens coordination in the database.
pub(super) async fn open(config: Config) -> Result<Arc<dyn CoordEngine>> {
    let (dialect, prefix) = (config.dialect, config.prefix.clone());
    let info = Info { engine: dialect.name(), url: config.url.clone(), durability: DURABILITY };
    let core = Core::open(config, Purpose::Coord).await?;
    let caps = Caps {
        durable: true,
        shared: true,
        failover: true,
        min_ttl: Duration::from_secs(1),
        slack: Duration::from_secs(1),
        max_value: largest(&core).await?,
    };
    Ok(Arc::new(RowCoord::new(info, caps, &prefix, core)))
}

/// The largest value that fits into a packet of the server.
async fn largest(core: &Core) -> Result<usize> {
    if core.config.dialect == Dialect::Postgres {
        return Ok(MAX_VALUE);
    }
    let sql = "SELECT CAST(@@max_allowed_packet AS SIGNED)";
    let packet = core
        .read("open", sql, |tx, sql| Box::pin(async move { Ok(tx.one(sql, &[]).await?.count::<usize>(0)?) }));
    Ok(packet.await?.saturating_sub(BESIDE).min(MAX_VALUE))
}

/// Changes keys.
#[derive(Debug)]
pub(super) struct Writing;

/// Grants and renews leases: on a connection of its own, so that it never waits for those who change keys.
#[derive(Debug)]
pub(super) struct Leasing;

macro_rules! work {
    ($lane:ty) => {
        impl Work for $lane {
            type Ask = Ask;
            type Answer = Answer;
            /// The caller names it.
            const OP: &'static str = "";

            fn weight(ask: &Ask) -> usize {
                ask.weight()
            }

            fn run<'t>(tx: &'t mut Tx, asks: &'t [Ask]) -> tx::Work<'t, Vec<Answer>> {
                Box::pin(round::run(tx, asks))
            }
        }
    };
}

work!(Writing);
work!(Leasing);

#[async_trait]
impl Rows for Core {
    fn engine(&self) -> &'static str {
        self.config.dialect.name()
    }

    fn hub(&self) -> &Hub {
        &self.tell.hub
    }

    fn poll(&self) -> Option<Duration> {
        Some(self.config.poll)
    }

    fn wait(&self) -> bool {
        self.tell.hub.wait()
    }

    async fn ask(&self, ask: Ask) -> Result<Answer> {
        self.check_open()?;
        let (answer, answered) = oneshot::channel();
        let tell = self.tell.clone();
        let done = move |result: Result<Answer>| {
            if let Ok(answer) = &result {
                tell.hub.feed.tell(&answer.changed);
            }
            let _gone = answer.send(result);
        };
        match Needs::of(std::slice::from_ref(&ask)).writes {
            true => self.writing.ask(ask, self.deadline(), Box::new(done)),
            false => self.leasing.ask(ask, self.deadline(), Box::new(done)),
        }
        gone(answered.await, self.gone())
    }

    async fn list(&self, range: Range, limit: usize) -> Result<(u64, Vec<Stored>)> {
        self.read("", (range, limit), |tx, (range, limit)| Box::pin(read::list(tx, range, *limit))).await
    }

    async fn changes(&self, range: Range, since: u64) -> Result<Seen> {
        self.read("", (range, since), |tx, (range, since)| Box::pin(read::changes(tx, range, *since))).await
    }

    async fn look(&self, since: u64) -> Result<Look> {
        self.read("", since, |tx, since| Box::pin(read::look(tx, *since))).await
    }
}
