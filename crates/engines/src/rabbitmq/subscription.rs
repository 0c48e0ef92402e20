//! The subscription people hold.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use linchpin_core::bus::{Delivery, Receipt, Settle, Subscription};
use linchpin_core::{Kind, Result};
use tokio::time::{Instant, timeout, timeout_at};

use super::core::lock;
use super::error;
use super::member::Member;

/// Dropping it is a death: what it held comes back when the leases end.
#[derive(Debug)]
pub(super) struct RabbitSubscription(pub(super) Arc<Member>);

impl Drop for RabbitSubscription {
    fn drop(&mut self) {
        lock(&self.0.state).dropped = true;
        self.0.asked.notify_one();
    }
}

/// A `next` call that waits.
struct Waiting<'m>(&'m Member);

impl<'m> Waiting<'m> {
    /// And the number of the first look that begins from now on.
    fn new(member: &'m Member, max: usize) -> (Self, u64) {
        let mut state = lock(&member.state);
        state.waiting += 1;
        state.wanted = if state.waiting == 1 { max } else { state.wanted.max(max) };
        state.look_for = state.begun + 1;
        (Self(member), state.look_for)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.waiting -= 1;
        state.last_next = Some(Instant::now());
    }
}

/// A `settle` call that waits.
struct Settling<'m>(&'m Member);

impl<'m> Settling<'m> {
    fn new(member: &'m Member) -> Self {
        lock(&member.state).settles += 1;
        Self(member)
    }
}

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.settles -= 1;
        state.last_next = Some(Instant::now());
    }
}

#[async_trait]
impl Subscription for RabbitSubscription {
    async fn next(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let (member, max) = (&self.0, max.max(1));
        let deadline = Instant::now() + wait;
        // A look that began is waited for even if `wait` is shorter.
        let last = deadline + member.core.config.timeout;
        let mut entered = None;
        loop {
            let changed = member.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            member.core.check_open().map_err(|e| e.op("next"))?;
            // Asked first: what a look that ended by now found, or failed with, is there to be taken.
            let looked = entered.as_ref().is_some_and(|(_, look)| lock(&member.state).done >= *look);
            let out = member.take(max)?;
            if !out.is_empty() {
                if entered.is_none() {
                    lock(&member.state).last_next = Some(Instant::now());
                }
                return Ok(out);
            }
            entered.get_or_insert_with(|| Waiting::new(member, max));
            let now = Instant::now();
            if (now >= deadline && looked) || now >= last {
                return Ok(out);
            }
            member.asked.notify_one();
            let until = if looked { deadline } else { last };
            let _woken = timeout_at(until, changed).await;
        }
    }

    async fn settle(&self, batch: Vec<(Receipt, Settle)>) -> Vec<Result<()>> {
        let _settling = Settling::new(&self.0);
        self.0.settle(batch).await
    }

    async fn close(&self, within: Duration) -> Result<()> {
        if lock(&self.0.state).closed {
            return Ok(());
        }
        let late = |_| {
            error::error(Kind::Timeout, "leaving the group took too long")
                .op("close")
                .help("what was unsettled comes back after ack_wait")
        };
        timeout(within, self.0.leave()).await.map_err(late)?
    }
}
