//! What a case gets to work with: an engine nobody else uses.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use linchpin::Open;
use linchpin::bus::{Bus, TopicOptions};
use tempfile::TempDir;
use tokio::task::spawn_blocking;

use crate::case::Class;
use crate::child::Child;
use crate::server::{self, Victim};
use crate::target::{Place, Target};

/// How long requests may take where servers die: what waits for the dead is to be told soon.
const TIMEOUT: &str = "timeout=3s";

/// An open bus on an engine that is the case's alone.
pub(crate) struct World {
    pub(crate) bus: Bus,
    url: String,
    wrap: fn(Bus) -> Bus,
    child: &'static str,
    victim: Option<Victim>,
    _dir: Arc<TempDir>,
}

impl World {
    /// Opens `target` afresh, for a case of this class. `child` is the program that plays other processes.
    pub(crate) async fn open(
        target: &'static Target,
        class: Class,
        child: &'static str,
        wrap: fn(Bus) -> Bus,
    ) -> Self {
        let dir = tempfile::Builder::new().prefix("linchpin-").tempdir().unwrap();
        let victim = match class.server(target).filter(|_| class.does_harm()) {
            Some(engine) => {
                Some(spawn_blocking(move || Victim::take(engine, class == Class::Cut)).await.unwrap())
            }
            None => None,
        };
        let server = match (&victim, target.server) {
            (Some(victim), _) => victim.url(),
            (None, Some(engine)) => {
                spawn_blocking(move || server::shared(engine)).await.unwrap().url().to_owned()
            }
            (None, None) => String::new(),
        };
        let mut url = (target.url)(&Place { dir: Path::new(dir.path()), cell: &cell(), server: &server });
        if victim.is_some() {
            url += if url.contains('?') { "&" } else { "?" };
            url += TIMEOUT;
        }
        let bus = wrap(Bus::open(&url).await.unwrap());
        Self { bus, url, wrap, child, victim, _dir: Arc::new(dir) }
    }

    /// The server, which is this case's to harm.
    pub(crate) fn server(&self) -> &Victim {
        self.victim.as_ref().expect("only cases of the classes outage, cut and failover have one")
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

/// A name that no other cell of this run has, nor one of another run on the same server.
fn cell() -> String {
    static CELLS: AtomicU64 = AtomicU64::new(0);
    format!("c{}_{}", std::process::id(), CELLS.fetch_add(1, Ordering::Relaxed))
}
