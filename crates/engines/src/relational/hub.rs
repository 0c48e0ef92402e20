//! Who is to be woken.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::coord::Feed;
use super::member::Member;

/// Locks, and goes on with what is there if another holder panicked: every state here is whole between statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The subscriptions of one handle, or its watches.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    members: Mutex<Vec<Weak<Member>>>,
    /// How many `next` calls wait.
    waiting: AtomicUsize,
    /// The watches, on a handle for coordination.
    pub(crate) feed: Arc<Feed>,
}

impl Hub {
    pub(crate) fn join(&self, member: &Arc<Member>) {
        lock(&self.members).push(Arc::downgrade(member));
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// One more `next` call waits. Says whether it is the first.
    pub(crate) fn wait(&self) -> bool {
        self.waiting.fetch_add(1, Ordering::SeqCst) == 0
    }

    /// One of them waits no longer.
    pub(crate) fn waited(&self) {
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// The living subscriptions.
    pub(crate) fn members(&self) -> Vec<Arc<Member>> {
        let mut members = lock(&self.members);
        members.retain(|member| member.strong_count() > 0);
        members.iter().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn any_members(&self) -> bool {
        lock(&self.members).iter().any(|member| member.strong_count() > 0)
    }

    /// Whether there are subscriptions or watches.
    #[cfg(feature = "postgres")]
    pub(crate) fn anybody(&self) -> bool {
        self.any_members() || self.feed.any()
    }

    /// Wakes the subscriptions of these topics.
    pub(crate) fn wake(&self, topics: &[i64]) {
        if !topics.is_empty() {
            self.members().iter().filter(|m| topics.contains(&m.topic.id)).for_each(|m| m.wake());
        }
    }

    /// Wakes all: another process committed something.
    pub(crate) fn wake_all(&self) {
        self.members().iter().for_each(|member| member.wake());
        self.feed.poke();
    }
}
