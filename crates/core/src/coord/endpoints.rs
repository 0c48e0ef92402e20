//! The instances of a service, live, to pick from.

mod list;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use metrics::gauge;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::list::List;
use super::balance::{Balance, Picked, Pool};
use super::follow::Follow;
use super::{Coord, Instance, registry};
use crate::telemetry::ENDPOINTS;
use crate::{Error, Kind, Result};

/// How [`Endpoints`] are kept and picked from.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointsOptions {
    /// Who is called next. Default [`Balance::PowerOfTwo`].
    pub balance: Balance,
    /// Where the last known list is kept for a start without the registry. Default none.
    pub file: Option<PathBuf>,
    /// Instances that vanish without taking leave are kept, as suspects, if more than this share of all do so within
    /// [`EndpointsOptions::window`], and at least two. Default 0.5; 1 switches that off.
    pub share: f64,
    /// See [`EndpointsOptions::share`]. Default 15 s.
    pub window: Duration,
    /// How long suspects are kept, from when they vanished. Default 60 s.
    pub hold: Duration,
}

impl Default for EndpointsOptions {
    fn default() -> Self {
        Self {
            balance: Balance::default(),
            file: None,
            share: 0.5,
            window: Duration::from_secs(15),
            hold: Duration::from_secs(60),
        }
    }
}

/// The instances of a service, kept in step with the registry. Cheap to clone; when the last clone is dropped, following ends.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # use linchpin_core::coord::{Coord, Instance, MemoryCoord};
/// # let coord = Coord::new(MemoryCoord::new());
/// let registration = coord.register("time", Instance::new("127.0.0.1:7001")).await?;
///
/// let time = coord.endpoints("time").await?;
/// let server = time.pick().unwrap();
/// println!("calling {}", server.address());
/// server.succeeded(std::time::Duration::from_millis(2));
/// # Ok::<(), linchpin_core::Error>(()) }).unwrap();
/// ```
///
/// # Guarantees
/// * An instance that takes leave is gone as soon as the registry tells; one that dies, when its lease has ended.
/// * **While the registry can't be reached the last known list stays**, marked stale; with a file, also across a restart. An
///   empty list is never written over one that isn't.
/// * **Mass expiry.** A registry that loses its leases, or is cut off from the instances, looks as if they had all died at
///   once. So if more than half of all, and at least two, vanish within 15 s without having taken leave, those are kept as
///   suspects, and picked like the others. A suspect is let go within a second of the first call that fails on it
///   ([`Picked::failed`]), and at the latest 60 s after it vanished; one that comes back is a suspect no more. So a
///   real mass death is listed for a minute at most. [`EndpointsOptions`] has the figures.
/// * Picking takes no lock and allocates nothing.
#[derive(Debug, Clone)]
pub struct Endpoints {
    shared: Arc<Shared>,
    changes: watch::Receiver<()>,
}

#[derive(Debug)]
struct Shared {
    service: String,
    options: EndpointsOptions,
    pool: ArcSwap<Pool>,
    stale: AtomicBool,
    round: AtomicU64,
}

/// An instance and whether the registry lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The instance.
    pub instance: Instance,
    /// The registry doesn't list it any more: see [`Endpoints`].
    pub suspect: bool,
}

impl Coord {
    /// The instances of a service, live. Call it inside a tokio runtime: it starts a task.
    ///
    /// # Errors
    /// `Invalid` for a name that makes no key; what the engine says if the registry can't be reached now.
    pub async fn endpoints(&self, service: &str) -> Result<Endpoints> {
        self.endpoints_with(service, EndpointsOptions::default()).await
    }

