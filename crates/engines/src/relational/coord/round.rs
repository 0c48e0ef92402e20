//! What a transaction decides: from what was read to what is written, without a database.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use linchpin_core::coord::{Rev, When};
use linchpin_core::{Error, Kind, Result};

use super::{Answer, Ask, KEPT, KEYS};

/// Deletions are forgotten once per so many revisions.
const FORGET: u64 = 1000;

/// A row of `lp_key`, but for its value.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) key: Vec<u8>,
    pub(crate) created: u64,
    pub(crate) rev: u64,
    pub(crate) lease: Option<i64>,
    /// When its lease ends; `None` if it isn't there.
    pub(crate) due: Option<i64>,
}

/// A row of `lp_lease`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) ttl: i64,
    pub(crate) due: i64,
}

/// What was read under the counter: see [`Needs`](super::Needs).
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// The time by which leases are judged, in milliseconds since 1970.
    pub(crate) now: i64,
    /// The last revision.
    pub(crate) rev: u64,
    /// Leases that are over.
    pub(crate) over: Vec<i64>,
    pub(crate) leases: BTreeMap<i64, Lease>,
    /// The keys that were asked for, and those of the leases that end: of these up to one more than [`KEYS`].
    pub(crate) rows: Vec<Found>,
    /// How many of the rows were read for the leases that end.
    pub(crate) of_ended: usize,
}

/// A row of `lp_key` to be written.
#[derive(Debug)]
pub(crate) struct Put {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Bytes,
    pub(crate) created: u64,
    pub(crate) rev: u64,
    pub(crate) lease: Option<i64>,
}

/// What is to be written, in this order.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// The last revision, if it isn't what it was.
    pub(crate) rev: Option<u64>,
    pub(crate) puts: Vec<Put>,
    /// Rows to be removed from `lp_key`.
    pub(crate) removed: Vec<Vec<u8>>,
    /// Rows for `lp_gone`.
    pub(crate) gone: Vec<(u64, Vec<u8>)>,
    /// New leases.
    pub(crate) granted: Vec<(i64, Lease)>,
    /// When leases end now.
    pub(crate) due: Vec<(i64, i64)>,
    /// Leases to be removed.
    pub(crate) ended: Vec<i64>,
    /// Deletions up to this revision are to be forgotten.
    pub(crate) forget: Option<u64>,
}

impl Changes {
    /// The keys that changed.
    pub(crate) fn keys(&self) -> Vec<Vec<u8>> {
        let put = self.puts.iter().map(|put| &put.key);
        put.chain(self.gone.iter().map(|(_, key)| key)).cloned().collect()
    }
}

/// A key, and what happens to it.
#[derive(Debug)]
struct Slot {
    row: Option<Found>,
    /// The value it was given, if it was.
    value: Option<Bytes>,
    /// Its last deletion.
    gone: Option<u64>,
}

/// One transaction.
#[derive(Debug)]
pub(crate) struct Round {
    now: i64,
    before: u64,
    rev: u64,
    slots: BTreeMap<Vec<u8>, Slot>,
    leases: BTreeMap<i64, Lease>,
    /// Leases that ended here.
    ended: BTreeSet<i64>,
    changes: Changes,
    /// Whether all keys of the leases that end were read.
    whole: bool,
}

impl Round {
    pub(crate) fn new(loaded: Loaded) -> Self {
        let slot = |row: Found| (row.key.clone(), Slot { row: Some(row), value: None, gone: None });
        let mut round = Self {
            now: loaded.now,
            before: loaded.rev,
            rev: loaded.rev,
            slots: loaded.rows.into_iter().map(slot).collect(),
            leases: loaded.leases,
            ended: BTreeSet::new(),
            changes: Changes::default(),
            whole: loaded.of_ended <= KEYS,
        };
        loaded.over.into_iter().for_each(|lease| round.end(lease));
        round
    }

    /// Does what was asked, in this order; one answer each.
    pub(crate) fn run(mut self, asks: &[Ask]) -> (Vec<Answer>, Changes) {
        let answer = |result| Answer { result, changed: Vec::new() };
        let mut answers: Vec<_> = asks.iter().map(|ask| answer(self.one(ask))).collect();
        let changes = self.finish();
        if let Some(first) = answers.first_mut() {
            first.changed = changes.keys();
        }
        (answers, changes)
    }

    fn one(&mut self, ask: &Ask) -> Result<Option<Rev>> {
        match ask {
            Ask::Put { key, value, when, lease } => self.put(key, value, *when, *lease).map(Some),
            Ask::Delete { key, when } => self.delete(key, *when),
            Ask::Grant { lease, ttl } => {
                let granted = Lease { ttl: *ttl, due: self.now.saturating_add(*ttl) };
                self.leases.insert(*lease, granted);
                self.changes.granted.push((*lease, granted));
                Ok(None)
            }
            Ask::Renew { lease } => {
                let ttl = self.living(*lease)?.ttl;
                let due = self.now.saturating_add(ttl);
                self.leases.insert(*lease, Lease { ttl, due });
                self.changes.due.push((*lease, due));
                Ok(None)
            }
            Ask::Revoke { lease } => {
                if self.leases.contains_key(lease) {
                    self.end(*lease);
                }
                Ok(None)
            }
            Ask::Sweep => Ok(None),
        }
    }

