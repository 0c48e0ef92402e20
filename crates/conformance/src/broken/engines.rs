//! Faults in what layers don't see: seeking, trimming, closing, capabilities.

use std::sync::Arc;

use async_trait::async_trait;
use linchpin::Result;
use linchpin::bus::{
    Bus, BusEngine, Caps, Info, Message, Position, PublishOptions, Start, SubscribeOptions, Subscription,
    TopicOptions, TopicStats,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    IgnoresSeek,
    TrimsTooMuch,
    NeverTrims,
    NeverCloses,
    EnsuresAnything,
    Understates,
}

pub(super) fn ignore_seek(bus: Bus) -> Bus {
    wrap(bus, Fault::IgnoresSeek)
}

pub(super) fn trim_too_much(bus: Bus) -> Bus {
    wrap(bus, Fault::TrimsTooMuch)
}

pub(super) fn never_trim(bus: Bus) -> Bus {
    wrap(bus, Fault::NeverTrims)
}

pub(super) fn never_close(bus: Bus) -> Bus {
    wrap(bus, Fault::NeverCloses)
}

pub(super) fn ensure_anything(bus: Bus) -> Bus {
    wrap(bus, Fault::EnsuresAnything)
}

/// A bus that says it can do nothing, and does everything.
pub(crate) fn understate(bus: Bus) -> Bus {
    wrap(bus, Fault::Understates)
}

fn wrap(bus: Bus, fault: Fault) -> Bus {
    Bus::new(Arc::new(Faulty { inner: bus.engine().clone(), fault }))
}

#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn BusEngine>,
    fault: Fault,
}

#[async_trait]
impl BusEngine for Faulty {
    fn info(&self) -> &Info {
        self.inner.info()
    }

    fn caps(&self) -> Caps {
        if self.fault != Fault::Understates {
            return self.inner.caps();
        }
        Caps {
            durable: false,
            shared: false,
            groups: false,
            broadcast: false,
            ordered: false,
            redelivery: false,
            delay: false,
            replay: false,
            metadata: false,
            retention: false,
            offsets: false,
            failover: false,
        }
    }

    async fn ensure(&self, topic: &str, options: &TopicOptions) -> Result<()> {
        let mut options = options.clone();
        if self.fault == Fault::EnsuresAnything
            && let Ok(there) = self.inner.stats(Some(topic)).await
        {
            options.partitions = there[0].options.partitions;
        }
        self.inner.ensure(topic, &options).await
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
        self.inner.publish(topic, messages, options).await
    }

    async fn subscribe(&self, topic: &str, options: &SubscribeOptions) -> Result<Box<dyn Subscription>> {
        self.inner.subscribe(topic, options).await
    }

    async fn stats(&self, topic: Option<&str>) -> Result<Vec<TopicStats>> {
        self.inner.stats(topic).await
    }

    async fn seek(&self, topic: &str, group: &str, to: Start) -> Result<()> {
        match self.fault {
            Fault::IgnoresSeek => Ok(()),
            _ => self.inner.seek(topic, group, to).await,
        }
    }

    async fn trim(&self, topic: &str) -> Result<u64> {
        match self.fault {
            Fault::NeverTrims => return Ok(0),
            // As if every group had settled everything.
            Fault::TrimsTooMuch => {
                for group in &self.inner.stats(Some(topic)).await?[0].groups {
                    self.inner.seek(topic, &group.group, Start::Newest).await?;
                }
            }
            _ => {}
        }
        self.inner.trim(topic).await
    }

    async fn close(&self) -> Result<()> {
        match self.fault {
            Fault::NeverCloses => Ok(()),
            _ => self.inner.close().await,
        }
    }
}
