//! Instances of services, there as long as they live.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::call::{LIMIT, Pause, answer_within};
use super::follow::Follow;
use super::name::own_keys;
use super::{Coord, CoordEngine, DEFAULT_TTL, LeaseId, Rev, Session, When, check_key};
use crate::{Error, Kind, Result};

/// A registration that lasted this long makes the next one begin without waiting.
const SETTLED: Duration = Duration::from_secs(10);

/// One process that serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// What tells it from the others of its service. By default made from the address, so that a process that was
    /// restarted takes the place of the one that died.
    pub id: String,
    /// Where it is called: `10.0.0.7:8080`, `http://10.0.0.7:8080`.
    pub address: String,
    /// Its share of the calls, where the balancer looks at it; 0 counts as 1. Default 100.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// Where it stands, for those who prefer what is near. Default empty.
    #[serde(default)]
    pub zone: String,
    /// Anything else. Default empty.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// Whether it takes calls. Default [`Health::Up`].
    #[serde(default)]
    pub health: Health,
}

fn default_weight() -> u32 {
    100
}

/// Whether an instance takes calls, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// It does.
    #[default]
    Up,
    /// It doesn't at the moment.
    Down,
    /// It is about to end.
    Leaving,
}

impl Instance {
    /// An instance at this address, with the defaults.
    pub fn new(address: impl Into<String>) -> Self {
        let address = address.into();
        let plain = |c: char| if c.is_ascii_alphanumeric() || ".-_:".contains(c) { c } else { '-' };
        Self {
            id: address.chars().map(plain).collect(),
            address,
            weight: default_weight(),
            zone: String::new(),
            metadata: BTreeMap::new(),
            health: Health::Up,
        }
    }
}

/// Under which a service's instances are.
pub(super) fn prefix(service: &str) -> Result<String> {
    own_keys("service", service)
}

fn key(service: &str, id: &str) -> Result<String> {
    if id.is_empty() || id.contains('/') {
        return Err(Error::new(Kind::Invalid, format!("the instance's id {id:?} is empty or has a '/'"))
            .op("register")
            .help("use its host and port, or any other text without '/'"));
    }
    let key = format!("{}{id}", prefix(service)?);
    check_key(&key).map(|()| key)
}

fn encode(instance: &Instance) -> Result<Bytes> {
    let no_json = |e| Error::new(Kind::Invalid, "the instance has no JSON form").op("register").source(e);
    serde_json::to_vec(instance).map(Bytes::from).map_err(no_json)
}

/// An instance that is registered, and stays so while this lives. Dropping it takes it out in the background;
/// [`Registration::deregister`] waits for that.
///
/// # Guarantees
/// * It has a lease of its own: a process that dies is out when that ends, 15 s and the engine's slack later unless asked
///   otherwise.
/// * It registers again, as long as it takes, after its lease was lost and after its key was deleted, at growing distances if
///   that happens over and over.
/// * An id that another process has taken meanwhile is left to it until it goes.
#[derive(Debug)]
pub struct Registration {
    wanted: watch::Sender<Instance>,
    registered: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Coord {
    /// Every service with what is registered of it now, also what takes no calls, by name and id. What isn't an instance is
    /// left out.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn services(&self) -> Result<BTreeMap<String, Vec<Instance>>> {
        let mut services: BTreeMap<String, Vec<Instance>> = BTreeMap::new();
        for entry in self.list("service/").await? {
            let place = entry.key.strip_prefix("service/").and_then(|rest| rest.rsplit_once("/~"));
            let instance = serde_json::from_slice(&entry.value);
            if let (Some((service, _)), Ok(instance)) = (place, instance) {
                services.entry(service.to_owned()).or_default().push(instance);
            }
        }
        Ok(services)
    }

    /// Registers an instance of a service, for as long as the answer lives. Call it inside a tokio runtime: it starts a task.
    ///
    /// # Errors
    /// `Invalid` for a name or id that makes no key; what the engine says if it can't be registered now.
    pub async fn register(&self, service: &str, instance: Instance) -> Result<Registration> {
        self.register_for(service, instance, DEFAULT_TTL.max(self.caps().min_ttl)).await
    }

    /// The same with a lease of this time: how long after its death it may still be listed.
    ///
    /// # Errors
    /// Those of [`Coord::register`]; `Invalid` if `ttl` is under [`Caps::min_ttl`](super::Caps::min_ttl).
    pub async fn register_for(
        &self,
        service: &str,
        instance: Instance,
        ttl: Duration,
    ) -> Result<Registration> {
        let key = key(service, &instance.id)?;
        let session = self.session(ttl).await?;
        let rev = session.put(&key, encode(&instance)?, When::Always).await?;
        let (wanted, wants) = watch::channel(instance);
        let registered = Arc::new(AtomicBool::new(true));
        let keeper = Keeper {
            engine: self.engine().clone(),
            key,
            ttl,
            wants,
            registered: registered.clone(),
            last: rev,
        };
        Ok(Registration { wanted, registered, task: tokio::spawn(keeper.run(session)) })
    }
}

