//! Receiving by hand, in batches.

use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use tokio::time::Instant;

use super::dead::is_for;
use super::{Delivery, Receipt, Settle, SubscribeOptions, Subscription};
use crate::telemetry::{DELIVERED, REDELIVERED, SETTLED};
use crate::{Error, Kind, Result};

/// A membership in a group, or a broadcast subscriber. Cheap to clone; clones share the membership.
///
/// Settling takes the delivery, so settling twice doesn't compile:
///
/// ```compile_fail,E0382
/// # use linchpin_core::bus::{Delivery, Subscriber};
/// async fn twice(billing: Subscriber, delivery: Delivery) -> linchpin_core::Result<()> {
///     billing.ack(delivery).await?;
///     billing.ack(delivery).await
/// }
/// ```
///
/// Dropping the last clone without [`Subscriber::close`] counts as the death of a consumer: what it held comes back to
/// the group after `ack_wait`, one attempt further.
#[derive(Debug, Clone)]
pub struct Subscriber {
    subscription: Arc<dyn Subscription>,
    topic: Arc<str>,
    group: Option<Arc<str>>,
}

impl Subscriber {
    pub(super) fn new(subscription: Box<dyn Subscription>, topic: &str, options: &SubscribeOptions) -> Self {
        Self {
            subscription: subscription.into(),
            topic: topic.into(),
            group: options.group.as_deref().map(Arc::from),
        }
    }

    /// Up to `max` deliveries, as soon as there are any; none after `wait`. Cancel-safe.
    ///
    /// # Errors
    /// `NotFound` if the topic or group was removed, `Closed` after [`Subscriber::close`], `Unavailable` if the engine is
    /// gone: call again.
    pub async fn next(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let deadline = Instant::now() + wait;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut batch = self.subscription.next(max.max(1), left).await?;
            if batch.is_empty() {
                return Ok(batch);
            }
            self.skip_others(&mut batch);
            if !batch.is_empty() {
                self.count_deliveries(&batch);
                return Ok(batch);
            }
        }
    }

    // Redriven messages are for the group they failed in alone. The acks are spawned: losing the batch
    // with a dropped future would cost the rest an attempt.
    fn skip_others(&self, batch: &mut Vec<Delivery>) {
        let Some(group) = &self.group else { return };
        if batch.iter().all(|d| is_for(&d.message, group)) {
            return;
        }
        let (ours, others): (Vec<_>, Vec<_>) = batch.drain(..).partition(|d| is_for(&d.message, group));
        *batch = ours;
        let subscription = self.subscription.clone();
        let acks = others.iter().map(|d| (d.receipt, Settle::Ack)).collect();
        tokio::spawn(async move { subscription.settle(acks).await });
    }

    fn labels(&self) -> [(&'static str, String); 2] {
        let group = self.group.as_deref().unwrap_or_default();
        [("topic", self.topic.to_string()), ("group", group.to_owned())]
    }

    fn count_deliveries(&self, batch: &[Delivery]) {
        counter!(DELIVERED, &self.labels()).increment(batch.len() as u64);
        let again = batch.iter().filter(|d| d.attempt > 1).count();
        if again > 0 {
            counter!(REDELIVERED, &self.labels()).increment(again as u64);
        }
    }

    /// Done with it.
    ///
    /// # Errors
    /// `Fenced` if it went to another member meanwhile.
    pub async fn ack(&self, delivery: Delivery) -> Result<()> {
        self.settle_one(delivery.receipt, Settle::Ack).await
    }

    /// Failed: it comes back after `delay`, or becomes a dead letter with `reason` if this was the last attempt.
    ///
    /// # Errors
    /// `Fenced` if it went to another member meanwhile.
    pub async fn nack(&self, delivery: Delivery, delay: Duration, reason: impl Into<String>) -> Result<()> {
        self.settle_one(delivery.receipt, Settle::Nack { delay, reason: reason.into() }).await
    }

    /// Hopeless: to the dead letters now.
    ///
    /// # Errors
    /// `Fenced` if it went to another member meanwhile.
    pub async fn dead(&self, delivery: Delivery, reason: impl Into<String>) -> Result<()> {
        self.settle_one(delivery.receipt, Settle::Dead { reason: reason.into() }).await
    }

    /// Still at work: `ack_wait` starts over.
    ///
    /// # Errors
    /// `Fenced` if it went to another member meanwhile: stop working on it.
    pub async fn extend(&self, delivery: &Delivery) -> Result<()> {
        self.settle_one(delivery.receipt, Settle::Extend).await
    }

    async fn settle_one(&self, receipt: Receipt, settle: Settle) -> Result<()> {
        let mut results = self.settle_receipts(vec![(receipt, settle)]).await;
        results
            .pop()
            .unwrap_or_else(|| Err(Error::new(Kind::Unexpected, "the engine gave no answer").op("settle")))
    }

    /// Settles many at once; one answer each. The deliveries are gone, whatever the answers.
    pub async fn settle(&self, batch: Vec<(Delivery, Settle)>) -> Vec<Result<()>> {
        self.settle_receipts(batch.into_iter().map(|(delivery, settle)| (delivery.receipt, settle)).collect())
            .await
    }

    pub(crate) async fn settle_receipts(&self, batch: Vec<(Receipt, Settle)>) -> Vec<Result<()>> {
        let mut outcomes = [("ack", 0_u64), ("nack", 0), ("dead", 0)];
        for (_, settle) in &batch {
            let [ack, nack, dead] = &mut outcomes;
            match settle {
                Settle::Ack => ack.1 += 1,
                Settle::Nack { .. } => nack.1 += 1,
                Settle::Dead { .. } => dead.1 += 1,
                Settle::Extend => {}
            }
        }
        let results = self.subscription.settle(batch).await;
        for (outcome, n) in outcomes.into_iter().filter(|(_, n)| *n > 0) {
            let [topic, group] = self.labels();
            counter!(SETTLED, &[topic, group, ("outcome", outcome.to_owned())]).increment(n);
        }
        results
    }

    /// Leaves the group; what is unsettled goes to the others at once.
    ///
    /// # Errors
    /// `Timeout` if `within` passed first: the deliveries then come back after `ack_wait`.
    pub async fn close(&self, within: Duration) -> Result<()> {
        self.subscription.close(within).await
    }
}
