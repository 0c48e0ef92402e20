//! The layers that come with the bus: retry, rate limit, chaos, and creating topics on first use.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use governor::{DefaultDirectRateLimiter, Quota};

use super::{
    BusEngine, Delivery, Layer, Message, Position, PublishOptions, Receipt, Settle, SubscribeOptions,
    Subscription, TopicOptions,
};
use crate::retry::Policy;
use crate::{Error, Kind, Result, Retry};

/// Publishes again what failed and is safe to repeat; with [`Policy::idempotent`] also what may have been stored.
///
/// Messages that are retried may end up behind later ones of the same call.
#[derive(Debug, Default)]
pub struct RetryLayer(pub Policy);

#[async_trait]
impl Layer for RetryLayer {
    async fn publish(
        &self,
        topic: &str,
        messages: Vec<Message>,
        options: &PublishOptions,
        inner: &dyn BusEngine,
    ) -> Vec<Result<Position>> {
        let mut rng = fastrand::Rng::new();
        let mut results = inner.publish(topic, messages.clone(), options).await;
        for attempt in 1.. {
            let waits = results.iter().filter_map(|r| self.0.wait(r.as_ref().err()?, attempt, &mut rng));
            let Some(wait) = waits.max() else { break };
            tokio::time::sleep(wait).await;
            let again = |r: &Result<Position>| {
                r.as_ref().is_err_and(|e| self.0.wait(e, attempt, &mut fastrand::Rng::new()).is_some())
            };
            let failed: Vec<bool> = results.iter().map(again).collect();
            let batch = messages.iter().zip(&failed).filter(|(_, failed)| **failed).map(|(m, _)| m.clone());
            let mut answers = inner.publish(topic, batch.collect(), options).await.into_iter();
            for (result, _) in results.iter_mut().zip(failed).filter(|(_, failed)| *failed) {
                if let Some(answer) = answers.next() {
                    *result = answer;
                }
            }
        }
        let exhausted = |e: Error| match e.retry() {
            Retry::Safe { .. } => e.retry_as(Retry::Exhausted).with("attempts", self.0.attempts),
            Retry::Unknown if self.0.idempotent => {
                e.retry_as(Retry::Exhausted).with("attempts", self.0.attempts)
            }
            _ => e,
        };
        results.into_iter().map(|r| r.map_err(exhausted)).collect()
    }
}

/// Hands out at most so many messages per second, over all subscriptions of the handle: peaks are shaved, not dropped.
#[derive(Debug)]
pub struct RateLimit {
    limiter: DefaultDirectRateLimiter,
    per_second: NonZeroU32,
}

impl RateLimit {
    /// At most `per_second` messages, in bursts of a twentieth of that.
    pub fn per_second(per_second: NonZeroU32) -> Self {
        let burst = NonZeroU32::new(per_second.get() / 20).unwrap_or(NonZeroU32::MIN);
        Self {
            limiter: DefaultDirectRateLimiter::direct(Quota::per_second(per_second).allow_burst(burst)),
            per_second,
        }
    }

    // The permits are taken one by one, as far as they go: a fetch is as large as the limit allows now.
    fn permits(&self, max: usize) -> usize {
        (0..max).take_while(|_| self.limiter.check().is_ok()).count()
    }
}

#[async_trait]
impl Layer for RateLimit {
    // Permits of a fetch that comes back short, or is dropped, are spent: the limit errs to the slow side.
    async fn next(&self, max: usize, wait: Duration, inner: &dyn Subscription) -> Result<Vec<Delivery>> {
        let started = tokio::time::Instant::now();
        let pause =
            Duration::from_secs_f64(1.0 / f64::from(self.per_second.get())).max(Duration::from_millis(1));
        loop {
            let permits = self.permits(max);
            let left = wait.saturating_sub(started.elapsed());
            if permits > 0 {
                return inner.next(permits, left).await;
            }
            if left.is_zero() {
                return Ok(Vec::new());
            }
            tokio::time::sleep(pause.min(left)).await;
        }
    }
}

