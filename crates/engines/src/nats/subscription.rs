//! The subscription people hold.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use linchpin_core::bus::{Delivery, Receipt, Settle, Subscription};
use linchpin_core::{Error, Kind, Result};
use tokio::time::{Instant, timeout, timeout_at};

use super::NAME;
use super::member::Member;

/// Dropping it is a death: what it held comes back when the leases end.
#[derive(Debug)]
pub(super) struct NatsSubscription(pub(super) Arc<Member>);

impl Drop for NatsSubscription {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// A `next` call that waits for so many.
struct Waiting<'m>(&'m Member, usize);

impl<'m> Waiting<'m> {
    fn new(member: &'m Member, max: usize) -> Self {
        let mut state = member.lock();
        state.wanted += max;
        state.last_next = Some(Instant::now());
        if !state.active {
            member.nudge.notify_one();
        }
        drop(state);
        Self(member, max)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.wanted -= self.1;
        state.last_next = Some(Instant::now());
        // The member's task looks when this one counts as idle; nobody is kept waiting by one that is alone.
        if state.wanted == 0 && state.active && !state.alone {
            self.0.nudge.notify_one();
        }
    }
}

#[async_trait]
impl Subscription for NatsSubscription {
    async fn next(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let member = &self.0;
        let (max, deadline) = (max.max(1), Instant::now() + wait);
        let waiting = Waiting::new(member, max);
        loop {
            let changed = member.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let (taking, due) = {
                let mut state = member.lock();
                member.check(&mut state).map_err(|e| e.op("next"))?;
                let out = member.hand_out(&mut state, max);
                if !out.is_empty() {
                    drop(state);
                    drop(waiting);
                    member.pump(&mut member.lock());
                    return Ok(out);
                }
                member.pump(&mut state);
                (state.taking > 0, member.next_due(&state))
            };
            let now = Instant::now();
            // What is being taken is waited for: it is counted as handed out soon, and the server answers in time.
            let last = if taking { deadline + member.core.link.timeout } else { deadline };
            if now >= last {
                return Ok(Vec::new());
            }
            let until = due.map_or(last, |due| if due > now { last.min(due) } else { last });
            let _woken = timeout_at(until, changed).await;
        }
    }

    async fn settle(&self, batch: Vec<(Receipt, Settle)>) -> Vec<Result<()>> {
        let answers = self.0.settle(batch).await;
        answers.into_iter().map(|answer| answer.map_err(|e| e.op("settle"))).collect()
    }

    async fn close(&self, within: Duration) -> Result<()> {
        let late = |_| {
            Error::new(Kind::Timeout, "leaving the group took too long")
                .engine(NAME)
                .op("close")
                .help("what was unsettled comes back after ack_wait")
        };
        timeout(within, self.0.leave()).await.map_err(late)?.map_err(|e| e.op("close"))
    }
}
