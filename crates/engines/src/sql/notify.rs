//! PostgreSQL's notifications, as a hint: who misses one finds out by asking.
//!
//! A notification takes a lock that all commits of the database share, so what is told is gathered first, and never part
//! of the transaction that it is about.

use std::sync::Weak;
use std::time::Duration;

use linchpin_core::bus::murmur2;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::time::sleep;

use super::core::Core;
use super::tx::{Step, Tx};
use super::{postgres, url::Config};
use crate::relational::coord::TOLD;

/// What happens within this time is told at once.
const GATHER: Duration = Duration::from_millis(5);
/// How long to wait before listening anew.
const AGAIN: Duration = Duration::from_secs(1);
/// The most topics of one notification, which holds 8,000 bytes.
const TOPICS: usize = 300;

/// One channel for the tables of a schema.
fn channel(config: &Config) -> String {
    format!("linchpin_{:08x}", murmur2(config.schema.as_bytes()))
}

/// Names the handle, so that it needn't listen to itself.
fn own_name(core: &Core) -> String {
    format!("{:x}.{:x}", std::process::id(), std::ptr::from_ref(core) as usize)
}

/// Tells other processes what was committed here.
pub(super) async fn tell(core: Weak<Core>) {
    loop {
        let Some(strong) = core.upgrade() else { return };
        let tell = strong.tell.clone();
        drop(strong);
        tell.more.notified().await;
        let Some(strong) = core.upgrade() else { return };
        let topics: Vec<String> = tell.take().iter().map(i64::to_string).collect();
        for topics in topics.chunks(TOPICS) {
            let text = format!("{} {}", own_name(&strong), topics.join(","));
            let context = (channel(&strong.config), text);
            let sending =
                strong.read("notify", context, |tx, (channel, text)| Box::pin(send(tx, channel, text)));
            if let Err(error) = sending.await {
                tracing::debug!(%error, "a notification wasn't sent");
            }
        }
        drop(strong);
        sleep(GATHER).await;
    }
}

async fn send(tx: &mut Tx, channel: &str, text: &str) -> Step<()> {
    tx.all("SELECT pg_notify(?, ?)", &[channel.into(), text.into()]).await.map(drop)
}

/// Listens to what other processes tell, once there are subscriptions.
pub(super) async fn listen(core: Weak<Core>) {
    loop {
        let Some(strong) = core.upgrade() else { return };
        let tell = strong.tell.clone();
        if !tell.hub.anybody() {
            drop(strong);
            sleep(AGAIN / 10).await;
            continue;
        }
        let (options, channel, own) =
            (postgres::options(&strong.config), channel(&strong.config), own_name(&strong));
        drop(strong);
        let pool =
            PgPoolOptions::new().max_connections(1).acquire_timeout(AGAIN * 5).connect_lazy_with(options);
        let heard = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.listen(&channel).await?;
            // What was told before isn't heard.
            tell.hub.wake_all();
            while let Some(heard) = listener.try_recv().await? {
                let Some((from, topics)) = heard.payload().split_once(' ') else { continue };
                if from != own {
                    let topics: Vec<i64> = topics.split(',').filter_map(|id| id.parse().ok()).collect();
                    tell.hub.wake(&topics);
                    if topics.contains(&TOLD) {
                        tell.hub.feed.poke();
                    }
                }
            }
            Ok::<_, sqlx::Error>(())
        };
        if let Err(error) = heard.await {
            tracing::debug!(%error, "listening for notifications failed");
        }
        sleep(AGAIN).await;
    }
}
