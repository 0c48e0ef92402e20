//! Who watches what, over one connection after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::path::Scope;

/// The watches of an engine.
#[derive(Debug, Default)]
pub(super) struct Hub(Mutex<Watches>);

#[derive(Debug, Default)]
struct Watches {
    last: u64,
    all: BTreeMap<u64, Arc<Inbox>>,
}

/// What one watch was told and hasn't looked at.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) scope: Scope,
    told: Mutex<Told>,
    pub(super) news: Notify,
}

#[derive(Debug, Default)]
struct Told {
    /// Nodes that changed.
    paths: BTreeSet<String>,
    /// The connection went: anything may have changed.
    lost: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// From now on the watch is told. It begins as if its connection had gone.
    pub(super) fn enter(&self, scope: Scope) -> (u64, Arc<Inbox>) {
        let told = Mutex::new(Told { lost: true, ..Told::default() });
        let inbox = Arc::new(Inbox { scope, told, news: Notify::new() });
        let mut watches = lock(&self.0);
        watches.last += 1;
        let number = watches.last;
        watches.all.insert(number, inbox.clone());
        (number, inbox)
    }

    /// The watch ends; whether it was the last on its directory. `last` runs before another can enter.
    pub(super) fn leave(&self, number: u64, last: impl FnOnce(&str)) {
        let mut watches = lock(&self.0);
        let Some(gone) = watches.all.remove(&number) else { return };
        if !watches.all.values().any(|inbox| inbox.scope.dir == gone.scope.dir) {
            last(&gone.scope.dir);
        }
    }

    /// A node changed.
    pub(super) fn event(&self, path: &str) {
        for inbox in lock(&self.0).all.values() {
            if path.strip_prefix(inbox.scope.dir.as_str()).is_some_and(|rest| rest.starts_with('/')) {
                lock(&inbox.told).paths.insert(path.to_owned());
                inbox.news.notify_one();
            }
        }
    }

    /// The connection went, and the watches with it.
    pub(super) fn lost(&self) {
        for inbox in lock(&self.0).all.values() {
            inbox.lose();
        }
    }
}

impl Inbox {
    /// Takes what changed.
    pub(super) fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut lock(&self.told).paths)
    }

    /// Whether the watch has to be set anew. What was told before is of no use then.
    pub(super) fn take_lost(&self) -> bool {
        let mut told = lock(&self.told);
        let lost = told.lost;
        if lost {
            *told = Told::default();
        }
        lost
    }

    fn lose(&self) {
        lock(&self.told).lost = true;
        self.news.notify_one();
    }
}
