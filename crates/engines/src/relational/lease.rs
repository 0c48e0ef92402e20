//! Partitions under an order: who is to take which.

use std::collections::BTreeMap;

use super::store::View;
use linchpin_core::bus::{Candidate, shares};

/// A row of `lp_cursor`, with the end of its partition.
#[derive(Debug)]
pub(crate) struct Cursor {
    pub(crate) part: i64,
    pub(crate) owner: i64,
    pub(crate) fence: u64,
    pub(crate) end: u64,
}

/// A row of `lp_member` whose lease runs.
#[derive(Debug)]
pub(crate) struct Living {
    pub(crate) id: i64,
    /// Whether it wants partitions.
    pub(crate) active: bool,
    /// The partitions it restricts itself to, as JSON.
    pub(crate) only: Option<String>,
}

/// What `member` learns from its group, and the partitions that are its share and free. `mine` are those it believes to
/// own, with their fences.
pub(crate) fn compare(
    member: i64,
    mine: &BTreeMap<i64, u64>,
    cursors: &[Cursor],
    living: &[Living],
) -> (View, Vec<i64>) {
    let alive = |id: i64| living.iter().any(|one| one.id == id);
    let owners: Vec<i64> = cursors.iter().map(|c| if alive(c.owner) { c.owner } else { 0 }).collect();
    let candidates: Vec<_> = living.iter().filter(|one| one.active).map(Living::candidate).collect();
    let mut view = View { alone: living.iter().all(|one| one.id == member), ..View::default() };
    let mut take = Vec::new();
    for ((cursor, owner), fair) in cursors.iter().zip(&owners).zip(shares(&owners, &candidates)) {
        view.ends.push((cursor.part, cursor.end));
        let known = mine.get(&cursor.part);
        let still = cursor.owner == member && known == Some(&cursor.fence);
        match known {
            Some(_) if !still => view.lost.push(cursor.part),
            Some(_) if fair != member && fair != 0 => view.leave.push(cursor.part),
            None if fair == member && [0, member].contains(owner) => take.push(cursor.part),
            _ => {}
        }
    }
    (view, take)
}

impl Living {
    fn candidate(&self) -> Candidate {
        let only = self.only.as_ref().and_then(|list| serde_json::from_str(list).ok());
        Candidate { id: self.id, only }
    }
}
