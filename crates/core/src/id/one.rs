//! An id, and many of them.

use std::fmt;

use serde::{Serialize, Serializer};
use uuid::Uuid;

/// An id. It prints as people write it: `1045`, `018f3c1e-…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Id {
    /// A number; never negative where it is ours to choose.
    Number(i64),
    /// A UUID.
    Uuid(Uuid),
}

impl Id {
    /// The number, unless it is a UUID.
    pub fn number(self) -> Option<i64> {
        match self {
            Self::Number(number) => Some(number),
            Self::Uuid(_) => None,
        }
    }

    /// The 16 bytes, unless it is a number.
    pub fn bytes(self) -> Option<[u8; 16]> {
        match self {
            Self::Number(_) => None,
            Self::Uuid(uuid) => Some(uuid.into_bytes()),
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Uuid(uuid) => uuid.fmt(f),
        }
    }
}

/// A number as a number, a UUID as text.
impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_i64(*number),
            Self::Uuid(uuid) => serializer.collect_str(uuid),
        }
    }
}

/// Numbers that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Run {
    pub(super) first: i64,
    pub(super) count: u64,
}

/// Ids, one after another. Numbers take no memory of their own until they are looked at.
#[derive(Debug, Clone)]
pub struct Batch {
    now: Run,
    runs: std::vec::IntoIter<Run>,
    uuids: std::vec::IntoIter<Uuid>,
    left: usize,
}

impl Batch {
    pub(super) fn one(run: Run) -> Self {
        let left = usize::try_from(run.count).unwrap_or(usize::MAX);
        Self { now: run, runs: Vec::new().into_iter(), uuids: Vec::new().into_iter(), left }
    }

    pub(super) fn runs(runs: Vec<Run>) -> Self {
        let left = usize::try_from(runs.iter().map(|run| run.count).sum::<u64>()).unwrap_or(usize::MAX);
        Self { left, runs: runs.into_iter(), ..Self::one(Run::default()) }
    }

    pub(super) fn uuids(uuids: Vec<Uuid>) -> Self {
        Self { left: uuids.len(), uuids: uuids.into_iter(), ..Self::one(Run::default()) }
    }
}

impl Iterator for Batch {
    type Item = Id;

    fn next(&mut self) -> Option<Id> {
        if self.now.count == 0 {
            let Some(run) = self.runs.next() else {
                let uuid = self.uuids.next()?;
                self.left -= 1;
                return Some(Id::Uuid(uuid));
            };
            self.now = run;
        }
        let number = self.now.first;
        // The last number of a run may be the last there is.
        self.now.first = number.saturating_add(1);
        self.now.count -= 1;
        self.left -= 1;
        Some(Id::Number(number))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Batch {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_goes_from_run_to_run() {
        let mut batch = Batch::runs(vec![Run { first: 5, count: 2 }, Run { first: i64::MAX, count: 1 }]);
        assert_eq!(batch.len(), 3);
        assert_eq!(batch.next(), Some(Id::Number(5)));
        assert_eq!(batch.len(), 2);
        assert_eq!(batch.collect::<Vec<_>>(), [Id::Number(6), Id::Number(i64::MAX)]);
        let uuid = Uuid::from_u128(1);
        assert_eq!(Batch::uuids(vec![uuid]).collect::<Vec<_>>(), [Id::Uuid(uuid)]);
    }

    #[test]
    fn ids_print_as_people_write_them() {
        let (number, uuid) = (Id::Number(1045), Id::Uuid(Uuid::from_u128(1)));
        assert_eq!(format!("{number:>6}"), "  1045");
        assert_eq!(uuid.to_string(), "00000000-0000-0000-0000-000000000001");
        let json = serde_json::to_string(&[number, uuid]).unwrap();
        assert_eq!(json, "[1045,\"00000000-0000-0000-0000-000000000001\"]");
    }
}
