//! What a handle does by itself: looking after subscriptions, delayed messages, retention.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use linchpin_core::Result;
use tokio::sync::watch;
use tokio::time::sleep;

use super::core::Core;
use super::tx::{Step, Tx};
use super::watcher::spawn;
use super::{append, group, retain, topic};

/// How often it looks after subscriptions.
const TICK: Duration = Duration::from_millis(100);
/// How often it looks for delayed messages that are due, with subscriptions and without.
const DELAYED: Duration = Duration::from_millis(400);
const DELAYED_ALONE: Duration = Duration::from_secs(2);
/// How often it applies retention, and clears what removed topics and dead members left.
const RETENTION: Duration = Duration::from_secs(60);
/// Messages moved or deleted in one transaction.
const STEP: u64 = 1000;

/// Starts it.
pub(super) fn start(core: &Arc<Core>, stopped: watch::Receiver<bool>) {
    spawn(&stopped, work(Arc::downgrade(core)));
    spawn(&stopped, clear(Arc::downgrade(core)));
}

async fn work(core: Weak<Core>) {
    let mut delayed_at = Instant::now();
    loop {
        sleep(TICK).await;
        let Some(core) = core.upgrade() else { return };
        let now = Instant::now();
        core.tell.hub.members().iter().for_each(|member| member.tick(now));
        if now >= delayed_at {
            delayed_at = now + if core.tell.hub.any_members() { DELAYED } else { DELAYED_ALONE };
            if let Err(error) = delayed(&core).await {
                tracing::debug!(%error, "moving delayed messages failed");
            }
        }
    }
}

/// Moves delayed messages that are due into their topics.
async fn delayed(core: &Core) -> Result<()> {
    if !core.read("chore", (), |tx, ()| Box::pin(any_due(tx))).await? {
        return Ok(());
    }
    while core.write("chore", (), |tx, ()| Box::pin(append::move_due(tx, STEP))).await? {}
    Ok(())
}

async fn any_due(tx: &mut Tx) -> Step<bool> {
    let first = tx.one("SELECT min(due) FROM lp_delayed", &[]).await?.opt_int(0)?;
    Ok(first.is_some_and(|due| due <= tx.now()))
}

async fn clear(core: Weak<Core>) {
    loop {
        // Handles that were opened at once don't do this at once.
        sleep(RETENTION.mul_f64(0.5 + fastrand::f64())).await;
        let Some(core) = core.upgrade() else { return };
        if let Err(error) = sweep(&core).await {
            tracing::debug!(%error, "clearing failed");
        }
    }
}

async fn sweep(core: &Core) -> Result<()> {
    while core.write("chore", (), |tx, ()| Box::pin(topic::sweep(tx, STEP))).await? {}
    core.write("chore", (), |tx, ()| Box::pin(group::collect(tx))).await?;
    for topic in core.read("chore", (), |tx, ()| Box::pin(topic::retained(tx))).await? {
        let topic = Arc::new(topic);
        let step = || core.write("chore", topic.clone(), |tx, topic| Box::pin(retain::step(tx, topic, STEP)));
        while step().await? >= STEP {}
    }
    Ok(())
}
