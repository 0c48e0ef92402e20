//! Settling deliveries of one claim.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::claim::{self, bury, held, keep, wait};
use super::tx::{Step, Tx};
use crate::relational::store::{Batch, Claim, Scope, Settled};
use crate::relational::topic::millis_up;
use crate::relational::{Plan, Span, plan};

/// Settles batch after batch, those of one claim together: its row is read and written once.
pub(super) fn settle_all(tx: &Tx<'_>, scope: &Scope, batches: &[Arc<Batch>]) -> Step<Vec<Settled>> {
    let mut claims: BTreeMap<i64, Vec<(usize, &Batch)>> = BTreeMap::new();
    for (n, batch) in batches.iter().enumerate() {
        claims.entry(batch.claim).or_default().push((n, batch));
    }
    let mut all = Vec::new();
    for (claim, batches) in claims {
        let asked = batches.iter().flat_map(|(_, batch)| batch.asked.iter().cloned()).collect();
        let mut settled = settle(tx, scope, &Batch { claim, asked })?;
        let mut took = settled.took.into_iter();
        for (n, batch) in batches {
            let took = took.by_ref().take(batch.asked.len()).collect();
            let waiting = std::mem::take(&mut settled.waiting);
            all.push((n, Settled { took, extended: settled.extended, waiting }));
        }
    }
    all.sort_by_key(|(n, _)| *n);
    Ok(all.into_iter().map(|(_, settled)| settled).collect())
}

/// Settles, if the member still holds the claim: its id says so, whatever time it is here.
pub(super) fn settle(tx: &Tx<'_>, scope: &Scope, batch: &Batch) -> Step<Settled> {
    tx.begin()?;
    let Some(row) = held(tx, batch.claim, scope.member)? else {
        return Ok(Settled { took: vec![false; batch.asked.len()], ..Settled::default() });
    };
    let plan = plan(row.span.clone(), row.attempt, scope.max_attempts, &batch.asked);
    let extended = extend(tx, scope, &row, &plan)?;
    let mut waiting = Vec::new();
    for (delay, spans) in plan.again {
        let due = tx.now().saturating_add(millis_up(delay));
        waiting.extend(wait(tx, scope.group, &Claim { due, span: Span::default(), ..row }, spans)?);
        tx.touch(scope.topic.id);
    }
    bury(tx, scope, row.part, row.attempt, &plan.dead)?;
    Ok(Settled { took: plan.took, extended, waiting })
}

/// Writes what stays held: what was left alone under its old lease, what was extended under a new one.
fn extend(tx: &Tx<'_>, scope: &Scope, row: &Claim, plan: &Plan) -> Step<i64> {
    let Some(span) = plan.extended.first() else {
        keep(tx, row.id, &plan.left)?;
        return Ok(row.id);
    };
    let due = scope.lease_end(tx.now());
    if plan.left.is_empty() {
        keep(tx, row.id, span)?;
        tx.run("UPDATE lp_claim SET due = ?1 WHERE id = ?2", [due, row.id])?;
        return Ok(row.id);
    }
    if due == row.due {
        // Under an order the partition's owner keeps the lease, for all alike.
        let both = Span::of(row.span.iter().filter(|o| plan.left.contains(*o) || span.contains(*o)));
        keep(tx, row.id, both.first().unwrap_or(span))?;
        return Ok(row.id);
    }
    keep(tx, row.id, &plan.left)?;
    claim::insert(tx, scope.group, &Claim { span: span.clone(), due, ..row.clone() })
}
