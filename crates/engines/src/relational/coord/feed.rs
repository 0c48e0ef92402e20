//! Telling watches that there is something for them: one look at the database for all of a handle.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::engine::Inner;
use super::{Ask, KEYS, Look, Range};
use crate::relational::hub::lock;

/// The longest time between two looks: leases that were granted meanwhile are ended within it.
const LONGEST: Duration = Duration::from_millis(500);
/// After this many looks that found nothing, the database is asked half as often.
const QUIET: u32 = 20;
/// How long to wait after the database couldn't be asked, or there was nothing to end after all.
const AGAIN: Duration = Duration::from_millis(250);
/// How long after its end a lease is ended, so that of many who watch one does it.
const JITTER: std::ops::Range<u64> = 10..150;

/// The watches of one handle.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    slots: Mutex<Vec<Weak<Slot>>>,
    /// There is a reason to look: something was committed, or somebody begins to wait.
    poked: Notify,
}

/// A watch, as the feed knows it.
#[derive(Debug)]
pub(super) struct Slot {
    range: Range,
    news: watch::Sender<()>,
}

impl Slot {
    fn tell(&self) {
        self.news.send_replace(());
    }
}

impl Feed {
    /// A watch begins: what is committed from now on, it is told of.
    pub(super) fn join(&self, range: Range) -> (Arc<Slot>, watch::Receiver<()>) {
        let (news, told) = watch::channel(());
        let slot = Arc::new(Slot { range, news });
        lock(&self.slots).push(Arc::downgrade(&slot));
        (slot, told)
    }

    fn slots(&self) -> Vec<Arc<Slot>> {
        let mut slots = lock(&self.slots);
        slots.retain(|slot| slot.strong_count() > 0);
        slots.iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether there are any.
    #[cfg(feature = "postgres")]
    pub(crate) fn any(&self) -> bool {
        lock(&self.slots).iter().any(|slot| slot.strong_count() > 0)
    }

    /// These keys changed.
    pub(crate) fn tell(&self, keys: &[Vec<u8>]) {
        if !keys.is_empty() {
            let concerned = |slot: &Arc<Slot>| keys.iter().any(|key| slot.range.has(key));
            self.slots().into_iter().filter(concerned).for_each(|slot| slot.tell());
        }
    }

    fn tell_all(&self) {
        self.slots().iter().for_each(|slot| slot.tell());
    }

    /// Something may have been committed.
    pub(crate) fn poke(&self) {
        self.poked.notify_one();
    }
}

/// What is known of the database.
#[derive(Debug, Default)]
struct State {
    seen: Option<u64>,
    quiet: u32,
}

/// Looks as long as somebody waits, until the engine is gone.
pub(super) async fn follow(weak: Weak<Inner>, feed: Arc<Feed>) {
    let mut state = State::default();
    loop {
        let Some(inner) = weak.upgrade() else { return };
        let pause = match inner.rows.hub().waiting() {
            0 => Duration::MAX,
            _ => round(&inner, &feed, &mut state).await,
        };
        drop(inner);
        tokio::select! {
            () = sleep(pause) => {}
            () = feed.poked.notified() => {}
        }
    }
}

/// Looks once, tells watches, and ends leases that are over. Says when to look again.
async fn round(inner: &Inner, feed: &Feed, state: &mut State) -> Duration {
    // Before the first look nothing is known, so everything may have changed.
    let look = match inner.rows.look(state.seen.unwrap_or(u64::MAX)).await {
        Ok(look) => look,
        Err(error) => {
            // Whoever waits asks by itself, and says so.
            tracing::debug!(%error, "looking for changes failed");
            feed.tell_all();
            return AGAIN;
        }
    };
    match state.seen {
        Some(seen) if look.rev == seen => state.quiet = state.quiet.saturating_add(1),
        Some(seen) if look.rev > seen && look.forgotten <= seen && look.keys.len() <= KEYS => {
            state.quiet = 0;
            feed.tell(&look.keys);
        }
        _ => feed.tell_all(),
    }
    state.seen = Some(look.rev);
    if look.next_due.is_some_and(|due| due <= 0) {
        return match sweep(inner).await {
            true => Duration::ZERO,
            false => AGAIN,
        };
    }
    pause(inner, state, &look)
}

/// Ends leases that are over; whether any key went, so that there may be more. Another who does the same at once is as good.
async fn sweep(inner: &Inner) -> bool {
    match inner.rows.ask(Ask::Sweep).await {
        Ok(answer) => !answer.changed.is_empty(),
        Err(error) => {
            tracing::debug!(%error, "ending leases failed");
            false
        }
    }
}

fn pause(inner: &Inner, state: &State, look: &Look) -> Duration {
    let poll = inner.rows.poll().unwrap_or(LONGEST);
    let pause = if state.quiet >= QUIET { poll.saturating_mul(2) } else { poll }.min(LONGEST);
    let left = look.next_due.and_then(|due| u64::try_from(due).ok());
    let until = left.map(|due| Duration::from_millis(due.saturating_add(fastrand::u64(JITTER))));
    until.map_or(pause, |until| until.min(pause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_are_told_whom_it_concerns() {
        let feed = Feed::default();
        let watch = |prefix: &[u8]| feed.join(Range::prefix(prefix));
        let ((one, mut told), (other, quiet)) = (watch(b"lock/a"), watch(b"lock/b"));
        feed.tell(&[b"lock/a/1".to_vec(), b"config".to_vec()]);
        assert!(told.has_changed().unwrap() && !quiet.has_changed().unwrap());
        told.mark_unchanged();
        feed.tell_all();
        assert!(told.has_changed().unwrap() && quiet.has_changed().unwrap());
        drop((one, other));
        assert!(feed.slots().is_empty());
    }
}
