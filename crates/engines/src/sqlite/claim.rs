//! Rows of `lp_claim`: reading, rewriting, giving up.

use linchpin_core::bus::{NO_REPLY, Origin, Position, dead_letter, dead_topic};
use linchpin_core::time::from_millis;
use rusqlite::Row;

use super::append::{append, row};
use super::message::read_places;
use super::topic;
use super::tx::{Step, Tx};
use crate::relational::Span;
use crate::relational::hand::Lost;
use crate::relational::store::{Claim, Scope};

pub(super) const COLUMNS: &str = "SELECT id, part, first, last, open, due, attempt, owner FROM lp_claim";

pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Claim> {
    let open = row.get_ref(4)?.as_blob_or_null()?;
    Ok(Claim {
        id: row.get(0)?,
        part: row.get(1)?,
        span: Span::from_stored(row.get(2)?, row.get(3)?, open),
        due: row.get(5)?,
        attempt: row.get(6)?,
        owner: row.get(7)?,
    })
}

/// The claim with this id, if this member still holds it.
pub(super) fn held(tx: &Tx<'_>, id: i64, member: i64) -> Step<Option<Claim>> {
    let claim = tx.maybe(&format!("{COLUMNS} WHERE id = ?1"), [id], read)?;
    Ok(claim.filter(|claim| claim.owner == member))
}

/// Inserts a claim; its id is new.
pub(super) fn insert(tx: &Tx<'_>, group: i64, claim: &Claim) -> Step<i64> {
    let Claim { part, span, due, attempt, owner, .. } = claim;
    let sql = "INSERT INTO lp_claim(grp, part, first, last, open, due, attempt, owner)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    tx.insert(sql, (group, part, span.first(), span.last(), span.stored(), due, attempt, owner))
}

/// Inserts waiting claims for these spans, otherwise like `like`.
pub(super) fn wait(tx: &Tx<'_>, group: i64, like: &Claim, spans: Vec<Span>) -> Step<Vec<Claim>> {
    let mut waiting = Vec::with_capacity(spans.len());
    for span in spans {
        let mut claim = Claim { id: 0, span, owner: 0, ..*like };
        claim.id = insert(tx, group, &claim)?;
        waiting.push(claim);
    }
    Ok(waiting)
}

/// Writes what is left of a claim; nothing left deletes it.
pub(super) fn keep(tx: &Tx<'_>, id: i64, left: &Span) -> Step<()> {
    if left.is_empty() {
        tx.run("DELETE FROM lp_claim WHERE id = ?1", [id])?;
    } else {
        let sql = "UPDATE lp_claim SET first = ?1, last = ?2, open = ?3 WHERE id = ?4";
        tx.run(sql, (left.first(), left.last(), left.stored(), id))?;
    }
    Ok(())
}

/// Gives back what was fetched and never handed out: its attempt doesn't count. Answers where it waits.
pub(super) fn unfetch_all(tx: &Tx<'_>, scope: &Scope, unused: &[Lost]) -> Step<Vec<Claim>> {
    let mut back = Vec::new();
    for lost in unused {
        back.extend(unfetch(tx, scope, lost.claim, &lost.offsets)?);
    }
    Ok(back)
}

fn unfetch(tx: &Tx<'_>, scope: &Scope, id: i64, unused: &[u64]) -> Step<Vec<Claim>> {
    tx.begin()?;
    let Some(mut row) = held(tx, id, scope.member)? else { return Ok(Vec::new()) };
    let back: Vec<u64> = unused.iter().copied().filter(|offset| row.span.remove(*offset)).collect();
    keep(tx, id, &std::mem::take(&mut row.span).tight())?;
    tx.touch(scope.topic.id);
    wait(
        tx,
        scope.group,
        &Claim { due: tx.now(), attempt: row.attempt.saturating_sub(1), ..row },
        Span::of(back),
    )
}

/// Makes everything that the member holds, or any member if none is named, wait: due now, under new ids. At least one of
/// `max_attempts` is left: leaving isn't failing.
pub(super) fn give_up(tx: &Tx<'_>, group: i64, member: Option<i64>, max_attempts: u32) -> Step<()> {
    let sql = format!("{COLUMNS} WHERE grp = ?1 AND owner <> 0 AND owner = coalesce(?2, owner)");
    for claim in tx.all(&sql, (group, member), read)? {
        keep(tx, claim.id, &Span::default())?;
        let attempt = claim.attempt.min(max_attempts.saturating_sub(1));
        insert(tx, group, &Claim { due: tx.now(), owner: 0, attempt, ..claim })?;
    }
    Ok(())
}

/// Puts messages among the dead letters of the group, with the topic's number of partitions, each in the partition it
/// came from, kept until somebody removes them. A broadcast subscriber leaves nothing behind: its failures are dropped.
pub(super) fn bury(tx: &Tx<'_>, scope: &Scope, part: i64, attempts: u32, dead: &[(u64, String)]) -> Step<()> {
    let Some(group) = scope.name.as_deref().filter(|_| !dead.is_empty()) else { return Ok(()) };
    let name = dead_topic(&scope.topic.name, group);
    let grave = match topic::find(tx.conn(), &name)? {
        Some(grave) => grave,
        None => topic::ensure(tx, &name, &scope.topic.grave_options())?,
    };
    let partition = scope.topic.partition(part);
    let mut rows = Vec::with_capacity(dead.len());
    for (offset, reason) in dead {
        let read = read_places(tx.conn(), part, &Span::full(*offset, 1))?;
        let Some(stored) = read.into_iter().next() else { continue };
        let position = Position::new(partition, *offset);
        let origin = Origin { topic: &scope.topic.name, group, position, attempts };
        let letter = dead_letter(stored.message, origin, reason, from_millis(tx.now()));
        rows.push(row(0, partition % grave.partitions, letter));
    }
    append(tx, &grave, &rows)?;
    Ok(())
}

/// What lies in a claim whose last attempt ended in silence goes to the dead letters.
pub(super) fn bury_all(tx: &Tx<'_>, scope: &Scope, claim: &Claim) -> Step<()> {
    let dead: Vec<_> = claim.span.iter().map(|offset| (offset, NO_REPLY.to_owned())).collect();
    bury(tx, scope, claim.part, claim.attempt, &dead)?;
    keep(tx, claim.id, &Span::default())
}
