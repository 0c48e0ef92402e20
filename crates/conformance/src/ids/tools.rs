//! What cases of ids have in common.

use std::collections::HashSet;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use linchpin::Retry;
use linchpin::id::{Id, Ids};
use linchpin::time::{ManualClock, SharedClock, SystemClock};
use tokio::time::{Instant, sleep};

use crate::child::Child;
use crate::protocol::{Event, IdCommand};
use crate::tools::{MOMENT, lease};
use crate::world::Issuer;

/// Ids that were issued. What comes twice is named.
#[derive(Debug, Default)]
pub(super) struct Seen(HashSet<String>);

impl Seen {
    pub(super) fn add(&mut self, ids: impl IntoIterator<Item = impl Display>) {
        for id in ids {
            let id = id.to_string();
            assert!(!self.0.contains(&id), "{id} came twice, {} ids later at most", self.0.len());
            self.0.insert(id);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

pub(super) async fn draw(ids: &Ids, count: usize) -> Vec<Id> {
    ids.next_n(count).await.unwrap().collect()
}

pub(super) async fn numbers(ids: &Ids, count: usize) -> Vec<i64> {
    draw(ids, count).await.into_iter().map(|id| id.number().expect("a number")).collect()
}

pub(super) async fn number(ids: &Ids) -> i64 {
    ids.next().await.unwrap().number().expect("a number")
}

/// A handle as soon as there is one: what stands in the way passes.
pub(super) async fn open_within(s: &Issuer, process: usize, options: &str, limit: Duration) -> Ids {
    let started = Instant::now();
    loop {
        match s.try_open(process, options).await {
            Ok(ids) => return ids,
            Err(error) => {
                assert_ne!(error.retry(), Retry::Never, "{error}");
                assert!(started.elapsed() < limit, "not open after {limit:?}: {error}");
            }
        }
        sleep(MOMENT).await;
    }
}

/// The options of a worker number that there is one of, with a lease that is lost soon, but not on a busy machine.
pub(super) fn one_number() -> String {
    format!("worker_bits=0&datacenter_bits=0&{}", short_lease())
}

pub(super) fn short_lease() -> String {
    format!("ttl={}s", 2 * lease().as_secs())
}

/// A clock that stands still until it is moved, at the time it is.
pub(super) fn clock() -> (Arc<ManualClock>, SharedClock) {
    let clock = Arc::new(ManualClock::new(linchpin::time::Clock::now(&SystemClock)));
    (clock.clone(), clock)
}

/// What the child drew.
pub(super) fn drawn(event: Option<Event>) -> Vec<String> {
    match event {
        Some(Event::Ids(ids)) => ids,
        other => panic!("the child said {other:?}"),
    }
}

pub(super) async fn ask(child: &mut Child, count: usize) -> Vec<String> {
    let event = child.ask(&IdCommand::Draw { count }).await;
    drawn(Some(event))
}
