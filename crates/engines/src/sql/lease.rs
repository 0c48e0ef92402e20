//! Partitions under an order: who owns them, and handing out what an owner holds.

use std::collections::BTreeMap;

use linchpin_core::bus::NO_REPLY;
use linchpin_core::{Error, Kind};

use super::claim::{self, COLUMNS, bury, bury_all, held, keep, read_all, wait};
use super::group;
use super::tx::{Step, Tx};
use crate::relational::Span;
use crate::relational::hand::Lost;
use crate::relational::lease::{Cursor, Living, compare};
use crate::relational::store::{Claim, Marked, Pick, Picks, Scope, Taken, View};

/// Looks at the group, and takes the partitions that are this member's share and free.
/// `mine` are those it owns, with their fences.
pub(super) async fn look(tx: &mut Tx, scope: &Scope, mine: &BTreeMap<i64, u64>) -> Step<View> {
    let (view, take) = see(tx, scope, mine, "").await?;
    if take.is_empty() {
        return Ok(view);
    }
    tx.begin().await?;
    // What was free may have been taken meanwhile: this time the cursors are locked.
    let (mut view, take) = see(tx, scope, mine, "FOR UPDATE").await?;
    for part in take {
        view.taken.push(take_over(tx, scope, part).await?);
    }
    Ok(view)
}

async fn see(tx: &mut Tx, scope: &Scope, mine: &BTreeMap<i64, u64>, lock: &str) -> Step<(View, Vec<i64>)> {
    let cursors = cursors(tx, scope, lock).await?;
    if cursors.is_empty() {
        group::check_there(tx, scope).await?;
    }
    let sql = "SELECT id, active, wants FROM lp_member WHERE grp = ? AND due > ? ORDER BY id";
    let rows = tx.all(sql, &[scope.group.into(), tx.now().into()]).await?;
    let mut living = Vec::with_capacity(rows.len());
    for row in rows {
        living.push(Living { id: row.int(0)?, active: row.flag(1)?, only: row.opt_text(2)? });
    }
    Ok(compare(scope.member, mine, &cursors, &living))
}

async fn cursors(tx: &mut Tx, scope: &Scope, lock: &str) -> Step<Vec<Cursor>> {
    let topic = &scope.topic;
    let range = [topic.base.into(), topic.part(topic.partitions).into()];
    let sql = format!("SELECT part, owner, fence FROM lp_cursor WHERE grp = ? ORDER BY part {lock}");
    let rows = tx.all(&sql, &[scope.group.into()]).await?;
    let sql = "SELECT id, next FROM lp_partition WHERE id >= ? AND id < ? ORDER BY id";
    let mut ends = BTreeMap::new();
    for row in tx.all(sql, &range).await? {
        ends.insert(row.int(0)?, row.count(1)?);
    }
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        let part = row.int(0)?;
        let end = ends.get(&part).copied().unwrap_or_default();
        out.push(Cursor { part, owner: row.int(1)?, fence: row.count(2)?, end });
    }
    Ok(out)
}

/// Makes the member the owner, with a higher fence. What the owner before held waits again under new ids, so that
/// nothing it still settles takes effect; what it held for the last time goes to the dead letters.
async fn take_over(tx: &mut Tx, scope: &Scope, part: i64) -> Step<Taken> {
    let key = [scope.group.into(), part.into()];
    let sql = "UPDATE lp_cursor SET owner = ?, fence = fence + 1 WHERE grp = ? AND part = ?";
    tx.run(sql, &[scope.member.into(), scope.group.into(), part.into()]).await?;
    let row = tx.one("SELECT next, fence FROM lp_cursor WHERE grp = ? AND part = ?", &key).await?;
    let mut waiting = Vec::new();
    let all = format!("{COLUMNS} WHERE grp = ? AND part = ? ORDER BY id FOR UPDATE");
    for claim in read_all(&tx.all(&all, &key).await?)? {
        if claim.owner == 0 {
            waiting.push(claim);
        } else if claim.attempt >= scope.max_attempts {
            bury_all(tx, scope, &claim).await?;
        } else {
            keep(tx, claim.id, &Span::default()).await?;
            let mut free = Claim { due: tx.now(), owner: 0, ..claim };
            free.id = claim::insert(tx, scope.group, &free).await?;
            waiting.push(free);
        }
    }
    Ok(Taken { part, next: row.count(0)?, fence: row.count(1)?, waiting })
}

/// Lets go of partitions of which nothing is in hand.
pub(super) async fn release(tx: &mut Tx, scope: &Scope, parts: &[(i64, u64)], active: bool) -> Step<()> {
    tx.begin().await?;
    for (part, fence) in parts {
        let sql = "UPDATE lp_cursor SET owner = 0 WHERE grp = ? AND part = ? AND owner = ? AND fence = ?";
        let (part, member, fence) = ((*part).into(), scope.member.into(), (*fence).into());
        tx.run(sql, &[scope.group.into(), part, member, fence]).await?;
    }
    set_active(tx, scope, active).await?;
    tx.touch(scope.topic.id);
    Ok(())
}

