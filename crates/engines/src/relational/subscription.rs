//! The subscription people hold.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use linchpin_core::bus::{Delivery, Receipt, Settle, Subscription};
use linchpin_core::{Error, Kind, Result};
use tokio::time::{Instant, timeout, timeout_at};

use super::hub::lock;
use super::member::Member;

/// Dropping it is a death: its member stops telling that it lives, and what it held comes back when the leases end.
#[derive(Debug)]
pub(crate) struct RowSubscription(pub(crate) Arc<Member>);

impl Drop for RowSubscription {
    fn drop(&mut self) {
        lock(&self.0.state).closed = true;
        self.0.changed.notify_waiters();
    }
}

/// A `next` call that waits.
struct Waiting<'m>(&'m Member);

impl<'m> Waiting<'m> {
    fn new(member: &'m Member) -> Self {
        lock(&member.state).waiting += 1;
        member.store.wait();
        Self(member)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.store.waited();
        let mut state = lock(&self.0.state);
        state.waiting -= 1;
        state.last_next = std::time::Instant::now();
    }
}

#[async_trait]
impl Subscription for RowSubscription {
    async fn next(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let member = &self.0;
        let deadline = Instant::now() + wait;
        // A fetch that began is waited for even if `wait` is shorter; the database answers in its time.
        let last = deadline + member.store.patience();
        member.store.check_open().map_err(|e| e.op("next"))?;
        member.refresh();
        let _waiting = Waiting::new(member);
        loop {
            let changed = member.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let out = member.step(max.max(1))?;
            let (fetching, again_at) = {
                let state = lock(&member.state);
                (state.fetching, state.again_at.into())
            };
            let now = Instant::now();
            if !out.is_empty() || (now >= deadline && !fetching) || now >= last {
                return Ok(out);
            }
            let until = if fetching { last } else { deadline.min(again_at) };
            let _woken = timeout_at(until, changed).await;
            member.store.check_open().map_err(|e| e.op("next"))?;
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
                .engine(self.0.store.engine())
                .op("close")
                .help("what was unsettled comes back after ack_wait")
        };
        timeout(within, self.0.leave()).await.map_err(late)?
    }
}
