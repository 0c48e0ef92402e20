//! A watch: it reads what changed after the revision it knows, whenever there is news.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use linchpin_core::coord::{Change, Entry, Known, Rev, Watch};
use linchpin_core::{Kind, Result};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::hub::{Hub, News};
use super::space::{Look, Range, Space, There};
use crate::redis::error::error;

/// Of a snapshot, how many keys and how many bytes of values are read at once.
const PAGE: usize = 500;
const PAGE_BYTES: usize = 4 << 20;
/// The least time between two errors.
const AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct RedisWatch {
    space: Arc<Space>,
    prefix: String,
    range: Range,
    known: Known,
    /// All changes up to here were told.
    after: u64,
    /// All deletions up to here were.
    handled: u64,
    news: watch::Receiver<News>,
    /// The news that were read.
    read: News,
}

impl RedisWatch {
    /// What is there, and the watch of what changes. What changes while the snapshot is read is read once more, and then known.
    pub(super) async fn begin(space: Arc<Space>, prefix: &str) -> Result<(Vec<Entry>, Self)> {
        let news = Hub::add(&space, prefix);
        let read = *news.borrow();
        let mut snapshot: Vec<Entry> = Vec::new();
        let mut after = None;
        loop {
            let last = snapshot.last().map(|entry| entry.key.as_str());
            let page = space.list(&Range::of(prefix, last), PAGE, PAGE_BYTES, "watch").await?;
            snapshot.extend(page.entries);
            after.get_or_insert(page.rev);
            if !page.more {
                break;
            }
        }
        let (prefix, range, known) = (prefix.to_owned(), Range::of(prefix, None), Known::new(&snapshot));
        let after = after.unwrap_or(0);
        Ok((snapshot, Self { space, prefix, range, known, after, handled: after, news, read }))
    }

    /// What of it is news.
    fn learn(&mut self, look: Look, news: News) -> Result<Vec<Change>> {
        let Look { rev, all, mut changes, there } = look;
        changes.retain(|change| self.known.learn(change));
        if let Some(there) = there {
            // What is there and unchanged is known as it is: all else was told by this look.
            if let Some((key, _)) = there.iter().find(|(key, rev)| self.known.get(key) != Some(Rev(*rev))) {
                let message = format!("the server lost what it told: {key:?} is as it was before");
                return Err(error(Kind::Corrupt, message)
                    .op("watch")
                    .help("watch anew: begin with its snapshot"));
            }
            changes.extend(self.known.catch_up(there.into_iter().map(bare).collect(), Rev(rev)));
            changes.sort_by_key(Change::rev);
        }
        self.after = rev;
        if all {
            self.handled = rev;
            self.read = news;
        }
        Ok(changes)
    }
}

/// Enough to tell what is gone.
fn bare((key, rev): There) -> Entry {
    Entry { key, value: Default::default(), created: Rev(rev), rev: Rev(rev), lease: None }
}

#[async_trait]
impl Watch for RedisWatch {
    async fn next(&mut self, wait: Duration) -> Result<Vec<Change>> {
        let deadline = Instant::now() + wait;
        loop {
            let news = *self.news.borrow_and_update();
            if news == self.read {
                if timeout_at(deadline, self.news.changed()).await.is_err() {
                    return Ok(Vec::new());
                }
                continue;
            }
            let handled = if news.history == self.read.history { self.handled } else { 0 };
            let look = self.space.look(&self.prefix, &self.range, self.after, handled).await;
            match look.and_then(|look| self.learn(look, news)) {
                Ok(changes) if changes.is_empty() => {}
                Ok(changes) => return Ok(changes),
                Err(error) => {
                    sleep(AGAIN.min(deadline.saturating_duration_since(Instant::now()))).await;
                    return Err(error);
                }
            }
        }
    }
}
