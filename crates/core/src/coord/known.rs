//! What a watcher knows, and what a fresh listing adds to it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Change, Entry, Rev};

/// The keys a watch has told of, with their revisions: enough to say what changed when the engine can't.
#[derive(Debug, Default)]
pub struct Known(BTreeMap<String, Rev>);

impl Known {
    /// Knows what is in the snapshot.
    pub fn new(snapshot: &[Entry]) -> Self {
        Self(snapshot.iter().map(|entry| (entry.key.clone(), entry.rev)).collect())
    }

    /// The revision that was told of the key last, if it is there.
    pub fn get(&self, key: &str) -> Option<Rev> {
        self.0.get(key).copied()
    }

    /// Learns a change; whether it was news. What is older than what is known isn't.
    pub fn learn(&mut self, change: &Change) -> bool {
        match change {
            Change::Put(entry) => {
                let news = self.0.get(&entry.key).is_none_or(|rev| *rev < entry.rev);
                if news {
                    self.0.insert(entry.key.clone(), entry.rev);
                }
                news
            }
            Change::Delete { key, rev } => {
                let news = self.0.get(key).is_some_and(|known| known <= rev);
                if news {
                    self.0.remove(key);
                }
                news
            }
        }
    }

    /// What changed until `now`, the whole of what is there at the revision `at`, in the order of revisions.
    pub fn catch_up(&mut self, now: Vec<Entry>, at: Rev) -> Vec<Change> {
        let there: BTreeSet<&str> = now.iter().map(|entry| entry.key.as_str()).collect();
        let gone = self.0.keys().filter(|key| !there.contains(key.as_str()));
        let mut changes: Vec<_> = gone.map(|key| Change::Delete { key: key.clone(), rev: at }).collect();
        changes.extend(now.into_iter().map(Change::Put));
        changes.retain(|change| self.learn(change));
        changes.sort_by_key(Change::rev);
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, rev: u64) -> Entry {
        let (key, rev) = (key.to_owned(), Rev(rev));
        Entry { key, value: Default::default(), created: rev, rev, lease: None }
    }

    #[test]
    fn a_listing_tells_what_came_changed_and_went() {
        let mut known = Known::new(&[entry("a", 1), entry("b", 2), entry("c", 3)]);
        let changes = known.catch_up(vec![entry("a", 1), entry("c", 5), entry("d", 4)], Rev(6));
        let told: Vec<_> = changes.iter().map(|change| (change.key(), change.rev().0)).collect();
        assert_eq!(told, [("d", 4), ("c", 5), ("b", 6)]);
        assert!(known.catch_up(vec![entry("a", 1), entry("c", 5), entry("d", 4)], Rev(7)).is_empty());
    }

    #[test]
    fn old_news_is_no_news() {
        let mut known = Known::new(&[entry("a", 5)]);
        assert!(!known.learn(&Change::Put(entry("a", 5))));
        assert!(!known.learn(&Change::Delete { key: "a".into(), rev: Rev(4) }));
        assert!(known.learn(&Change::Delete { key: "a".into(), rev: Rev(6) }));
        assert!(!known.learn(&Change::Delete { key: "a".into(), rev: Rev(6) }));
    }
}
