//! What everything of one bus shares: the connection, what is known of topics, the subscriptions.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use linchpin_core::Result;
use tokio::task::AbortHandle;

use super::error::closed;
use super::form::Form;
use super::hints::Hints;
use super::keys::Keys;
use super::link::Link;
use super::member::Member;
use super::topic::Known;
use super::url::Config;

#[derive(Debug)]
pub(super) struct Core {
    pub(super) config: Config,
    pub(super) form: &'static Form,
    pub(super) keys: Keys,
    pub(super) link: Link,
    pub(super) topics: Mutex<HashMap<String, Arc<Known>>>,
    pub(super) hints: Hints,
    members: Mutex<Vec<Weak<Member>>>,
    tasks: Mutex<Vec<AbortHandle>>,
    closed: AtomicBool,
}

/// A poisoned lock is taken all the same: what it guards is whole between any two statements.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    pub(super) async fn open(config: Config, form: &'static Form) -> Result<Arc<Self>> {
        let link = Link::open(config.clone()).await?;
        let core = Arc::new(Self {
            keys: Keys::new(&config.prefix, form.lists),
            form,
            link,
            topics: Mutex::default(),
            hints: Hints::new(),
            members: Mutex::default(),
            tasks: Mutex::default(),
            closed: AtomicBool::new(false),
            config,
        });
        let listening = tokio::spawn(super::hints::listen(Arc::downgrade(&core), core.config.clone()));
        lock(&core.tasks).push(listening.abort_handle());
        if form.caps.retention {
            let keeping = tokio::spawn(super::retain::keep(Arc::downgrade(&core)));
            lock(&core.tasks).push(keeping.abort_handle());
        }
        Ok(core)
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(closed()) } else { Ok(()) }
    }

    /// Marks it closed; false if it was.
    pub(super) fn shut(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }

    pub(super) fn stop(&self) {
        lock(&self.tasks).drain(..).for_each(|task| task.abort());
    }

    pub(super) fn add(&self, member: &Arc<Member>) {
        let mut members = lock(&self.members);
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(member));
        let topics = members.iter().filter_map(Weak::upgrade).map(|m| self.keys.hints(&m.topic.name));
        self.hints.want(topics.collect());
    }

    pub(super) fn members(&self) -> Vec<Arc<Member>> {
        lock(&self.members).iter().filter_map(Weak::upgrade).collect()
    }

    /// What is told isn't heard any more: whoever relied on it looks by itself.
    pub(super) fn deaf(&self) {
        for member in self.members() {
            let mut state = lock(&member.state);
            (state.quiet, state.calm) = (0, false);
        }
        self.wake(None);
    }

    /// Wakes the subscriptions whose channel this is; all, if none is named.
    pub(super) fn wake(&self, channel: Option<&str>) {
        for member in self.members() {
            if channel.is_none_or(|channel| channel == member.channel) {
                member.wake();
            }
        }
    }

    pub(super) fn forget(&self, topic: &str) {
        lock(&self.topics).remove(topic);
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.stop();
    }
}
