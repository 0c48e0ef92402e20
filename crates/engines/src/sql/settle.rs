//! Settling deliveries: those of all callers that wait, in one transaction.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::claim::{self, bury, keep, wait};
use super::tx::{Step, Tx};
use crate::relational::store::{Batch, Claim, Scope, Settled};
use crate::relational::topic::millis_up;
use crate::relational::{Plan, Span, plan};

/// What one caller asks.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) scope: Arc<Scope>,
    pub(super) batches: Vec<Arc<Batch>>,
}

impl Ask {
    /// How many deliveries it is about.
    pub(super) fn weight(&self) -> usize {
        self.batches.iter().map(|batch| batch.asked.len()).sum()
    }
}

/// Settles for every caller, if its member still holds the claims: their ids say so, whatever time it is. A claim's row
/// is read and written once.
pub(super) async fn settle_all(tx: &mut Tx, asks: &[Ask]) -> Step<Vec<Vec<Settled>>> {
    tx.begin().await?;
    let mut out: Vec<Vec<Settled>> =
        asks.iter().map(|ask| ask.batches.iter().map(|b| lost(b)).collect()).collect();
    let mut of_claim: BTreeMap<i64, Vec<(usize, usize)>> = BTreeMap::new();
    for (a, ask) in asks.iter().enumerate() {
        for (b, batch) in ask.batches.iter().enumerate() {
            of_claim.entry(batch.claim).or_default().push((a, b));
        }
    }
    let ids: Vec<i64> = of_claim.keys().copied().collect();
    let mut emptied = Vec::new();
    for row in claim::lock(tx, &ids).await? {
        let batches = of_claim.get(&row.id).into_iter().flatten().filter_map(|(a, b)| {
            let ask = asks.get(*a).filter(|ask| ask.scope.member == row.owner)?;
            Some((*a, *b, ask, ask.batches.get(*b)?))
        });
        let batches: Vec<_> = batches.collect();
        let Some((_, _, ask, _)) = batches.first() else { continue };
        let asked: Vec<_> = batches.iter().flat_map(|(.., batch)| batch.asked.iter().cloned()).collect();
        let mut settled = settle(tx, &ask.scope, row, &asked, &mut emptied).await?;
        let mut took = std::mem::take(&mut settled.took).into_iter();
        for (a, b, _, batch) in &batches {
            if let Some(answer) = out.get_mut(*a).and_then(|answers| answers.get_mut(*b)) {
                answer.took = took.by_ref().take(batch.asked.len()).collect();
                answer.extended = settled.extended;
                answer.waiting = std::mem::take(&mut settled.waiting);
            }
        }
    }
    tx.run_in("DELETE FROM lp_claim WHERE id IN", &emptied).await?;
    Ok(out)
}

/// The answer to who doesn't hold the claim any more.
fn lost(batch: &Batch) -> Settled {
    Settled { took: vec![false; batch.asked.len()], ..Settled::default() }
}

async fn settle(
    tx: &mut Tx,
    scope: &Scope,
    row: Claim,
    asked: &[(u64, linchpin_core::bus::Settle)],
    emptied: &mut Vec<i64>,
) -> Step<Settled> {
    let plan = plan(row.span.clone(), row.attempt, scope.max_attempts, asked);
    let extended = if plan.extended.is_empty() && plan.left.is_empty() {
        emptied.push(row.id);
        row.id
    } else {
        extend(tx, scope, &row, &plan).await?
    };
    let mut waiting = Vec::new();
    for (delay, spans) in plan.again {
        let due = tx.now().saturating_add(millis_up(delay));
        waiting.extend(wait(tx, scope.group, &Claim { due, span: Span::default(), ..row }, spans).await?);
        tx.touch(scope.topic.id);
    }
    bury(tx, scope, row.part, row.attempt, &plan.dead).await?;
    Ok(Settled { took: plan.took, extended, waiting })
}

/// Writes what stays held: what was left alone under its old lease, what was extended under a new one.
async fn extend(tx: &mut Tx, scope: &Scope, row: &Claim, plan: &Plan) -> Step<i64> {
    let Some(span) = plan.extended.first() else {
        keep(tx, row.id, &plan.left).await?;
        return Ok(row.id);
    };
    let due = scope.lease_end(tx.now());
    if plan.left.is_empty() {
        keep(tx, row.id, span).await?;
        tx.run("UPDATE lp_claim SET due = ? WHERE id = ?", &[due.into(), row.id.into()]).await?;
        return Ok(row.id);
    }
    if due == row.due {
        // Under an order the partition's owner keeps the lease, for all alike.
        let both = Span::of(row.span.iter().filter(|o| plan.left.contains(*o) || span.contains(*o)));
        keep(tx, row.id, both.first().unwrap_or(span)).await?;
        return Ok(row.id);
    }
    keep(tx, row.id, &plan.left).await?;
    claim::insert(tx, scope.group, &Claim { span: span.clone(), due, ..row.clone() }).await
}