/// Fails or delays calls by chance, to see how a program bears it.
#[derive(Debug)]
pub struct Chaos {
    /// The chance, 0 to 1, that a publish fails without being stored.
    pub refuse: f64,
    /// The chance, 0 to 1, that a publish is stored and answers with an error of unknown outcome.
    pub lose_reply: f64,
    /// The chance, 0 to 1, that a settle fails without being applied.
    pub fail_settle: f64,
    /// Each call is delayed by up to this long.
    pub delay: Duration,
    rng: Mutex<fastrand::Rng>,
}

impl Chaos {
    /// No chaos at all, drawn from this seed: set the fields to taste.
    pub fn seeded(seed: u64) -> Self {
        let rng = Mutex::new(fastrand::Rng::with_seed(seed));
        Self { refuse: 0.0, lose_reply: 0.0, fail_settle: 0.0, delay: Duration::ZERO, rng }
    }

    fn draw(&self) -> f64 {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).f64()
    }

    async fn pause(&self) {
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay.mul_f64(self.draw())).await;
        }
    }
}

fn chaos(op: &'static str, retry: Retry) -> Error {
    Error::new(Kind::Unavailable, "chaos").op(op).retry_as(retry)
}

#[async_trait]
impl Layer for Chaos {
    async fn publish(
        &self,
        topic: &str,
        messages: Vec<Message>,
        options: &PublishOptions,
        inner: &dyn BusEngine,
    ) -> Vec<Result<Position>> {
        self.pause().await;
        if self.draw() < self.refuse {
            let error = chaos("publish", Retry::Safe { after: Duration::ZERO });
            return messages.iter().map(|_| Err(error.clone())).collect();
        }
        let results = inner.publish(topic, messages, options).await;
        if self.draw() < self.lose_reply {
            return results.into_iter().map(|r| r.and(Err(chaos("publish", Retry::Unknown)))).collect();
        }
        results
    }

    async fn settle(&self, batch: Vec<(Receipt, Settle)>, inner: &dyn Subscription) -> Vec<Result<()>> {
        self.pause().await;
        if self.draw() < self.fail_settle {
            let error = chaos("settle", Retry::Safe { after: Duration::ZERO });
            return batch.iter().map(|_| Err(error.clone())).collect();
        }
        inner.settle(batch).await
    }
}

/// Creates a missing topic, with default options, when it is first published or subscribed to: `auto_create=true`.
#[derive(Debug, Default)]
pub(super) struct AutoCreate(Mutex<HashSet<String>>);

impl AutoCreate {
    async fn touch(&self, topic: &str, inner: &dyn BusEngine) -> Result<()> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known().contains(topic) {
            return Ok(());
        }
        match inner.stats(Some(topic)).await {
            Err(e) if e.kind() == Kind::NotFound => inner.ensure(topic, &TopicOptions::default()).await?,
            other => drop(other?),
        }
        known().insert(topic.to_owned());
        Ok(())
    }

    fn forget(&self, topic: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(topic);
    }
}

#[async_trait]
impl Layer for AutoCreate {
    async fn publish(
        &self,
        topic: &str,
        messages: Vec<Message>,
        options: &PublishOptions,
        inner: &dyn BusEngine,
    ) -> Vec<Result<Position>> {
        if let Err(error) = self.touch(topic, inner).await {
            return messages.iter().map(|_| Err(error.clone())).collect();
        }
        let results = inner.publish(topic, messages, options).await;
        if results.iter().any(|r| r.as_ref().is_err_and(|e| e.kind() == Kind::NotFound)) {
            self.forget(topic);
        }
        results
    }

    async fn subscribe(
        &self,
        topic: &str,
        options: &SubscribeOptions,
        inner: &dyn BusEngine,
    ) -> Result<Box<dyn Subscription>> {
        self.forget(topic);
        self.touch(topic, inner).await?;
        inner.subscribe(topic, options).await
    }
}

#[cfg(test)]
mod tests;
