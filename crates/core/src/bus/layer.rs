//! Layers: what stands between a handle and its engine.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{
    BusEngine, Caps, Delivery, Info, Message, Position, PublishOptions, Receipt, Settle, Start,
    SubscribeOptions, Subscription, TopicOptions, TopicStats,
};
use crate::Result;

/// Wraps the calls of an engine that matter on the way of a message. Each hook passes on by default; a layer
/// overrides the ones it is about, and calls `inner` zero, one or several times.
///
/// Add one with [`Bus::layer`](super::Bus::layer): the last added is the outermost.
#[async_trait]
pub trait Layer: Send + Sync + Debug + 'static {
    /// Around [`BusEngine::publish`].
    async fn publish(
        &self,
        topic: &str,
        messages: Vec<Message>,
        options: &PublishOptions,
        inner: &dyn BusEngine,
    ) -> Vec<Result<Position>> {
        inner.publish(topic, messages, options).await
    }

    /// Around [`BusEngine::subscribe`].
    async fn subscribe(
        &self,
        topic: &str,
        options: &SubscribeOptions,
        inner: &dyn BusEngine,
    ) -> Result<Box<dyn Subscription>> {
        inner.subscribe(topic, options).await
    }

    /// Around [`Subscription::next`].
    async fn next(&self, max: usize, wait: Duration, inner: &dyn Subscription) -> Result<Vec<Delivery>> {
        inner.next(max, wait).await
    }

    /// Around [`Subscription::settle`].
    async fn settle(&self, batch: Vec<(Receipt, Settle)>, inner: &dyn Subscription) -> Vec<Result<()>> {
        inner.settle(batch).await
    }

    /// Around [`Subscription::close`].
    async fn close(&self, within: Duration, inner: &dyn Subscription) -> Result<()> {
        inner.close(within).await
    }
}

/// An engine behind a layer.
#[derive(Debug)]
pub(super) struct Layered<L> {
    pub(super) layer: Arc<L>,
    pub(super) inner: Arc<dyn BusEngine>,
}

#[async_trait]
impl<L: Layer> BusEngine for Layered<L> {
    fn info(&self) -> &Info {
        self.inner.info()
    }

    fn caps(&self) -> Caps {
        self.inner.caps()
    }

    async fn ensure(&self, topic: &str, options: &TopicOptions) -> Result<()> {
        self.inner.ensure(topic, options).await
    }

    async fn remove(&self, topic: &str, group: Option<&str>) -> Result<()> {
        self.inner.remove(topic, group).await
    }

    async fn publish(
        &self,
        topic: &str,
        messages: Vec<Message>,
        options: &PublishOptions,
    ) -> Vec<Result<Position>> {
        self.layer.publish(topic, messages, options, &*self.inner).await
    }

    async fn subscribe(&self, topic: &str, options: &SubscribeOptions) -> Result<Box<dyn Subscription>> {
        let inner = self.layer.subscribe(topic, options, &*self.inner).await?;
        Ok(Box::new(LayeredSubscription { layer: self.layer.clone(), inner }))
    }

    async fn stats(&self, topic: Option<&str>) -> Result<Vec<TopicStats>> {
        self.inner.stats(topic).await
    }

    async fn seek(&self, topic: &str, group: &str, to: Start) -> Result<()> {
        self.inner.seek(topic, group, to).await
    }

    async fn trim(&self, topic: &str) -> Result<u64> {
        self.inner.trim(topic).await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

#[derive(Debug)]
struct LayeredSubscription<L> {
    layer: Arc<L>,
    inner: Box<dyn Subscription>,
}

#[async_trait]
impl<L: Layer> Subscription for LayeredSubscription<L> {
    async fn next(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        self.layer.next(max, wait, &*self.inner).await
    }

    async fn settle(&self, batch: Vec<(Receipt, Settle)>) -> Vec<Result<()>> {
        self.layer.settle(batch, &*self.inner).await
    }

    async fn close(&self, within: Duration) -> Result<()> {
        self.layer.close(within, &*self.inner).await
    }
}
