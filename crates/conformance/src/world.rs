//! What a case gets to work with: an engine nobody else uses.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use linchpin::bus::{Bus, TopicOptions};
use linchpin::time::SharedClock;
use linchpin::{Coord, ENGINES, Ids, Open, Scheme};
use tempfile::TempDir;
use tokio::task::spawn_blocking;

use crate::case::{Class, Need};
use crate::child::Child;
use crate::server::{self, Victim};
use crate::target::{MakeUrl, Place, Source, Target};

/// How long requests may take where servers die: what waits for the dead is to be told soon.
const TIMEOUT: &str = "timeout=3s";

/// Where a case's engine is: the case's alone.
pub(crate) struct Ground {
    url: String,
    child: &'static str,
    victim: Option<Victim>,
    dir: Arc<TempDir>,
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
            (Some(victim), _) => add(&victim.url(), TIMEOUT),
            (None, Some(engine)) => {
                spawn_blocking(move || server::shared(engine)).await.unwrap().url().to_owned()
            }
            (None, None) => String::new(),
        };
        let place = Place { dir: Path::new(dir.path()), cell: &cell(), server: &server };
        let url = url.expect("only cells that there are")(&place);
        Self { url, child, victim, dir: Arc::new(dir) }
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

/// What issues ids that are the case's alone.
pub(crate) struct Issuer {
    pub(crate) source: &'static Source,
    /// What worker numbers are leased from. Open all the time: one in memory lives as long as somebody has it open.
    pub(crate) coord: Option<Coord>,
    ground: Ground,
    tamper: &'static Tamper,
}

/// How a fault gets into ids: another table of engines, or another URL.
#[derive(Debug)]
pub(crate) struct Tamper {
    pub(crate) schemes: &'static [Scheme],
    pub(crate) url: fn(String) -> String,
}

/// Without a fault.
pub(crate) static SOUND: Tamper = Tamper { schemes: ENGINES, url: |url| url };

impl Issuer {
    /// Makes room on `target` for a case of this class.
    pub(crate) async fn make(
        target: &'static Target,
        class: Class,
        child: &'static str,
        tamper: &'static Tamper,
    ) -> Self {
        let source = target.ids.as_ref().expect("only cells that there are");
        let ground = Ground::make(target, Some(source.url), class, child).await;
        let coord = match source.can.contains(&Need::Leased) {
            true => Some(Coord::open_with(&ground.url, tamper.schemes).await.unwrap()),
            false => None,
        };
        Self { source, coord, ground, tamper }
    }

    /// The URL for the process of this number, with more options.
    pub(crate) fn url(&self, process: usize, options: &str) -> String {
        let url = match self.source.can.contains(&Need::Leased) {
            true => format!("snowflake://?coord={}", encoded(&self.ground.url)),
            false => self.ground.url.replace("{n}", &process.to_string()),
        };
        (self.tamper.url)(add(&url, options))
    }

    /// A handle as the process of this number has it, or why there is none.
    pub(crate) async fn try_open(&self, process: usize, options: &str) -> linchpin::Result<Ids> {
        Ids::open_with(&self.url(process, options), self.tamper.schemes).await
    }

    /// A handle as the process of this number has it.
    pub(crate) async fn open(&self, process: usize) -> Ids {
        self.try_open(process, "").await.unwrap()
    }

    /// The same as the first process, on this clock.
    pub(crate) async fn at(&self, clock: &SharedClock, options: &str) -> linchpin::Result<Ids> {
        Ids::open_with_clock(&self.url(0, options), self.tamper.schemes, clock.clone()).await
    }

    /// Another process, of this number.
    pub(crate) async fn child(&self, process: usize, options: &str) -> Child {
        Child::start(self.ground.child, "ids", &self.url(process, options)).await
    }

    /// The coordination that numbers are leased from, to look at by itself.
    pub(crate) fn into_space(self) -> Space {
        let Self { coord, ground, .. } = self;
        Space { coord: coord.expect("numbers are leased from it"), ground, wrap: |coord| coord }
    }

    /// A folder of the case's own.
    pub(crate) fn dir(&self) -> &Path {
        self.ground.dir.path()
    }

    /// The server, which is this case's to harm.
    pub(crate) fn server(&self) -> &Victim {
        self.ground.server()
    }
}

/// The URL with these options, too.
fn add(url: &str, options: &str) -> String {
    match options {
        "" => url.to_owned(),
        _ => format!("{url}{}{options}", if url.contains('?') { '&' } else { '?' }),
    }
}

/// As the value of an option.
fn encoded(url: &str) -> String {
    let escaped = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    url.bytes().map(escaped).collect()
}

/// A name that no other cell of this run has, nor one of another run on the same server.
fn cell() -> String {
    static CELLS: AtomicU64 = AtomicU64::new(0);
    format!("c{}_{}", std::process::id(), CELLS.fetch_add(1, Ordering::Relaxed))
}