impl Registration {
    /// Whether it is registered, as far as is known.
    pub fn is_registered(&self) -> bool {
        self.registered.load(Ordering::SeqCst)
    }

    /// The instance as it is to be seen.
    pub fn instance(&self) -> Instance {
        self.wanted.borrow().clone()
    }

    /// Changes what others see, in the background. The id stays.
    pub fn update(&self, change: impl FnOnce(&mut Instance)) {
        self.wanted.send_modify(|instance| {
            let id = instance.id.clone();
            change(instance);
            instance.id = id;
        });
    }

    /// Takes the instance out, and waits for that at most 15 s. It is [`Health::Leaving`] then, so that nobody takes it for
    /// dead, takes no more calls, and is gone altogether when its lease has run out.
    ///
    /// # Errors
    /// `Timeout` if the engine couldn't be told in time: its lease ends by itself.
    pub async fn deregister(self) -> Result<()> {
        let Self { wanted, task, .. } = self;
        drop(wanted);
        let late = || {
            Error::new(Kind::Timeout, "the registry couldn't be told in time")
                .op("deregister")
                .help("the instance goes when its lease ends")
        };
        match tokio::time::timeout(LIMIT * 3, task).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(late()),
        }
    }
}

/// The task that keeps one instance registered.
struct Keeper {
    engine: Arc<dyn CoordEngine>,
    key: String,
    ttl: Duration,
    wants: watch::Receiver<Instance>,
    registered: Arc<AtomicBool>,
    /// The last change of the key made here.
    last: Rev,
}

/// Why a registration is to be made again.
enum Again {
    /// Others are to see something else.
    Changed,
    /// It isn't there any more.
    Gone,
    /// It isn't wanted any more.
    Unwanted,
}

impl Keeper {
    async fn run(mut self, mut session: Session) {
        let mut pause = Pause::default();
        loop {
            let begun = Instant::now();
            match self.until_again(&session).await {
                Again::Changed => {}
                Again::Unwanted => return self.leave(session).await,
                Again::Gone => {
                    self.registered.store(false, Ordering::SeqCst);
                    tracing::warn!(key = self.key, "the instance isn't registered any more; doing so again");
                    if begun.elapsed() >= SETTLED {
                        pause = Pause::default();
                    } else {
                        pause.wait(None).await;
                    }
                }
            }
            loop {
                match self.register(&session).await {
                    Ok(None) => break,
                    Ok(Some(new)) => session = new,
                    Err(error) => {
                        tracing::debug!(key = self.key, %error, "could not register; trying again");
                        pause.wait(Some(&error)).await;
                    }
                }
                if self.wants.has_changed().is_err() {
                    return self.leave(session).await;
                }
            }
        }
    }

    /// One attempt; a new session if the old one is over, to try again with.
    async fn register(&mut self, session: &Session) -> Result<Option<Session>> {
        if !session.is_alive() {
            return Session::begin(self.engine.clone(), self.ttl).await.map(Some);
        }
        let value = encode(&self.wants.borrow_and_update())?;
        self.last = session.put(&self.key, value, When::Always).await?;
        self.registered.store(true, Ordering::SeqCst);
        Ok(None)
    }

    async fn until_again(&mut self, session: &Session) -> Again {
        let mut follow = Follow::idle(self.engine.clone(), &self.key);
        let own = session.lease();
        loop {
            let news = tokio::select! {
                _ = session.lost() => return Again::Gone,
                changed = self.wants.changed() => {
                    return if changed.is_ok() { Again::Changed } else { Again::Unwanted };
                }
                news = follow.next() => news,
            };
            let there = follow.entries().get(&self.key);
            match (news, there) {
                (Ok(()), None) => return Again::Gone,
                (Ok(()), Some(entry)) if entry.lease.as_ref() != Some(own) => {
                    self.taken(entry.lease.as_ref())
                }
                // What can't be seen now is seen later; the session tells if it lasts.
                (Ok(()), Some(_)) | (Err(_), _) => {}
            }
        }
    }

    fn taken(&self, by: Option<&LeaseId>) {
        let by = by.map_or("nobody's", |lease| lease.0.as_str());
        tracing::warn!(key = self.key, lease = by, "another process has registered under the same id");
    }

    /// Says that it leaves, and lets that stand until the lease runs out: a watch may tell only the last of several
    /// changes, and who sees nothing but a key that vanishes takes the instance for dead.
    async fn leave(self, session: Session) {
        self.registered.store(false, Ordering::SeqCst);
        let leaving = Instance { health: Health::Leaving, ..self.wants.borrow().clone() };
        let said = async { session.put(&self.key, encode(&leaving)?, When::Is(self.last)).await };
        match said.await {
            Ok(_) => session.abandon(),
            Err(error) => {
                tracing::debug!(key = self.key, %error, "could not take leave");
                drop(answer_within(LIMIT, session.close()).await);
            }
        }
    }
}

#[cfg(test)]
mod tests;
