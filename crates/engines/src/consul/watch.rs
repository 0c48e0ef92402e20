//! Watches: queries that Consul answers when something changed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use linchpin_core::coord::{Change, Entry, Known, Rev, Watch};
use linchpin_core::{Kind, Result};
use tokio::time::Instant;

use super::coord::Reader;
use super::error;
use super::http::{Answer, Ask};
use super::shapes::Pair;

/// The longest that one query waits: Consul takes up to ten minutes.
const LONGEST: Duration = Duration::from_secs(300);
/// Consul forgets at what index a key was deleted after 15 minutes.
const FRESH: Duration = Duration::from_secs(300);
/// Longer than any wait.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);

#[derive(Debug)]
pub(super) struct ConsulWatch {
    reader: Arc<Reader>,
    prefix: String,
    known: Known,
    /// What the last answer was as of; 0 when it isn't to be compared with.
    index: u64,
    /// When the last answer came.
    seen: Instant,
}

/// What is there, and a revision that no deletion among it is behind.
struct Listing {
    entries: Vec<Entry>,
    index: u64,
}

impl ConsulWatch {
    pub(super) async fn begin(reader: Arc<Reader>, prefix: &str) -> Result<(Self, Vec<Entry>)> {
        let prefix = prefix.to_owned();
        let (known, seen) = (Known::default(), Instant::now());
        let mut watch = Self { reader, prefix, known, index: 0, seen };
        let Listing { entries, index } = watch.ask(None).await?;
        watch.known = Known::new(&entries);
        watch.index = index;
        Ok((watch, entries))
    }

    /// With `wait`: once it is other than at the last index, or that time is over.
    async fn ask(&self, wait: Option<Duration>) -> Result<Listing> {
        let mut path = format!("/v1/kv/{}?recurse&consistent", stem(&self.reader.name(&self.prefix)));
        let mut longer = Duration::ZERO;
        if let Some(wait) = wait {
            path += &format!("&index={}&wait={}ms", self.index, wait.as_millis().max(1));
            // Consul adds up to a sixteenth.
            longer = wait + wait / 16;
        }
        let answer = self.reader.http.call(Ask::get(path).waiting(longer)).await?;
        let index = index(&answer)?;
        let pairs: Vec<Pair> = if answer.status == 404 { Vec::new() } else { answer.json()? };
        let entries = pairs.into_iter().filter_map(|pair| pair.entry(&self.reader.prefix));
        let mut entries: Vec<_> = entries.filter(|entry| entry.key.starts_with(&self.prefix)).collect();
        entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(Listing { entries, index })
    }

    /// The index of everything: that is what Consul tells of a key that isn't there.
    async fn whole_index(&self) -> Result<u64> {
        let answer = self.reader.http.call(Ask::get(probe(&self.reader.prefix))).await?;
        match index(&answer) {
            // The token may not read everything under this prefix.
            Err(e) if e.kind() == Kind::Denied => Ok(0),
            index => index,
        }
    }

    /// What changed since the last answer. Nothing of the watch is changed before the answer is there.
    async fn look(&mut self, wait: Duration) -> Result<Vec<Change>> {
        // A deletion may have happened behind what a listing tells, if it was forgotten since; then it tells a lower index.
        let stale = self.index == 0 || self.seen.elapsed() > FRESH;
        let floor = if stale { self.whole_index().await? } else { 0 };
        let listing = self.ask((self.index > 0).then_some(wait)).await?;
        self.seen = Instant::now();
        if listing.index < self.index {
            self.index = 0;
            return Ok(Vec::new());
        }
        self.index = listing.index;
        Ok(self.known.catch_up(listing.entries, Rev(listing.index.max(floor))))
    }
}

fn index(answer: &Answer) -> Result<u64> {
    match answer.status {
        200 | 404 => {
            answer.index.map(|index| index.max(1)).ok_or_else(|| error::incomplete("X-Consul-Index"))
        }
        _ => Err(error::refused(answer, true)),
    }
}

/// Asks for a key that nobody has.
pub(super) fn probe(prefix: &str) -> String {
    format!("/v1/kv/{}linchpin-index?consistent", stem(prefix))
}

/// As much of a prefix as every version of Consul takes in a path: what is beyond it is sorted out here.
fn stem(prefix: &str) -> &str {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_/".contains(c);
    prefix.split_once(|c: char| !plain(c)).map_or(prefix, |(stem, _)| stem)
}

#[async_trait]
impl Watch for ConsulWatch {
    async fn next(&mut self, wait: Duration) -> Result<Vec<Change>> {
        let deadline = Instant::now() + wait.min(FOREVER);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let changes = self.look((left * 15 / 16).min(LONGEST)).await.map_err(|e| e.op("watch"))?;
            if !changes.is_empty() || Instant::now() + Duration::from_millis(1) >= deadline {
                return Ok(changes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::stem;

    #[test]
    fn a_stem_has_plain_characters_alone() {
        for (prefix, expected) in
            [("", ""), ("shop/a_b-c/", "shop/a_b-c/"), ("a/b.json", "a/b"), ("é/a", ""), ("a b", "a")]
        {
            assert_eq!(stem(prefix), expected);
        }
    }
}
