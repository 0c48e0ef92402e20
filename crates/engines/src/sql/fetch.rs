//! Claiming messages for a member that competes with others.

use super::claim::{self, COLUMNS, bury_all, keep, read_all};
use super::group;
use super::tx::{Step, Tx};
use crate::relational::store::{Claim, Fetched, Scope, Want};
use crate::relational::{MAX_SPAN, Span};

/// The most expired or waiting claims of one transaction.
const CLAIMS: i64 = 256;
/// How soon to look again for what another member is just taking, in milliseconds.
const CONTENDED: i64 = 5;

/// Claims what is due, then what is new. It never waits for another member: what that one is just taking is passed over.
pub(super) async fn fetch(tx: &mut Tx, scope: &Scope, want: &Want) -> Step<Fetched> {
    let mut fetched = Fetched::default();
    group::check_there(tx, scope).await?;
    if !worth_it(tx, scope).await? {
        fetched.next_due = next_due(tx, scope, want).await?;
        return Ok(fetched);
    }
    tx.begin().await?;
    let again = take_due(tx, scope, want, &mut fetched.claims).await?;
    let contended = take_new(tx, scope, want, want.all - again, &mut fetched.claims).await?;
    fetched.next_due = match contended && fetched.claims.is_empty() {
        true => Some(tx.now() + CONTENDED),
        false => next_due(tx, scope, want).await?,
    };
    Ok(fetched)
}

/// Whether a transaction may bring something.
async fn worth_it(tx: &mut Tx, scope: &Scope) -> Step<bool> {
    let due = "SELECT id FROM lp_claim WHERE grp = ? AND due <= ? LIMIT 1";
    if tx.maybe(due, &[scope.group.into(), tx.now().into()]).await?.is_some() {
        return Ok(true);
    }
    let behind = "SELECT p.id FROM lp_cursor c JOIN lp_partition p ON p.id = c.part
                  WHERE c.grp = ? AND c.next < p.next LIMIT 1";
    Ok(tx.maybe(behind, &[scope.group.into()]).await?.is_some())
}

/// Whether the member takes messages of this partition.
fn takes(scope: &Scope, want: &Want, part: i64) -> bool {
    want.only.as_ref().is_none_or(|only| only.contains(&scope.topic.partition(part)))
}

async fn next_due(tx: &mut Tx, scope: &Scope, want: &Want) -> Step<Option<i64>> {
    let (group, now) = (scope.group.into(), tx.now().into());
    if want.only.is_none() {
        let sql = "SELECT min(due) FROM lp_claim WHERE grp = ? AND due > ?";
        return Ok(tx.one(sql, &[group, now]).await?.opt_int(0)?);
    }
    let sql = "SELECT part, min(due) FROM lp_claim WHERE grp = ? AND due > ? GROUP BY part";
    let mut least = None;
    for row in tx.all(sql, &[group, now]).await? {
        if takes(scope, want, row.int(0)?) {
            least = [least, Some(row.int(1)?)].into_iter().flatten().min();
        }
    }
    Ok(least)
}

/// Claims that wait and whose time has come, and held ones whose lease ran out.
async fn take_due(tx: &mut Tx, scope: &Scope, want: &Want, out: &mut Vec<Claim>) -> Step<u64> {
    let sql =
        format!("{COLUMNS} WHERE grp = ? AND due <= ? ORDER BY due LIMIT {CLAIMS} FOR UPDATE SKIP LOCKED");
    let rows = tx.all(&sql, &[scope.group.into(), tx.now().into()]).await?;
    let mut took = 0;
    for due in read_all(&rows)?.into_iter().filter(|due| takes(scope, want, due.part)) {
        if due.attempt >= scope.max_attempts {
            bury_all(tx, scope, &due).await?;
            continue;
        }
        let room = if due.attempt == 0 { want.all } else { want.again }.saturating_sub(took);
        if room == 0 {
            continue;
        }
        let (mine, rest) = due.span.clone().split(room);
        took += mine.len();
        keep(tx, due.id, &rest).await?;
        out.push(hold(tx, scope, due.part, mine, due.attempt + 1).await?);
    }
    Ok(took)
}

/// Says whether there is more that another member holds the cursor of.
async fn take_new(
    tx: &mut Tx,
    scope: &Scope,
    want: &Want,
    mut room: u64,
    out: &mut Vec<Claim>,
) -> Step<bool> {
    if room == 0 {
        return Ok(false);
    }
    let mut behind = behind(tx, scope, want).await?;
    let partitions = scope.topic.partitions;
    let first = want.turn % partitions;
    behind.sort_by_key(|part| (scope.topic.partition(*part) + partitions - first) % partitions);
    let mut contended = false;
    for part in behind {
        if room == 0 {
            break;
        }
        let sql = "SELECT next FROM lp_cursor WHERE grp = ? AND part = ? FOR UPDATE SKIP LOCKED";
        let Some(cursor) = tx.maybe(sql, &[scope.group.into(), part.into()]).await? else {
            contended = true;
            continue;
        };
        // What was known of the end may be old by now; offsets below it are committed all the same.
        let end = tx.one("SELECT next FROM lp_partition WHERE id = ?", &[part.into()]).await?.count(0)?;
        let start: u64 = cursor.count(0)?;
        let mut next = start;
        while next < end && room > 0 {
            let span = Span::full(next, room.min(end - next).min(MAX_SPAN));
            next += span.len();
            room -= span.len();
            out.push(hold(tx, scope, part, span, 1).await?);
        }
        if next > start {
            let sql = "UPDATE lp_cursor SET next = ? WHERE grp = ? AND part = ?";
            tx.run(sql, &[next.into(), scope.group.into(), part.into()]).await?;
        }
    }
    Ok(contended)
}

/// The partitions in which there is something the group was never handed.
async fn behind(tx: &mut Tx, scope: &Scope, want: &Want) -> Step<Vec<i64>> {
    let sql = "SELECT c.part FROM lp_cursor c JOIN lp_partition p ON p.id = c.part
               WHERE c.grp = ? AND c.next < p.next";
    let mut parts = Vec::new();
    for row in tx.all(sql, &[scope.group.into()]).await? {
        parts.push(row.int(0)?);
    }
    parts.retain(|part| takes(scope, want, *part));
    Ok(parts)
}

async fn hold(tx: &mut Tx, scope: &Scope, part: i64, span: Span, attempt: u32) -> Step<Claim> {
    let mut held = Claim { id: 0, part, span, due: scope.lease_end(tx.now()), attempt, owner: scope.member };
    held.id = claim::insert(tx, scope.group, &held).await?;
    Ok(held)
}