    /// The same, with options. With a file that holds a list, it begins also without the registry.
    ///
    /// # Errors
    /// Those of [`Coord::endpoints`]; `Config` for options out of range.
    pub async fn endpoints_with(&self, service: &str, options: EndpointsOptions) -> Result<Endpoints> {
        check(&options)?;
        let prefix = registry::prefix(service)?;
        let mut list = List::new(&prefix, options.clone());
        let follow = match Follow::begin(self.engine().clone(), &prefix).await {
            Ok(follow) => {
                list.see(follow.entries(), Instant::now());
                follow
            }
            Err(error) if list.load().await => {
                tracing::warn!(service, %error, "the registry is away: beginning with the last known list");
                Follow::idle(self.engine().clone(), &prefix)
            }
            Err(error) => return Err(error),
        };
        let (changed, changes) = watch::channel(());
        let shared = Arc::new(Shared {
            service: service.to_owned(),
            pool: ArcSwap::new(Arc::new(list.pool())),
            stale: AtomicBool::new(list.is_stale()),
            round: AtomicU64::new(fastrand::u64(..)),
            options,
        });
        list.take_news();
        list.save().await;
        tokio::spawn(Keeper { shared: shared.clone(), list: Mutex::new(list), changed }.run(follow));
        Ok(Endpoints { shared, changes })
    }
}

fn check(options: &EndpointsOptions) -> Result<()> {
    let share = (0.0..=1.0).contains(&options.share);
    let factor = match options.balance {
        Balance::ConsistentHash(factor) => factor.is_finite() && factor >= 1.0,
        _ => true,
    };
    if share && factor {
        return Ok(());
    }
    Err(Error::new(Kind::Config, format!("share {}, balance {:?}", options.share, options.balance))
        .op("endpoints")
        .help("the share is between 0 and 1, the factor of a consistent hash at least 1"))
}

impl Endpoints {
    /// The instance to call next; `None` if there is none that takes calls.
    pub fn pick(&self) -> Option<Picked> {
        self.pick_by(None)
    }

    /// The instance to call for this key, under [`Balance::ConsistentHash`]; like [`Endpoints::pick`] otherwise.
    pub fn pick_for(&self, key: &[u8]) -> Option<Picked> {
        self.pick_by(Some(key))
    }

    fn pick_by(&self, key: Option<&[u8]>) -> Option<Picked> {
        let shared = &*self.shared;
        let pool = shared.pool.load();
        pool.pick(shared.options.balance, &shared.round, key).cloned().map(Picked::new)
    }

    /// Those that take calls, in the order of their ids.
    pub fn list(&self) -> Vec<Endpoint> {
        let pool = self.shared.pool.load();
        let all = pool.nodes().iter();
        all.map(|node| Endpoint { instance: node.instance.clone(), suspect: node.suspect }).collect()
    }

    /// Whether the registry can't be reached, so that the list may be old.
    pub fn is_stale(&self) -> bool {
        self.shared.stale.load(Ordering::SeqCst)
    }

    /// Waits for a change of the list, or of whether it is stale, that this clone hasn't been told of. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            // The task lives as long as its runtime, and nothing changes any more.
            std::future::pending::<()>().await;
        }
    }
}

/// What keeps the list in step.
struct Keeper {
    shared: Arc<Shared>,
    list: Mutex<List>,
    changed: watch::Sender<()>,
}

impl Keeper {
    async fn run(self, follow: Follow) {
        // Both go on side by side: a tick must not cut short what asks the engine.
        tokio::select! {
            () = self.follow(follow) => {}
            () = self.tick() => {}
            () = self.changed.closed() => {}
        }
    }

    async fn follow(&self, mut follow: Follow) {
        loop {
            match follow.next().await {
                Ok(()) => self.list().see(follow.entries(), Instant::now()),
                Err(error) => self.list().lose_sight(&self.shared.service, &error),
            }
            self.publish().await;
        }
    }

    async fn tick(&self) {
        let mut tick = interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = tick.tick().await;
            self.list().rest();
            self.list().forget(now);
            self.publish().await;
        }
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the list if there is news, and keeps it for the next start.
    async fn publish(&self) {
        let save = {
            let mut list = self.list();
            if !list.take_news() {
                return;
            }
            let pool = list.pool();
            let labels = [("service", self.shared.service.clone())];
            gauge!(ENDPOINTS, &labels).set(pool.nodes().len() as f64);
            self.shared.pool.store(Arc::new(pool));
            self.shared.stale.store(list.is_stale(), Ordering::SeqCst);
            self.changed.send_replace(());
            list.save()
        };
        save.await;
    }
}

#[cfg(test)]
mod tests;