    fn next(&mut self) -> u64 {
        self.rev += 1;
        self.rev
    }

    /// The lease, unless it is over.
    fn living(&self, lease: i64) -> Result<Lease> {
        let living = self.leases.get(&lease).copied();
        let living = living.filter(|of| of.due > self.now && !self.ended.contains(&lease));
        living.ok_or_else(|| Error::new(Kind::NotFound, "the lease has ended").help("grant another"))
    }

    /// Whether its lease isn't over.
    fn lives(&self, row: &Found) -> bool {
        let lives = |id| !self.ended.contains(&id) && row.due.is_some_and(|due| due > self.now);
        row.lease.is_none_or(lives)
    }

    /// The row under a key, if the key is there.
    fn there(&self, key: &[u8]) -> Option<&Found> {
        self.slots.get(key).and_then(|slot| slot.row.as_ref()).filter(|row| self.lives(row))
    }

    fn put(&mut self, key: &[u8], value: &Bytes, when: When, lease: Option<i64>) -> Result<Rev> {
        let due = lease.map(|lease| self.living(lease)).transpose()?.map(|lease| lease.due);
        let there = self.there(key).map(|row| (row.created, row.rev));
        check(key, when, there.map(|(_, rev)| rev))?;
        let rev = self.next();
        let created = there.map_or(rev, |(created, _)| created);
        let row = Found { key: key.to_owned(), created, rev, lease, due };
        let slot = self.slots.entry(key.to_owned());
        let slot = slot.or_insert(Slot { row: None, value: None, gone: None });
        slot.row = Some(row);
        slot.value = Some(value.clone());
        Ok(Rev(rev))
    }

    fn delete(&mut self, key: &[u8], when: When) -> Result<Option<Rev>> {
        let Some(is) = self.there(key).map(|row| row.rev) else { return Ok(None) };
        check(key, when, Some(is))?;
        Ok(Some(Rev(self.remove(key))))
    }

    fn remove(&mut self, key: &[u8]) -> u64 {
        let rev = self.next();
        if let Some(slot) = self.slots.get_mut(key) {
            (slot.row, slot.value, slot.gone) = (None, None, Some(rev));
        }
        rev
    }

    /// Ends a lease with those of its keys that are known.
    fn end(&mut self, lease: i64) {
        let of_it = |slot: &Slot| slot.row.as_ref().is_some_and(|row| row.lease == Some(lease));
        let keys = self.slots.iter().filter(|(_, slot)| of_it(slot)).map(|(key, _)| key.clone());
        for key in keys.collect::<Vec<_>>() {
            self.remove(&key);
        }
        self.ended.insert(lease);
    }

    fn finish(mut self) -> Changes {
        let mut changes = std::mem::take(&mut self.changes);
        for (key, slot) in self.slots {
            if let Some(rev) = slot.gone {
                changes.gone.push((rev, key.clone()));
            }
            match (slot.row, slot.value) {
                (Some(row), Some(value)) => {
                    let Found { created, rev, lease, .. } = row;
                    changes.puts.push(Put { key, value, created, rev, lease });
                }
                (None, _) => changes.removed.push(key),
                (Some(_), None) => {}
            }
        }
        changes.due.retain(|(lease, _)| !self.ended.contains(lease));
        if self.whole {
            changes.granted.retain(|(lease, _)| !self.ended.contains(lease));
            changes.ended = self.ended.into_iter().collect();
        } else {
            // Its row stays for the keys that are left of it, which nobody sees any more.
            changes.due.extend(self.ended.into_iter().map(|lease| (lease, 0)));
        }
        changes.rev = (self.rev > self.before).then_some(self.rev);
        let due = self.before / FORGET < self.rev / FORGET;
        changes.forget = due.then(|| self.rev.saturating_sub(KEPT)).filter(|rev| *rev > 0);
        changes
    }
}

