//! Rows of `lp_claim`: reading, rewriting, giving up.

use linchpin_core::bus::{NO_REPLY, Origin, Position, dead_letter, dead_topic};
use linchpin_core::time::from_millis;

use super::append::{append, row as incoming};
use super::conn::{Answer, Row};
use super::message::read_places;
use super::topic;
use super::tx::{Step, Tx};
use crate::relational::Span;
use crate::relational::hand::Lost;
use crate::relational::store::{Claim, Scope};

pub(super) const COLUMNS: &str = "SELECT id, part, first, last, open_bits, due, attempt, owner FROM lp_claim";

pub(super) fn read(row: &Row) -> Answer<Claim> {
    Ok(Claim {
        id: row.int(0)?,
        part: row.int(1)?,
        span: Span::from_stored(row.count(2)?, row.count(3)?, row.blob(4)?),
        due: row.int(5)?,
        attempt: row.count(6)?,
        owner: row.int(7)?,
    })
}

pub(super) fn read_all(rows: &[Row]) -> Answer<Vec<Claim>> {
    rows.iter().map(read).collect()
}

/// These claims, locked in rising order; those that are gone are left out.
pub(super) async fn lock(tx: &mut Tx, ids: &[i64]) -> Step<Vec<Claim>> {
    let rows = tx.all_in(&format!("{COLUMNS} WHERE id IN"), ids, "ORDER BY id FOR UPDATE").await?;
    Ok(read_all(&rows)?)
}

/// The claim with this id, locked, if this member still holds it.
pub(super) async fn held(tx: &mut Tx, id: i64, member: i64) -> Step<Option<Claim>> {
    Ok(lock(tx, &[id]).await?.pop().filter(|claim| claim.owner == member))
}

/// Inserts a claim; its id is new.
pub(super) async fn insert(tx: &mut Tx, group: i64, claim: &Claim) -> Step<i64> {
    let Claim { part, span, due, attempt, owner, .. } = claim;
    let sql = "INSERT INTO lp_claim(grp, part, first, last, open_bits, due, attempt, owner)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
    let (part, due, owner) = ((*part).into(), (*due).into(), (*owner).into());
    let (first, last, attempt) = (span.first().into(), span.last().into(), (*attempt).into());
    tx.insert(sql, &[group.into(), part, first, last, span.stored().into(), due, attempt, owner]).await
}

/// Inserts waiting claims for these spans, otherwise like `like`.
pub(super) async fn wait(tx: &mut Tx, group: i64, like: &Claim, spans: Vec<Span>) -> Step<Vec<Claim>> {
    let mut waiting = Vec::with_capacity(spans.len());
    for span in spans {
        let mut claim = Claim { id: 0, span, owner: 0, ..*like };
        claim.id = insert(tx, group, &claim).await?;
        waiting.push(claim);
    }
    Ok(waiting)
}

/// Writes what is left of a claim; nothing left deletes it.
pub(super) async fn keep(tx: &mut Tx, id: i64, left: &Span) -> Step<()> {
    if left.is_empty() {
        tx.run("DELETE FROM lp_claim WHERE id = ?", &[id.into()]).await?;
    } else {
        let sql = "UPDATE lp_claim SET first = ?, last = ?, open_bits = ? WHERE id = ?";
        tx.run(sql, &[left.first().into(), left.last().into(), left.stored().into(), id.into()]).await?;
    }
    Ok(())
}

/// Gives back what was fetched and never handed out: its attempt doesn't count. Answers where it waits.
pub(super) async fn unfetch_all(tx: &mut Tx, scope: &Scope, unused: &[Lost]) -> Step<Vec<Claim>> {
    let mut back = Vec::new();
    for lost in unused {
        back.extend(unfetch(tx, scope, lost.claim, &lost.offsets).await?);
    }
    Ok(back)
}

async fn unfetch(tx: &mut Tx, scope: &Scope, id: i64, unused: &[u64]) -> Step<Vec<Claim>> {
    tx.begin().await?;
    let Some(mut row) = held(tx, id, scope.member).await? else { return Ok(Vec::new()) };
    let back: Vec<u64> = unused.iter().copied().filter(|offset| row.span.remove(*offset)).collect();
    keep(tx, id, &std::mem::take(&mut row.span).tight()).await?;
    tx.touch(scope.topic.id);
    let like = Claim { due: tx.now(), attempt: row.attempt.saturating_sub(1), ..row };
    wait(tx, scope.group, &like, Span::of(back)).await
}

/// Makes everything that the member holds, or any member if none is named, wait: due now, under new ids. At least one of
/// `max_attempts` is left: leaving isn't failing.
pub(super) async fn give_up(tx: &mut Tx, group: i64, member: Option<i64>, max_attempts: u32) -> Step<()> {
    let rows = match member {
        Some(member) => {
            let sql = format!("{COLUMNS} WHERE grp = ? AND owner = ? ORDER BY id FOR UPDATE");
            tx.all(&sql, &[group.into(), member.into()]).await?
        }
        None => {
            let sql = format!("{COLUMNS} WHERE grp = ? AND owner <> 0 ORDER BY id FOR UPDATE");
            tx.all(&sql, &[group.into()]).await?
        }
    };
    for claim in read_all(&rows)? {
        keep(tx, claim.id, &Span::default()).await?;
        let attempt = claim.attempt.min(max_attempts.saturating_sub(1));
        insert(tx, group, &Claim { due: tx.now(), owner: 0, attempt, ..claim }).await?;
    }
    Ok(())
}

/// Puts messages among the dead letters of the group, with the topic's number of partitions, each in the partition it
/// came from, kept until somebody removes them. A broadcast subscriber leaves nothing behind: its failures are dropped.
pub(super) async fn bury(
    tx: &mut Tx,
    scope: &Scope,
    part: i64,
    attempts: u32,
    dead: &[(u64, String)],
) -> Step<()> {
    let Some(group) = scope.name.as_deref().filter(|_| !dead.is_empty()) else { return Ok(()) };
    let name = dead_topic(&scope.topic.name, group);
    let grave = match topic::find(tx, &name).await? {
        Some(grave) => grave,
        None => topic::ensure(tx, &name, &scope.topic.grave_options()).await?,
    };
    let partition = scope.topic.partition(part);
    let mut rows = Vec::with_capacity(dead.len());
    for (offset, reason) in dead {
        let read = read_places(tx, part, &Span::full(*offset, 1)).await?;
        let Some(stored) = read.into_iter().next() else { continue };
        let position = Position::new(partition, *offset);
        let origin = Origin { topic: &scope.topic.name, group, position, attempts };
        let letter = dead_letter(stored.message, origin, reason, from_millis(tx.now()));
        rows.push(incoming(0, partition % grave.partitions, letter));
    }
    match append(tx, &[(&grave, &rows)]).await?.pop() {
        Some(Some(_)) => Ok(()),
        // Removed at this moment: the next try makes it anew.
        _ => Err(topic::vanished(&name).into()),
    }
}

/// What lies in a claim whose last attempt ended in silence goes to the dead letters.
pub(super) async fn bury_all(tx: &mut Tx, scope: &Scope, claim: &Claim) -> Step<()> {
    let dead: Vec<_> = claim.span.iter().map(|offset| (offset, NO_REPLY.to_owned())).collect();
    bury(tx, scope, claim.part, claim.attempt, &dead).await?;
    keep(tx, claim.id, &Span::default()).await
}
