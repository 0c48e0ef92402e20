//! What is known of a service's instances, and the rule against mass expiry.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::Instant;

use super::EndpointsOptions;
use crate::Error;
use crate::coord::balance::{Load, Node, Pool};
use crate::coord::{Entry, Health, Instance, Rev};

/// An instance with what this process knows of it.
#[derive(Debug, Clone)]
struct Known {
    node: Arc<Node>,
    /// The change that told of it; none if a file did.
    rev: Option<Rev>,
}

/// An instance that vanished without taking leave.
#[derive(Debug)]
struct Missing {
    known: Known,
    since: Instant,
    /// It is kept, because it didn't vanish alone.
    kept: bool,
}

/// What is known, by id.
#[derive(Debug)]
pub(super) struct List {
    prefix: String,
    options: EndpointsOptions,
    /// What the registry lists, or listed when it was seen last.
    listed: BTreeMap<String, Known>,
    missing: BTreeMap<String, Missing>,
    /// From a file: who isn't there any more may have left long ago.
    old: bool,
    stale: bool,
    news: bool,
    total: Arc<AtomicUsize>,
}

impl List {
    pub(super) fn new(prefix: &str, options: EndpointsOptions) -> Self {
        Self {
            prefix: prefix.to_owned(),
            options,
            listed: BTreeMap::new(),
            missing: BTreeMap::new(),
            old: false,
            stale: false,
            news: false,
            total: Arc::default(),
        }
    }

    pub(super) fn is_stale(&self) -> bool {
        self.stale
    }

    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// Takes over what the registry lists.
    pub(super) fn see(&mut self, entries: &BTreeMap<String, Entry>, now: Instant) {
        let mut before = std::mem::take(&mut self.listed);
        for entry in entries.values() {
            let Some(id) = entry.key.strip_prefix(&self.prefix) else { continue };
            let known = match before.remove_entry(id) {
                // Most haven't changed.
                Some((id, known)) if known.rev == Some(entry.rev) => {
                    self.listed.insert(id, known);
                    continue;
                }
                known => known,
            };
            let Ok(instance) = serde_json::from_slice::<Instance>(&entry.value) else {
                tracing::warn!(key = entry.key, "not an instance; left out");
                continue;
            };
            let known = known.map(|(_, known)| known).or_else(|| Some(self.missing.remove(id)?.known));
            let load = known.map(|known| known.node.load.clone()).unwrap_or_default();
            let known = self.known(instance, load, Some(entry.rev));
            self.listed.insert(id.to_owned(), known);
        }
        let dead = before.into_iter().filter(|(_, known)| known.node.instance.health != Health::Leaving);
        if !self.old {
            self.missing.extend(dead.map(|(id, known)| {
                known.node.load.failed.store(false, Ordering::Relaxed);
                (id, Missing { known, since: now, kept: false })
            }));
        }
        (self.old, self.stale, self.news) = (false, false, true);
        self.protect(now);
    }

    /// Keeps what vanished of late if that is too much to be true.
    fn protect(&mut self, now: Instant) {
        let EndpointsOptions { share, window, .. } = self.options;
        let late = |missing: &Missing| now.duration_since(missing.since) <= window;
        let vanished = self.missing.values().filter(|missing| late(missing)).count();
        let all = self.listed.len() + vanished;
        if vanished < 2 || vanished as f64 <= share * all as f64 {
            return;
        }
        for missing in self.missing.values_mut().filter(|missing| late(missing)) {
            missing.kept = true;
        }
        tracing::warn!(vanished, all, "too many instances vanished at once: kept as suspects");
    }

    /// The registry can't be seen: what is known stays.
    pub(super) fn lose_sight(&mut self, service: &str, error: &Error) {
        if !self.stale {
            tracing::warn!(service, %error, "the registry is away: the last known list stays");
            (self.stale, self.news) = (true, true);
        }
    }

    /// Lets go suspects that failed, and what vanished too long ago.
    pub(super) fn forget(&mut self, now: Instant) {
        let hold = self.options.hold;
        let before = self.missing.len();
        self.missing.retain(|_, missing| {
            let failed = missing.kept && missing.known.node.load.failed.load(Ordering::Relaxed);
            !failed && now.duration_since(missing.since) < hold
        });
        self.news |= self.missing.len() < before;
    }

    pub(super) fn rest(&self) {
        let missing = self.missing.values().map(|missing| &missing.known);
        self.listed.values().chain(missing).for_each(|known| known.node.load.rest());
    }

    fn known(&self, instance: Instance, load: Arc<Load>, rev: Option<Rev>) -> Known {
        Known { node: self.node(instance, false, load), rev }
    }

    fn node(&self, instance: Instance, suspect: bool, load: Arc<Load>) -> Arc<Node> {
        Arc::new(Node::new(instance, suspect, load, self.total.clone()))
    }

    /// Those that take calls.
    pub(super) fn pool(&self) -> Pool {
        let listed = self.listed.iter().map(|(id, known)| (id, known, false));
        let kept = self.missing.iter().filter(|(_, missing)| missing.kept);
        let kept = kept.map(|(id, missing)| (id, &missing.known, true));
        let mut all: Vec<_> = listed.chain(kept).collect();
        all.retain(|(_, known, _)| known.node.instance.health == Health::Up);
        all.sort_by_key(|(id, ..)| *id);
        let node = |(_, known, suspect): (&String, &Known, bool)| match suspect {
            false => known.node.clone(),
            true => self.node(known.node.instance.clone(), true, known.node.load.clone()),
        };
        Pool::new(all.into_iter().map(node).collect(), self.options.balance, self.total.clone())
    }

    /// Begins with what is in the file; whether there was something.
    pub(super) async fn load(&mut self) -> bool {
        let Some(file) = self.options.file.clone() else { return false };
        let read = move || std::fs::read(file).ok();
        let Some(json) = tokio::task::spawn_blocking(read).await.ok().flatten() else { return false };
        let Ok(instances) = serde_json::from_slice::<Vec<Instance>>(&json) else { return false };
        let known = |instance: Instance| (instance.id.clone(), self.known(instance, Arc::default(), None));
        self.listed = instances.into_iter().map(known).collect();
        (self.old, self.stale) = (true, true);
        !self.listed.is_empty()
    }

    /// Keeps the list for the next start. That it can't be written is no reason to stop.
    pub(super) fn save(&self) -> impl Future<Output = ()> + use<> {
        let file = self.options.file.clone().filter(|_| !self.stale && !self.listed.is_empty());
        let written = file.and_then(|file| {
            let instances: Vec<_> = self.listed.values().map(|known| &known.node.instance).collect();
            Some((file, serde_json::to_vec_pretty(&instances).ok()?))
        });
        async move {
            let Some((file, json)) = written else { return };
            let shown = file.display().to_string();
            match tokio::task::spawn_blocking(move || replace(&file, &json)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(file = shown, %error, "could not keep the list of instances")
                }
                Err(error) => tracing::warn!(file = shown, %error, "could not keep the list of instances"),
            }
        }
    }
}

/// Writes beside the file and moves it there, so that a crash leaves the old one or the new one.
fn replace(file: &Path, json: &[u8]) -> std::io::Result<()> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    std::fs::write(&beside, json)?;
    std::fs::rename(&beside, file)
}
