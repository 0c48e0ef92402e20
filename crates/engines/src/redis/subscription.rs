//! The subscription people hold.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use linchpin_core::bus::{Delivery, Receipt, Settle, Subscription};
use linchpin_core::{Error, Kind, Result};
use tokio::time::{timeout, timeout_at};

use super::NAME;
use super::core::lock;
use super::member::Member;

/// Dropping it is a death: its member stops telling that it lives, and what it held comes back when the leases end.
#[derive(Debug)]
pub(super) struct RedisSubscription(pub(super) Arc<Member>);

impl Drop for RedisSubscription {
    fn drop(&mut self) {
        lock(&self.0.state).closed = true;
        self.0.asked.notify_one();
    }
}

/// A `next` call that waits.
struct Waiting<'m>(&'m Member);

impl<'m> Waiting<'m> {
    /// And the number of the first look that begins from now on.
    fn new(member: &'m Member, max: usize, deadline: Instant) -> (Self, u64) {
        let mut state = lock(&member.state);
        state.enters(max, deadline, Instant::now());
        let look = state.begun + 1;
        (Self(member), look)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).leaves(Instant::now());
    }
}

#[async_trait]
impl Subscription for RedisSubscription {
    async fn next(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let (member, max) = (&self.0, max.max(1));
        let deadline = Instant::now() + wait;
        // A look that began is waited for even if `wait` is shorter; the server answers within `timeout`.
        let last = deadline + member.core.config.timeout;
        let mut entered = None;
        loop {
            let changed = member.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            member.core.check_open().map_err(|e| e.op("next"))?;
            // Asked first: what a look that ended by now found, or failed with, is there to be taken.
            let looked = entered.as_ref().is_some_and(|(_, look)| lock(&member.state).done >= *look);
            let out = member.take(max, entered.is_some())?;
            if !out.is_empty() {
                // It left with what it took.
                std::mem::forget(entered);
                return Ok(out);
            }
            entered.get_or_insert_with(|| Waiting::new(member, max, deadline));
            let now = Instant::now();
            if (now >= deadline && looked) || now >= last {
                return Ok(out);
            }
            member.asked.notify_one();
            let until = if looked { deadline } else { last };
            let _woken = timeout_at(until.into(), changed).await;
        }
    }

    async fn settle(&self, batch: Vec<(Receipt, Settle)>) -> Vec<Result<()>> {
        self.0.settle(batch).await
    }

    async fn close(&self, within: Duration) -> Result<()> {
        if lock(&self.0.state).closed {
            return Ok(());
        }
        let late = |_| {
            Error::new(Kind::Timeout, "leaving the group took too long")
                .engine(NAME)
                .op("close")
                .help("what was unsettled comes back after ack_wait")
        };
        timeout(within, self.0.leave()).await.map_err(late)?
    }
}
