//! Claiming messages for a member that competes with others.

use super::claim::{self, COLUMNS, bury_all, keep, read};
use super::group;
use super::tx::{Step, Tx};
use crate::relational::store::{Claim, Fetched, Scope, Want};
use crate::relational::{MAX_SPAN, Span};

/// The most expired or waiting claims of one transaction.
const CLAIMS: usize = 256;

/// Claims what is due, then what is new.
pub(super) fn fetch(tx: &Tx<'_>, scope: &Scope, want: &Want) -> Step<Fetched> {
    let mut fetched = Fetched::default();
    if !worth_it(tx, scope)? {
        fetched.next_due = next_due(tx, scope, want)?;
        return Ok(fetched);
    }
    tx.begin()?;
    let again = take_due(tx, scope, want, &mut fetched.claims)?;
    take_new(tx, scope, want, want.all - again, &mut fetched.claims)?;
    fetched.next_due = next_due(tx, scope, want)?;
    Ok(fetched)
}

/// Whether taking the write lock may bring something.
fn worth_it(tx: &Tx<'_>, scope: &Scope) -> Step<bool> {
    group::check_there(tx, scope)?;
    let sql = "SELECT EXISTS (SELECT 1 FROM lp_claim WHERE grp = ?1 AND due <= ?2)
        OR EXISTS (SELECT 1 FROM lp_cursor c JOIN lp_partition p ON p.id = c.part WHERE c.grp = ?1 AND c.next < p.next)";
    tx.one(sql, [scope.group, tx.now()], |row| row.get(0))
}

const ONLY: &str = "(?3 IS NULL OR part - ?4 IN (SELECT value FROM json_each(?3)))";

fn only(want: &Want) -> Option<String> {
    want.only.as_ref().map(|list| serde_json::json!(list).to_string())
}

fn next_due(tx: &Tx<'_>, scope: &Scope, want: &Want) -> Step<Option<i64>> {
    let sql = format!("SELECT min(due) FROM lp_claim WHERE grp = ?1 AND due > ?2 AND {ONLY}");
    tx.one(&sql, (scope.group, tx.now(), only(want), scope.topic.base), |row| row.get(0))
}

/// Claims that wait and whose time has come, and held ones whose lease ran out.
fn take_due(tx: &Tx<'_>, scope: &Scope, want: &Want, out: &mut Vec<Claim>) -> Step<u64> {
    let sql = format!("{COLUMNS} WHERE grp = ?1 AND due <= ?2 AND {ONLY} ORDER BY due LIMIT {CLAIMS}");
    let mut took = 0;
    for due in tx.all(&sql, (scope.group, tx.now(), only(want), scope.topic.base), read)? {
        if due.attempt >= scope.max_attempts {
            bury_all(tx, scope, &due)?;
            continue;
        }
        let room = if due.attempt == 0 { want.all } else { want.again }.saturating_sub(took);
        if room == 0 {
            continue;
        }
        let (mine, rest) = due.span.clone().split(room);
        took += mine.len();
        keep(tx, due.id, &rest)?;
        out.push(hold(tx, scope, due.part, mine, due.attempt + 1)?);
    }
    Ok(took)
}

fn take_new(tx: &Tx<'_>, scope: &Scope, want: &Want, mut room: u64, out: &mut Vec<Claim>) -> Step<()> {
    if room == 0 {
        return Ok(());
    }
    let sql = format!(
        "SELECT c.part, c.next, p.next FROM lp_cursor c JOIN lp_partition p ON p.id = c.part
         WHERE c.grp = ?1 AND c.next < p.next AND {}
         ORDER BY (c.part - ?4 + ?2) % ?5",
        ONLY.replace("part", "c.part")
    );
    let partitions = scope.topic.partitions;
    let turn = partitions - want.turn % partitions;
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let behind: Vec<(i64, u64, u64)> =
        tx.all(&sql, (scope.group, turn, only(want), scope.topic.base, partitions), read)?;
    for (part, mut next, end) in behind {
        while next < end && room > 0 {
            let span = Span::full(next, room.min(end - next).min(MAX_SPAN));
            next += span.len();
            room -= span.len();
            tx.run("UPDATE lp_cursor SET next = ?1 WHERE grp = ?2 AND part = ?3", (next, scope.group, part))?;
            out.push(hold(tx, scope, part, span, 1)?);
        }
    }
    Ok(())
}

fn hold(tx: &Tx<'_>, scope: &Scope, part: i64, span: Span, attempt: u32) -> Step<Claim> {
    let mut held = Claim { id: 0, part, span, due: scope.lease_end(tx.now()), attempt, owner: scope.member };
    held.id = claim::insert(tx, scope.group, &held)?;
    Ok(held)
}
