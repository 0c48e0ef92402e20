//! How a handle learns of what other processes commit: PostgreSQL tells, and every database is asked while somebody waits.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;
use linchpin_core::Result;
use tokio::sync::watch;
use tokio::time::sleep;

use super::conn::Arg;
use super::core::{Core, Purpose};
#[cfg(feature = "postgres")]
use super::dialect::Dialect;
use super::dialect::{padded, places};
use super::tx::{Step, Tx};

/// After this much quiet, the database is asked half as often.
const QUIET: Duration = Duration::from_secs(5);
/// How often to ask for leases that ran out.
const LEASES: Duration = Duration::from_millis(250);

/// Starts what asks, and what tells where the database can.
pub(super) fn start(core: &Arc<Core>, stopped: &watch::Receiver<bool>, purpose: Purpose) {
    // Watches are fed by what all relational engines share.
    if purpose == Purpose::Bus {
        spawn(stopped, ask(Arc::downgrade(core)));
    }
    #[cfg(feature = "postgres")]
    if core.config.dialect == Dialect::Postgres {
        spawn(stopped, super::notify::tell(Arc::downgrade(core)));
        spawn(stopped, super::notify::listen(Arc::downgrade(core)));
    }
}

/// Runs a task until the engine is closed or gone.
pub(super) fn spawn(stopped: &watch::Receiver<bool>, task: impl Future<Output = ()> + Send + 'static) {
    let mut stopped = stopped.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = task => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
    });
}

/// First, last, count.
type Due = (i64, i64, i64);

/// What is known of the groups that somebody waits for.
#[derive(Debug, Default)]
struct Seen {
    /// A digest of each group's cursors and of the ends of its partitions.
    states: BTreeMap<i64, u64>,
    /// The earliest and the latest of each group's claims that are due, and how many they are.
    dues: BTreeMap<i64, Due>,
    changed: Option<Instant>,
    leases: Option<Instant>,
}

async fn ask(core: Weak<Core>) {
    let mut seen = Seen::default();
    loop {
        let Some(strong) = core.upgrade() else { return };
        let (tell, poll) = (strong.tell.clone(), strong.config.poll);
        drop(strong);
        if tell.hub.waiting() == 0 {
            tell.waiting.notified().await;
        }
        let quiet = seen.changed.is_none_or(|at| at.elapsed() >= QUIET);
        sleep(if quiet { poll * 2 } else { poll }).await;
        let Some(strong) = core.upgrade() else { return };
        if tell.hub.waiting() == 0 {
            continue;
        }
        if let Err(error) = round(&strong, &mut seen).await {
            // Whoever waits finds out by himself, and says so.
            tracing::debug!(%error, "asking for news failed");
            tell.hub.wake_all();
            drop(strong);
            sleep(LEASES).await;
        }
    }
}

async fn round(core: &Core, seen: &mut Seen) -> Result<()> {
    let members = core.tell.hub.members();
    let waiting = || members.iter().filter(|member| member.waits());
    let mut groups: Vec<i64> = waiting().map(|member| member.scope.group).collect();
    groups.sort_unstable();
    groups.dedup();
    let mut news = states(core, &groups, seen).await?;
    if seen.leases.is_none_or(|at| at.elapsed() >= LEASES) {
        seen.leases = Some(Instant::now());
        // Under an order the owners of partitions look after leases.
        let competing = waiting().filter(|member| member.scope.lease.is_some());
        let mut groups: Vec<i64> = competing.map(|member| member.scope.group).collect();
        groups.sort_unstable();
        groups.dedup();
        news.extend(dues(core, &groups, seen).await?);
    }
    if !news.is_empty() {
        seen.changed = Some(Instant::now());
        members.iter().filter(|member| news.contains(&member.scope.group)).for_each(|member| member.wake());
    }
    Ok(())
}

/// The groups whose state isn't what it was.
async fn states(core: &Core, groups: &[i64], seen: &mut Seen) -> Result<Vec<i64>> {
    let now = core.read("poll", groups.to_vec(), |tx, groups| Box::pin(read_states(tx, groups))).await?;
    let changed = groups
        .iter()
        .copied()
        .filter(|group| now.get(group).is_none_or(|state| seen.states.get(group) != Some(state)));
    let changed = changed.collect();
    seen.states = now;
    Ok(changed)
}

async fn read_states(tx: &mut Tx, groups: &[i64]) -> Step<BTreeMap<i64, u64>> {
    let sql = "SELECT c.grp, c.part, c.fence, p.next FROM lp_cursor c JOIN lp_partition p ON p.id = c.part
               WHERE c.grp IN";
    let mut states = BTreeMap::new();
    for row in tx.all_in(sql, groups, "ORDER BY c.grp, c.part").await? {
        let hasher = states.entry(row.int(0)?).or_insert_with(|| FixedState::default().build_hasher());
        (row.int(1)?, row.int(2)?, row.int(3)?).hash(hasher);
    }
    Ok(states.into_iter().map(|(group, hasher)| (group, hasher.finish())).collect())
}

/// The groups in which a claim's time has come since the last look.
async fn dues(core: &Core, groups: &[i64], seen: &mut Seen) -> Result<Vec<i64>> {
    let dues = core.read("poll", groups.to_vec(), |tx, groups| Box::pin(read_dues(tx, groups))).await?;
    let changed = dues.iter().filter(|(group, due)| seen.dues.get(group) != Some(due));
    let changed = changed.map(|(group, _)| *group).collect();
    seen.dues = dues;
    Ok(changed)
}

async fn read_dues(tx: &mut Tx, groups: &[i64]) -> Step<BTreeMap<i64, Due>> {
    let mut dues = BTreeMap::new();
    if groups.is_empty() {
        return Ok(dues);
    }
    let sql = format!(
        "SELECT grp, min(due), max(due), count(*) FROM lp_claim WHERE due <= ? AND grp IN {} GROUP BY grp",
        places(groups.len())
    );
    let now = tx.look_at_clock().await?;
    let args: Vec<Arg<'_>> = [now].into_iter().chain(padded(groups)).map(Arg::Int).collect();
    for row in tx.all(&sql, &args).await? {
        dues.insert(row.int(0)?, (row.int(1)?, row.int(2)?, row.int(3)?));
    }
    Ok(dues)
}
