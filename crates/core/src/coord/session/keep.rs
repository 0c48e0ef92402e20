//! What a session does in the background: renewing, removing what was left behind, revoking at the end.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{Shared, lost};
use crate::coord::When;
use crate::coord::call::{LIMIT, answer_within, insist, may_try_again};
use crate::{Kind, Result};

/// The most keys removed at once.
const AT_ONCE: usize = 32;
/// How often a key whose write may still be on its way is removed again, a third of the lease's time apart.
const AGAIN: u32 = 3;

/// A key to be removed.
#[derive(Debug)]
pub(super) struct Litter {
    key: String,
    due: Instant,
    /// How often it is to be removed again.
    again: u32,
}

impl Litter {
    pub(super) fn new(key: String, doubtful: bool) -> Self {
        Self { key, due: Instant::now(), again: if doubtful { AGAIN } else { 0 } }
    }
}

/// Works until the session is lost or closed.
pub(super) async fn run(shared: Arc<Shared>, begun: Instant) {
    let why = tokio::select! {
        why = shared.lost() => why,
        () = renew(&shared, begun) => return,
        () = sweep(&shared) => return,
    };
    // A lost lease isn't revoked: who was told needs the rest of its time to stop in.
    let runs_out = shared.state.borrow().runs_out;
    let end = match why.kind() {
        Kind::Closed if runs_out => Ok(()),
        Kind::Closed => revoke(&shared).await,
        _ => Err(why),
    };
    shared.state.send_modify(|state| state.end = Some(end));
}

async fn renew(shared: &Shared, begun: Instant) {
    let mut last = begun;
    loop {
        sleep_until(last + shared.ttl / 3).await;
        loop {
            let sent = Instant::now();
            // Short enough for several attempts before the deadline.
            let renewed = answer_within(shared.ttl / 6, shared.engine.renew(&shared.lease)).await;
            match renewed {
                Ok(()) => {
                    shared.renewed(sent);
                    last = sent;
                    break;
                }
                Err(error) if error.kind() == Kind::NotFound => {
                    shared.end_if(|_| true, || lost("its lease has ended on the engine"));
                }
                Err(error) => {
                    tracing::debug!(lease = shared.lease.0, %error, "could not renew; trying again");
                }
            }
            sleep(retry_after(shared.ttl)).await;
        }
    }
}

fn retry_after(ttl: Duration) -> Duration {
    (ttl / 30).min(Duration::from_secs(1))
}

async fn sweep(shared: &Shared) {
    loop {
        let (batch, next) = due(shared);
        if batch.is_empty() {
            match next {
                Some(next) => drop(timeout_at(next, shared.more.notified()).await),
                None => shared.more.notified().await,
            }
            continue;
        }
        let left = join_all(batch.into_iter().map(|litter| remove(shared, litter))).await;
        shared.lock().extend(left.into_iter().flatten());
    }
}

/// What is due, and when more will be.
fn due(shared: &Shared) -> (Vec<Litter>, Option<Instant>) {
    let now = Instant::now();
    let mut litter = shared.lock();
    let (mut batch, mut rest) = (Vec::new(), Vec::new());
    for item in litter.drain(..) {
        if item.due <= now && batch.len() < AT_ONCE { batch.push(item) } else { rest.push(item) }
    }
    let next = rest.iter().map(|item| item.due).min();
    *litter = rest;
    (batch, next)
}

/// Removes the key; what is left to be done about it.
async fn remove(shared: &Shared, litter: Litter) -> Option<Litter> {
    let (wait, again) = match answer_within(LIMIT, shared.engine.delete(&litter.key, When::Always)).await {
        Ok(_) if litter.again == 0 => return None,
        Ok(_) => (shared.ttl / 3, litter.again - 1),
        Err(error) if may_try_again(&error) => (retry_after(shared.ttl), litter.again),
        Err(error) => {
            tracing::warn!(key = litter.key, %error, "could not remove a key; it goes with its lease");
            return None;
        }
    };
    Some(Litter { due: Instant::now() + wait, again, ..litter })
}

async fn revoke(shared: &Shared) -> Result<()> {
    answer_within(shared.ttl, insist(|| shared.engine.revoke(&shared.lease))).await
}
