//! What is under a prefix, kept in step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::call::{LIMIT, Pause, answer_within};
use super::{Change, CoordEngine, Entry, Watch, Watched};
use crate::{Error, Result};

/// How long one look at a watch takes before the next.
const LOOK: Duration = Duration::from_secs(30);

/// A snapshot and the changes since, over lost watches and outages.
#[derive(Debug)]
pub(super) struct Follow {
    engine: Arc<dyn CoordEngine>,
    prefix: String,
    entries: BTreeMap<String, Entry>,
    /// None after the watch broke.
    changes: Option<Box<dyn Watch>>,
    pause: Pause,
    /// When to try again, after an attempt that failed.
    again: Option<Instant>,
}

impl Follow {
    pub(super) async fn begin(engine: Arc<dyn CoordEngine>, prefix: &str) -> Result<Self> {
        let mut follow = Self::idle(engine, prefix);
        follow.watch().await?;
        Ok(follow)
    }

    /// Knows nothing until the first `next`.
    pub(super) fn idle(engine: Arc<dyn CoordEngine>, prefix: &str) -> Self {
        let (entries, pause) = (BTreeMap::new(), Pause::default());
        Self { engine, prefix: prefix.to_owned(), entries, changes: None, pause, again: None }
    }

    /// What is there, by key.
    pub(super) fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// Waits until there is news, or until it is known again that there is none. Cancel-safe.
    ///
    /// # Errors
    /// What the engine says, once for each attempt: what is known may be old then. Call again; it waits before it
    /// tries again.
    pub(super) async fn next(&mut self) -> Result<()> {
        if let Some(again) = self.again {
            sleep_until(again).await;
            self.again = None;
        }
        loop {
            let Some(changes) = &mut self.changes else {
                let watched = self.watch().await;
                return watched.map_err(|error| self.broke(error));
            };
            match answer_within(LOOK + LIMIT, changes.next(LOOK)).await {
                Ok(news) if news.is_empty() => {}
                Ok(news) => {
                    news.into_iter().for_each(|change| self.apply(change));
                    return Ok(());
                }
                Err(error) => return Err(self.broke(error)),
            }
        }
    }

    /// A new watch begins with what is there: nothing is missed.
    fn broke(&mut self, error: Error) -> Error {
        self.changes = None;
        self.again = Some(Instant::now() + self.pause.next(Some(&error)));
        error
    }

    async fn watch(&mut self) -> Result<()> {
        let Watched { snapshot, changes } = answer_within(LIMIT, self.engine.watch(&self.prefix)).await?;
        self.entries = snapshot.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        self.changes = Some(changes);
        self.pause = Pause::default();
        Ok(())
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Put(entry) => drop(self.entries.insert(entry.key.clone(), entry)),
            Change::Delete { key, .. } => drop(self.entries.remove(&key)),
        }
    }
}
