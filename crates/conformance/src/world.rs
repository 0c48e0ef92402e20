//! What a case gets to work with: an engine nobody else uses.

use std::path::Path;
use std::sync::Arc;

use linchpin::Open;
use linchpin::bus::{Bus, TopicOptions};
use tempfile::TempDir;

use crate::child::Child;
use crate::target::Target;

/// An open bus on an engine that is the case's alone.
pub(crate) struct World {
    pub(crate) bus: Bus,
    url: String,
    wrap: fn(Bus) -> Bus,
    child: &'static str,
    _dir: Arc<TempDir>,
}

impl World {
    /// Opens `target` afresh. `child` is the program that plays other processes.
    pub(crate) async fn open(target: &Target, child: &'static str, wrap: fn(Bus) -> Bus) -> Self {
        let dir = tempfile::Builder::new().prefix("linchpin-").tempdir().unwrap();
        let url = (target.url)(Path::new(dir.path()));
        let bus = wrap(Bus::open(&url).await.unwrap());
        Self { bus, url, wrap, child, _dir: Arc::new(dir) }
    }

    /// Closes the engine and opens it again, as a restart of its only user does.
    pub(crate) async fn reopen(&mut self) {
        self.bus.close().await.unwrap();
        self.bus = (self.wrap)(Bus::open(&self.url).await.unwrap());
    }

    /// Another process that uses the same engine.
    pub(crate) async fn child(&self) -> Child {
        Child::start(self.child, &self.url).await
    }

    /// Creates a topic with this many partitions.
    pub(crate) async fn topic(&self, name: &str, partitions: u32) {
        self.bus.ensure(name, &TopicOptions { partitions, ..TopicOptions::default() }).await.unwrap();
    }
}
