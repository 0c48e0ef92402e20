//! A subscription: a seat in a hub.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use linchpin_core::bus::{Delivery, Receipt, Settle, Subscription};
use linchpin_core::{Error, Kind, Result};

use super::NAME;
use super::hub::Hub;

#[derive(Debug)]
pub(super) struct KafkaSubscription {
    hub: Arc<Hub>,
    seat: u64,
    closed: AtomicBool,
    /// Tells fetches that wait that it is closed.
    closing: tokio::sync::Notify,
}

impl KafkaSubscription {
    pub(super) fn new(hub: Arc<Hub>, seat: u64) -> Self {
        Self { hub, seat, closed: AtomicBool::new(false), closing: tokio::sync::Notify::new() }
    }

    fn closed(op: &'static str) -> Error {
        Error::new(Kind::Closed, "the subscription is closed").engine(NAME).op(op)
    }
}

#[async_trait]
impl Subscription for KafkaSubscription {
    async fn next(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let closing = self.closing.notified();
        tokio::pin!(closing);
        closing.as_mut().enable();
        if self.closed.load(Ordering::Acquire) {
            return Err(Self::closed("next"));
        }
        tokio::select! {
            biased;
            out = self.hub.next(self.seat, max, wait) => out,
            () = closing => Err(Self::closed("next")),
        }
    }

    async fn settle(&self, batch: Vec<(Receipt, Settle)>) -> Vec<Result<()>> {
        if self.closed.load(Ordering::Acquire) {
            return batch.iter().map(|_| Err(Self::closed("settle"))).collect();
        }
        self.hub.settle(self.seat, batch).await
    }

    async fn close(&self, within: Duration) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.closing.notify_waiters();
        self.hub.leave(self.seat, within).await
    }
}

/// A death: what is unsettled stays away until its lease runs out.
impl Drop for KafkaSubscription {
    fn drop(&mut self) {
        if !self.closed.load(Ordering::Acquire) {
            self.hub.abandon(self.seat);
        }
    }
}
