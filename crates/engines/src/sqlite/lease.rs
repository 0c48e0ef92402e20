//! Partitions under an order: who owns them, and handing out what an owner holds.

use std::collections::BTreeMap;

use linchpin_core::bus::NO_REPLY;
use linchpin_core::{Error, Kind};
use rusqlite::Row;

use super::claim::{self, COLUMNS, bury, bury_all, held, keep, wait};
use super::group;
use super::tx::{Step, Tx};
use crate::relational::Span;
use crate::relational::lease::{Cursor, Living, compare};
use crate::relational::store::{Claim, Marked, Pick, Scope, Taken, View};

/// Looks at the group, and takes the partitions that are this member's share and free.
/// `mine` are those it owns, with their fences.
pub(super) fn look(tx: &Tx<'_>, scope: &Scope, mine: &BTreeMap<i64, u64>) -> Step<View> {
    group::check_there(tx, scope)?;
    let (view, take) = see(tx, scope, mine)?;
    if take.is_empty() {
        return Ok(view);
    }
    tx.begin()?;
    let (mut view, take) = see(tx, scope, mine)?;
    for part in take {
        view.taken.push(take_over(tx, scope, part)?);
    }
    Ok(view)
}

fn see(tx: &Tx<'_>, scope: &Scope, mine: &BTreeMap<i64, u64>) -> Step<(View, Vec<i64>)> {
    let living = living(tx, scope)?;
    Ok(compare(scope.member, mine, &cursors(tx, scope)?, &living))
}

fn living(tx: &Tx<'_>, scope: &Scope) -> Step<Vec<Living>> {
    let sql = "SELECT id, active, only FROM lp_member WHERE grp = ?1 AND due > ?2 ORDER BY id";
    let read = |row: &Row<'_>| Ok(Living { id: row.get(0)?, active: row.get(1)?, only: row.get(2)? });
    tx.all(sql, [scope.group, tx.now()], read)
}

fn cursors(tx: &Tx<'_>, scope: &Scope) -> Step<Vec<Cursor>> {
    let sql = "SELECT c.part, c.owner, c.fence, p.next FROM lp_cursor c JOIN lp_partition p ON p.id = c.part
               WHERE c.grp = ?1 ORDER BY c.part";
    let read = |row: &Row<'_>| {
        Ok(Cursor { part: row.get(0)?, owner: row.get(1)?, fence: row.get(2)?, end: row.get(3)? })
    };
    tx.all(sql, [scope.group], read)
}

