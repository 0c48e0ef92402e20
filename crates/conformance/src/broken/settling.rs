//! Faults when the work is done, and when a member leaves.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use linchpin::bus::{Delivery, Layer, MessageId, Receipt, Settle, Subscription};
use linchpin::{Kind, Result};

type Batch = Vec<(Receipt, Settle)>;

/// A layer of one hook: what it makes of what is settled.
macro_rules! settling {
    ($($(#[$doc:meta])* $name:ident |$settle:ident| $change:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name;

        #[async_trait]
        impl Layer for $name {
            async fn settle(&self, batch: Batch, inner: &dyn Subscription) -> Vec<Result<()>> {
                let change = |$settle: Settle| $change;
                inner.settle(batch.into_iter().map(|(receipt, settle)| (receipt, change(settle))).collect()).await
            }
        }
    )*};
}

settling! {
    /// Hands a nacked message out at once.
    HurriesBack |settle| match settle {
        Settle::Nack { reason, .. } => Settle::Nack { delay: Duration::ZERO, reason },
        other => other,
    };
    /// Hands a nacked message out two seconds late.
    ComesBackLate |settle| match settle {
        Settle::Nack { delay, reason } => Settle::Nack { delay: delay + Duration::from_secs(2), reason },
        other => other,
    };
}

/// Answers `Ok` to the first ack and does nothing.
#[derive(Debug, Default)]
pub(super) struct DropsAnAck(AtomicBool);

#[async_trait]
impl Layer for DropsAnAck {
    async fn settle(&self, mut batch: Batch, inner: &dyn Subscription) -> Vec<Result<()>> {
        let dropped = !self.0.swap(true, Ordering::SeqCst) && batch.pop().is_some();
        let mut answers = inner.settle(batch).await;
        answers.extend(dropped.then_some(Ok(())));
        answers
    }
}

/// Answers `Ok` to one that lost its delivery.
#[derive(Debug)]
pub(super) struct SaysOk;

#[async_trait]
impl Layer for SaysOk {
    async fn settle(&self, batch: Batch, inner: &dyn Subscription) -> Vec<Result<()>> {
        let fine =
            |answer: Result<()>| answer.or_else(|e| if e.kind() == Kind::Fenced { Ok(()) } else { Err(e) });
        inner.settle(batch).await.into_iter().map(fine).collect()
    }
}

/// Answers `Fenced` to a late ack, but takes the message for done: whoever holds it can't hand it back.
#[derive(Debug, Default)]
pub(super) struct LateAckCounts {
    ids: Mutex<HashMap<Receipt, MessageId>>,
    done: Mutex<HashSet<MessageId>>,
}

#[async_trait]
impl Layer for LateAckCounts {
    async fn next(&self, max: usize, wait: Duration, inner: &dyn Subscription) -> Result<Vec<Delivery>> {
        let mut batch = inner.next(max, wait).await?;
        let done = self.done.lock().unwrap().clone();
        let acks: Vec<_> = batch.extract_if(.., |d| done.contains(&d.message.id)).collect();
        inner.settle(acks.iter().map(|d| (d.receipt, Settle::Ack)).collect()).await;
        let ids = batch.iter().map(|d| (d.receipt, d.message.id.clone()));
        self.ids.lock().unwrap().extend(ids);
        Ok(batch)
    }

    async fn settle(&self, batch: Batch, inner: &dyn Subscription) -> Vec<Result<()>> {
        let acked = batch.iter().filter(|(_, settle)| *settle == Settle::Ack);
        let ids = self.ids.lock().unwrap().clone();
        self.done.lock().unwrap().extend(acked.filter_map(|(receipt, _)| ids.get(receipt).cloned()));
        inner.settle(batch).await
    }
}

/// Answers `Ok` to an extension and lets the lease run out.
#[derive(Debug)]
pub(super) struct IgnoresExtend;

#[async_trait]
impl Layer for IgnoresExtend {
    async fn settle(&self, batch: Batch, inner: &dyn Subscription) -> Vec<Result<()>> {
        if batch.iter().all(|(_, settle)| *settle == Settle::Extend) {
            return batch.iter().map(|_| Ok(())).collect();
        }
        inner.settle(batch).await
    }
}

/// Takes an ack of two or more for an ack of all.
#[derive(Debug)]
pub(super) struct AcksAll;

#[async_trait]
impl Layer for AcksAll {
    async fn settle(&self, mut batch: Batch, inner: &dyn Subscription) -> Vec<Result<()>> {
        if batch.len() > 1 {
            batch.iter_mut().for_each(|(_, settle)| *settle = Settle::Ack);
        }
        inner.settle(batch).await
    }
}

/// Forgets what a leaving member holds.
#[derive(Debug, Default)]
pub(super) struct LosesOnClose(Mutex<HashSet<Receipt>>);

#[async_trait]
impl Layer for LosesOnClose {
    async fn next(&self, max: usize, wait: Duration, inner: &dyn Subscription) -> Result<Vec<Delivery>> {
        let batch = inner.next(max, wait).await?;
        self.0.lock().unwrap().extend(batch.iter().map(|d| d.receipt));
        Ok(batch)
    }

    async fn close(&self, within: Duration, inner: &dyn Subscription) -> Result<()> {
        let held = std::mem::take(&mut *self.0.lock().unwrap());
        inner.settle(held.into_iter().map(|receipt| (receipt, Settle::Ack)).collect()).await;
        inner.close(within).await
    }
}

/// Lets what a leaving member holds come back when its lease ends.
#[derive(Debug)]
pub(super) struct KeepsOnClose;

#[async_trait]
impl Layer for KeepsOnClose {
    async fn close(&self, _within: Duration, _inner: &dyn Subscription) -> Result<()> {
        Ok(())
    }
}