fn check(key: &[u8], when: When, is: Option<u64>) -> Result<()> {
    let conflict = |problem: String| {
        let key = String::from_utf8_lossy(key);
        let help = "read it again, and decide anew";
        Err(Error::new(Kind::Conflict, format!("{key:?} {problem}")).help(help))
    };
    match (when, is) {
        (When::Always, _) | (When::Absent, None) => Ok(()),
        (When::Is(rev), Some(is)) if rev.0 == is => Ok(()),
        (When::Absent, Some(is)) => conflict(format!("is there, at revision {is}")),
        (When::Is(rev), Some(is)) => conflict(format!("is at revision {is}, not {rev}")),
        (When::Is(rev), None) => conflict(format!("isn't there, least of all at revision {rev}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1000;

    fn found(key: &str, rev: u64, lease: Option<(i64, i64)>) -> Found {
        let (lease, due) = (lease.map(|(id, _)| id), lease.map(|(_, due)| due));
        Found { key: key.into(), created: rev, rev, lease, due }
    }

    fn put(key: &str, when: When, lease: Option<i64>) -> Ask {
        Ask::Put { key: key.into(), value: Bytes::from_static(b"x"), when, lease }
    }

    fn run(loaded: Loaded, asks: &[Ask]) -> (Vec<Result<Option<Rev>, Kind>>, Changes) {
        let (answers, changes) = Round::new(Loaded { now: NOW, ..loaded }).run(asks);
        (answers.into_iter().map(|answer| answer.result.map_err(|e| e.kind())).collect(), changes)
    }

    #[test]
    fn what_is_done_together_sees_what_was_done_before() {
        let rows = vec![found("a", 3, None)];
        let asks = [
            put("a", When::Is(Rev(3)), None),
            put("a", When::Is(Rev(3)), None),
            Ask::Delete { key: b"a".into(), when: When::Is(Rev(8)) },
            put("a", When::Absent, None),
            put("b", When::Absent, None),
            put("b", When::Absent, None),
        ];
        let (answers, changes) = run(Loaded { rev: 7, rows, ..Loaded::default() }, &asks);
        let done = |rev| Ok(Some(Rev(rev)));
        let conflict = Err(Kind::Conflict);
        assert_eq!(answers, [done(8), conflict, done(9), done(10), done(11), conflict]);
        let puts: Vec<_> =
            changes.puts.iter().map(|put| (put.key.as_slice(), put.created, put.rev)).collect();
        assert_eq!(puts, [(&b"a"[..], 10, 10), (b"b", 11, 11)]);
        assert_eq!((changes.gone, changes.rev), (vec![(9, b"a".to_vec())], Some(11)));
        assert!(changes.removed.is_empty());
    }

    #[test]
    fn a_lease_is_over_when_its_time_has_come_whoever_ends_it() {
        let lease = Lease { ttl: 50, due: NOW };
        let loaded = || Loaded {
            rev: 1,
            leases: [(5, lease)].into(),
            rows: vec![found("a", 1, Some((5, NOW)))],
            ..Loaded::default()
        };
        let asks = [Ask::Renew { lease: 5 }, put("b", When::Always, Some(5)), put("a", When::Absent, None)];
        let (answers, changes) = run(loaded(), &asks);
        assert_eq!(answers, [Err(Kind::NotFound), Err(Kind::NotFound), Ok(Some(Rev(2)))]);
        assert_eq!(changes.puts.first().map(|put| put.created), Some(2), "it is another key now");
        let (answers, changes) = run(loaded(), &[Ask::Delete { key: b"a".into(), when: When::Always }]);
        assert_eq!((answers, changes.rev), (vec![Ok(None)], None));
    }

    #[test]
    fn each_key_of_an_ended_lease_gets_a_revision() {
        let rows = ["a", "b"].map(|key| found(key, 1, Some((5, NOW - 1)))).to_vec();
        let loaded = Loaded { rev: 4, over: vec![5], rows, of_ended: 2, ..Loaded::default() };
        let (answers, changes) = run(loaded, &[Ask::Sweep]);
        assert_eq!(answers, [Ok(None)]);
        assert_eq!(changes.gone, [(5, b"a".to_vec()), (6, b"b".to_vec())]);
        assert_eq!((changes.removed.len(), changes.ended, changes.due), (2, vec![5], Vec::new()));
    }

    #[test]
    fn what_is_too_much_for_one_transaction_is_hidden_at_once() {
        let lease = Lease { ttl: 50, due: NOW + 50 };
        let rows = (0..=KEYS).map(|n| found(&format!("{n:05}"), 1, Some((5, NOW + 50)))).collect();
        let loaded =
            Loaded { rev: 1, leases: [(5, lease)].into(), rows, of_ended: KEYS + 1, ..Loaded::default() };
        let asks = [Ask::Revoke { lease: 5 }, Ask::Renew { lease: 5 }];
        let (answers, changes) = run(loaded, &asks);
        assert_eq!(answers, [Ok(None), Err(Kind::NotFound)]);
        assert_eq!((changes.ended, changes.due), (Vec::new(), vec![(5, 0)]));
        assert_eq!((changes.gone.len(), changes.forget), (KEYS + 1, None));
    }

    #[test]
    fn deletions_are_forgotten_now_and_then() {
        let forget = |rev| run(Loaded { rev, ..Loaded::default() }, &[put("a", When::Always, None)]).1.forget;
        assert_eq!((forget(999), forget(12_998), forget(12_999)), (None, None, Some(3_000)));
    }
}
