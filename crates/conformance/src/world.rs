//! What a case gets to work with: an engine nobody else uses.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use linchpin::bus::{Bus, TopicOptions};
use linchpin::{Coord, Open};
use tempfile::TempDir;
use tokio::task::spawn_blocking;

use crate::case::Class;
use crate::child::Child;
use crate::server::{self, Victim};
use crate::target::{MakeUrl, Place, Target};

/// How long requests may take where servers die: what waits for the dead is to be told soon.
const TIMEOUT: &str = "timeout=3s";

/// Where a case's engine is: the case's alone.
pub(crate) struct Ground {
    url: String,
    child: &'static str,
    victim: Option<Victim>,
    _dir: Arc<TempDir>,
}

impl Ground {
    /// Makes room on `target` for a case of this class. `child` is the program that plays other processes.
    async fn make(target: &'static Target, url: Option<MakeUrl>, class: Class, child: &'static str) -> Self {
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
        let place = Place { dir: Path::new(dir.path()), cell: &cell(), server: &server };
        let mut url = url.expect("only cells that there are")(&place);
        if victim.is_some() {
            url += if url.contains('?') { "&" } else { "?" };
            url += TIMEOUT;
        }
        Self { url, child, victim, _dir: Arc::new(dir) }
    }

    fn server(&self) -> &Victim {
        self.victim.as_ref().expect("only cases of the classes outage, cut and failover have one")
    }
}

/// An open bus on an engine that is the case's alone.
pub(crate) struct World {
    pub(crate) bus: Bus,
    ground: Ground,
    wrap: fn(Bus) -> Bus,
}

impl World {
    /// Opens `target` afresh, for a case of this class.
    pub(crate) async fn open(
        target: &'static Target,
        class: Class,
        child: &'static str,
        wrap: fn(Bus) -> Bus,
    ) -> Self {
        let ground = Ground::make(target, target.bus, class, child).await;
        let bus = wrap(Bus::open(&ground.url).await.unwrap());
        Self { bus, ground, wrap }
    }

    /// The server, which is this case's to harm.
    pub(crate) fn server(&self) -> &Victim {
        self.ground.server()
    }

    /// Closes the engine and opens it again, as a restart of its only user does.
    pub(crate) async fn reopen(&mut self) {
        self.bus.close().await.unwrap();
        self.bus = (self.wrap)(Bus::open(&self.ground.url).await.unwrap());
    }

    /// Another process that uses the same engine.
    pub(crate) async fn child(&self) -> Child {
        Child::start(self.ground.child, "bus", &self.ground.url).await
    }

    /// Creates a topic with this many partitions.
    pub(crate) async fn topic(&self, name: &str, partitions: u32) {
        self.bus.ensure(name, &TopicOptions { partitions, ..TopicOptions::default() }).await.unwrap();
    }
}

/// Open coordination on an engine that is the case's alone.
pub(crate) struct Space {
    pub(crate) coord: Coord,
    ground: Ground,
    wrap: fn(Coord) -> Coord,
}

impl Space {
    /// Opens `target` afresh, for a case of this class.
    pub(crate) async fn open(
        target: &'static Target,
        class: Class,
        child: &'static str,
        wrap: fn(Coord) -> Coord,
    ) -> Self {
        let ground = Ground::make(target, target.coord, class, child).await;
        let coord = wrap(Coord::open(&ground.url).await.unwrap());
        Self { coord, ground, wrap }
    }

    /// The server, which is this case's to harm.
    pub(crate) fn server(&self) -> &Victim {
        self.ground.server()
    }

    /// Another handle, with connections of its own; the same one where handles share nothing.
    pub(crate) async fn other(&self) -> Coord {
        if !self.coord.caps().shared {
            return self.coord.clone();
        }
        (self.wrap)(Coord::open(&self.ground.url).await.unwrap())
    }

    /// Lets go of the engine and opens it again, as a restart of its only user does.
    pub(crate) async fn reopen(self) -> Self {
        let Self { coord, ground, wrap } = self;
        drop(coord);
        let coord = wrap(Coord::open(&ground.url).await.unwrap());
        Self { coord, ground, wrap }
    }

    /// Another process that uses the same engine.
    pub(crate) async fn child(&self) -> Child {
        Child::start(self.ground.child, "coord", &self.ground.url).await
    }
}

/// A name that no other cell of this run has, nor one of another run on the same server.
fn cell() -> String {
    static CELLS: AtomicU64 = AtomicU64::new(0);
    format!("c{}_{}", std::process::id(), CELLS.fetch_add(1, Ordering::Relaxed))
}
