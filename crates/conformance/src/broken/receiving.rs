//! Faults on the way out.

use std::time::Duration;

use async_trait::async_trait;
use linchpin::Result;
use linchpin::bus::{BusEngine, Delivery, Layer, Order, Start, SubscribeOptions, Subscription};

/// A layer of one hook: what it makes of the options of a subscription.
macro_rules! subscribing {
    ($($(#[$doc:meta])* $name:ident |$options:ident| $change:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name;

        #[async_trait]
        impl Layer for $name {
            async fn subscribe(
                &self,
                topic: &str,
                options: &SubscribeOptions,
                inner: &dyn BusEngine,
            ) -> Result<Box<dyn Subscription>> {
                let mut $options = options.clone();
                $change;
                inner.subscribe(topic, &$options).await
            }
        }
    )*};
}

subscribing! {
    /// Lets members compete for every message.
    IgnoresOrder |options| options.order = Order::None;
    /// Hands out as much as there is.
    Unbounded |options| options.max_in_flight = usize::MAX;
    /// Tries for ever.
    NeverBuries |options| options.max_attempts = u32::MAX;
    /// Has one group for all.
    OneGroup |options| options.group = options.group.map(|_| "all".to_owned());
    /// Takes from everywhere.
    AllPartitions |options| options.partitions = None;
    /// Begins at the beginning.
    FromTheOldest |options| options.start = Start::Oldest;
}

/// A layer of one hook: what it makes of a batch.
macro_rules! fetching {
    ($($(#[$doc:meta])* $name:ident |$batch:ident| $change:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name;

        #[async_trait]
        impl Layer for $name {
            async fn next(&self, max: usize, wait: Duration, inner: &dyn Subscription) -> Result<Vec<Delivery>> {
                let mut $batch = inner.next(max, wait).await?;
                $change;
                Ok($batch)
            }
        }
    )*};
}

fetching! {
    /// Takes every delivery for the first.
    ForgetsAttempts |batch| batch.iter_mut().for_each(|delivery| delivery.attempt = 1);
    /// Has one token for all owners.
    RepeatsFence |batch| batch.iter_mut().for_each(|delivery| delivery.fence = delivery.fence.min(1));
    /// Has taken the batch already when it can still be dropped.
    LosesCancelled |batch| {
        tokio::time::sleep(Duration::from_millis(1)).await;
        batch.reverse();
    };
}

/// Asks for messages only every five seconds.
#[derive(Debug)]
pub(super) struct WakesLate;

#[async_trait]
impl Layer for WakesLate {
    async fn next(&self, max: usize, wait: Duration, inner: &dyn Subscription) -> Result<Vec<Delivery>> {
        let batch = inner.next(max, Duration::ZERO).await?;
        if !batch.is_empty() || wait.is_zero() {
            return Ok(batch);
        }
        tokio::time::sleep(wait.min(Duration::from_secs(5))).await;
        inner.next(max, Duration::ZERO).await
    }
}