/// Says whether the member wants partitions.
pub(super) async fn set_active(tx: &mut Tx, scope: &Scope, active: bool) -> Step<()> {
    tx.begin().await?;
    let sql = "UPDATE lp_member SET active = ? WHERE id = ?";
    tx.run(sql, &[active.into(), scope.member.into()]).await?;
    Ok(())
}

/// Writes down that these are handed out now. `None` for a partition that has another owner.
pub(super) async fn mark_all(tx: &mut Tx, scope: &Scope, picks: &[Picks]) -> Step<Vec<Option<Marked>>> {
    tx.begin().await?;
    let mut out = Vec::with_capacity(picks.len());
    for picks in picks {
        out.push(mark(tx, scope, picks).await?);
    }
    Ok(out)
}

async fn mark(tx: &mut Tx, scope: &Scope, Picks { part, fence, picks }: &Picks) -> Step<Option<Marked>> {
    let sql = "SELECT next FROM lp_cursor WHERE grp = ? AND part = ? AND owner = ? AND fence = ? FOR UPDATE";
    let owner = [scope.group.into(), (*part).into(), scope.member.into(), (*fence).into()];
    let Some(row) = tx.maybe(sql, &owner).await? else { return Ok(None) };
    let next = row.count(0)?;
    take_out(tx, picks).await?;
    let mut marked = Marked { passed: advance(tx, scope, *part, next, picks).await?, ..Marked::default() };
    // In the order in which they are handed out: a claim has one attempt.
    for run in picks.chunk_by(|a, b| a.attempt == b.attempt) {
        let attempt = run.first().map_or(1, |pick| pick.attempt + 1);
        let due = scope.lease_end(tx.now());
        for span in Span::of(run.iter().map(|pick| pick.offset)) {
            let mut held = Claim { id: 0, part: *part, span, due, attempt, owner: scope.member };
            held.id = claim::insert(tx, scope.group, &held).await?;
            marked.held.push(held);
        }
    }
    Ok(Some(marked))
}

/// Takes picks out of the claims they waited in.
async fn take_out(tx: &mut Tx, picks: &[Pick]) -> Step<()> {
    let mut out_of: BTreeMap<i64, Vec<u64>> = BTreeMap::new();
    for pick in picks {
        if let Some(claim) = pick.claim {
            out_of.entry(claim).or_default().push(pick.offset);
        }
    }
    for (id, offsets) in out_of {
        let missing = || Error::new(Kind::Corrupt, format!("claim {id} is missing"));
        let mut row = held(tx, id, 0).await?.ok_or_else(missing)?;
        for offset in offsets {
            row.span.remove(offset);
        }
        keep(tx, id, &row.span.tight()).await?;
    }
    Ok(())
}

/// Moves the cursor behind the highest new pick; what it passes over waits in claims that were never handed out.
async fn advance(tx: &mut Tx, scope: &Scope, part: i64, next: u64, picks: &[Pick]) -> Step<Vec<Claim>> {
    let new: Vec<u64> = picks.iter().filter(|p| p.claim.is_none()).map(|p| p.offset).collect();
    let Some(last) = new.last() else { return Ok(Vec::new()) };
    let sql = "UPDATE lp_cursor SET next = ? WHERE grp = ? AND part = ?";
    tx.run(sql, &[(last + 1).into(), scope.group.into(), part.into()]).await?;
    let passed = Span::of((next..*last).filter(|offset| new.binary_search(offset).is_err()));
    let never = Claim { id: 0, part, span: Span::default(), due: tx.now(), attempt: 0, owner: 0 };
    wait(tx, scope.group, &never, passed).await
}

/// Takes back what wasn't settled in time: it waits again, or goes to the dead letters after its last attempt.
pub(super) async fn take_back(tx: &mut Tx, scope: &Scope, late: &Lost) -> Step<Vec<Claim>> {
    tx.begin().await?;
    let Some(mut row) = held(tx, late.claim, scope.member).await? else { return Ok(Vec::new()) };
    tx.touch(scope.topic.id);
    let offsets: Vec<u64> = late.offsets.iter().copied().filter(|offset| row.span.remove(*offset)).collect();
    keep(tx, late.claim, &std::mem::take(&mut row.span).tight()).await?;
    if row.attempt >= scope.max_attempts {
        let dead: Vec<_> = offsets.into_iter().map(|offset| (offset, NO_REPLY.to_owned())).collect();
        bury(tx, scope, row.part, row.attempt, &dead).await?;
        return Ok(Vec::new());
    }
    wait(tx, scope.group, &Claim { due: tx.now(), ..row }, Span::of(offsets)).await
}