/// Makes the member the owner, with a higher fence. What the owner before held waits again under new ids, so that
/// nothing it still settles takes effect; what it held for the last time goes to the dead letters.
fn take_over(tx: &Tx<'_>, scope: &Scope, part: i64) -> Step<Taken> {
    let sql = "UPDATE lp_cursor SET owner = ?1, fence = fence + 1 WHERE grp = ?2 AND part = ?3";
    tx.run(sql, [scope.member, scope.group, part])?;
    let sql = "SELECT next, fence FROM lp_cursor WHERE grp = ?1 AND part = ?2";
    let (next, fence) = tx.one(sql, [scope.group, part], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut waiting = Vec::new();
    let all = format!("{COLUMNS} WHERE grp = ?1 AND part = ?2");
    for claim in tx.all(&all, [scope.group, part], claim::read)? {
        if claim.owner == 0 {
            waiting.push(claim);
        } else if claim.attempt >= scope.max_attempts {
            bury_all(tx, scope, &claim)?;
        } else {
            keep(tx, claim.id, &Span::default())?;
            let mut free = Claim { due: tx.now(), owner: 0, ..claim };
            free.id = claim::insert(tx, scope.group, &free)?;
            waiting.push(free);
        }
    }
    Ok(Taken { part, fence, next, waiting })
}

/// Lets go of partitions of which nothing is in hand.
pub(super) fn release(tx: &Tx<'_>, scope: &Scope, parts: &[(i64, u64)], active: bool) -> Step<()> {
    tx.begin()?;
    for (part, fence) in parts {
        let sql = "UPDATE lp_cursor SET owner = 0 WHERE grp = ?1 AND part = ?2 AND owner = ?3 AND fence = ?4";
        tx.run(sql, (scope.group, part, scope.member, fence))?;
    }
    set_active(tx, scope, active)?;
    tx.touch(scope.topic.id);
    Ok(())
}

/// Says whether the member wants partitions.
pub(super) fn set_active(tx: &Tx<'_>, scope: &Scope, active: bool) -> Step<()> {
    tx.begin()?;
    tx.run("UPDATE lp_member SET active = ?1 WHERE id = ?2 AND active <> ?1", (active, scope.member))?;
    Ok(())
}

/// Writes down that these, in rising order, are handed out now. `None` if the partition has another owner.
pub(super) fn mark(
    tx: &Tx<'_>,
    scope: &Scope,
    part: i64,
    fence: u64,
    picks: &[Pick],
) -> Step<Option<Marked>> {
    tx.begin()?;
    let sql = "SELECT next FROM lp_cursor WHERE grp = ?1 AND part = ?2 AND owner = ?3 AND fence = ?4";
    let Some(next) = tx.maybe(sql, (scope.group, part, scope.member, fence), |row| row.get(0))? else {
        return Ok(None);
    };
    let mut out_of: BTreeMap<i64, Vec<u64>> = BTreeMap::new();
    for pick in picks {
        if let Some(claim) = pick.claim {
            out_of.entry(claim).or_default().push(pick.offset);
        }
    }
    for (id, offsets) in out_of {
        let missing = || Error::new(Kind::Corrupt, format!("claim {id} is missing"));
        let mut row = held(tx, id, 0)?.ok_or_else(missing)?;
        for offset in offsets {
            row.span.remove(offset);
        }
        keep(tx, id, &row.span.tight())?;
    }
    let mut marked = Marked { passed: advance(tx, scope, part, next, picks)?, ..Marked::default() };
    // In the order in which they are handed out: a claim has one attempt.
    for run in picks.chunk_by(|a, b| a.attempt == b.attempt) {
        let attempt = run.first().map_or(1, |pick| pick.attempt + 1);
        let due = scope.lease_end(tx.now());
        for span in Span::of(run.iter().map(|pick| pick.offset)) {
            let mut held = Claim { id: 0, part, span, due, attempt, owner: scope.member };
            held.id = claim::insert(tx, scope.group, &held)?;
            marked.held.push(held);
        }
    }
    Ok(Some(marked))
}

/// Moves the cursor behind the highest new pick; what it passes over waits in claims that were never handed out.
fn advance(tx: &Tx<'_>, scope: &Scope, part: i64, next: u64, picks: &[Pick]) -> Step<Vec<Claim>> {
    let new: Vec<u64> = picks.iter().filter(|p| p.claim.is_none()).map(|p| p.offset).collect();
    let Some(last) = new.last() else { return Ok(Vec::new()) };
    let sql = "UPDATE lp_cursor SET next = ?1 WHERE grp = ?2 AND part = ?3";
    tx.run(sql, (last + 1, scope.group, part))?;
    let passed = Span::of((next..*last).filter(|offset| new.binary_search(offset).is_err()));
    let never = Claim { id: 0, part, span: Span::default(), due: tx.now(), attempt: 0, owner: 0 };
    wait(tx, scope.group, &never, passed)
}

/// Takes back what wasn't settled in time: it waits again, or goes to the dead letters after its last attempt.
pub(super) fn take_back(tx: &Tx<'_>, scope: &Scope, id: i64, late: &[u64]) -> Step<Vec<Claim>> {
    tx.begin()?;
    let Some(mut row) = held(tx, id, scope.member)? else { return Ok(Vec::new()) };
    tx.touch(scope.topic.id);
    let late: Vec<u64> = late.iter().copied().filter(|offset| row.span.remove(*offset)).collect();
    keep(tx, id, &std::mem::take(&mut row.span).tight())?;
    if row.attempt >= scope.max_attempts {
        let dead: Vec<_> = late.into_iter().map(|offset| (offset, NO_REPLY.to_owned())).collect();
        bury(tx, scope, row.part, row.attempt, &dead)?;
        return Ok(Vec::new());
    }
    wait(tx, scope.group, &Claim { due: tx.now(), ..row }, Span::of(late))
}
