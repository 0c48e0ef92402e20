//! What settling does to a claim.

use std::collections::BTreeMap;
use std::time::Duration;

use linchpin_core::bus::Settle;

use super::Span;

/// What is to be written for one claim, and what to answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// What stays in the claim. Empty: the claim goes.
    pub left: Span,
    /// What was extended; it takes a lease of its own unless nothing is left beside it.
    pub extended: Vec<Span>,
    /// What comes again, by the least time until then. Each becomes a waiting claim with the same attempt.
    pub again: BTreeMap<Duration, Vec<Span>>,
    /// What becomes a dead letter, with the reason.
    pub dead: Vec<(u64, String)>,
    /// Which of the settles took effect, in the order asked: the others were lost or settled before.
    pub took: Vec<bool>,
}

/// Settles offsets of a claim whose open ones are `open`, handed out for the `attempt`th time of `max_attempts`.
pub fn plan(mut open: Span, attempt: u32, max_attempts: u32, asked: &[(u64, Settle)]) -> Plan {
    let mut extended = Vec::new();
    let mut again: BTreeMap<Duration, Vec<u64>> = BTreeMap::new();
    let mut dead = Vec::new();
    let mut took = Vec::with_capacity(asked.len());
    for (offset, settle) in asked {
        let mine = open.remove(*offset);
        took.push(mine);
        match settle {
            _ if !mine => {}
            Settle::Ack => {}
            Settle::Extend => extended.push(*offset),
            Settle::Nack { reason, .. } if attempt >= max_attempts => dead.push((*offset, reason.clone())),
            Settle::Nack { delay, .. } => again.entry(*delay).or_default().push(*offset),
            Settle::Dead { reason } => dead.push((*offset, reason.clone())),
        }
    }
    Plan { left: open.tight(), extended: spans(extended), again: by_delay(again), dead, took }
}

fn by_delay(again: BTreeMap<Duration, Vec<u64>>) -> BTreeMap<Duration, Vec<Span>> {
    again.into_iter().map(|(delay, offsets)| (delay, spans(offsets))).collect()
}

fn spans(mut offsets: Vec<u64>) -> Vec<Span> {
    offsets.sort_unstable();
    Span::of(offsets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nack(delay: u64) -> Settle {
        Settle::Nack { delay: Duration::from_secs(delay), reason: "no".into() }
    }

    #[test]
    fn every_fate_goes_its_way() {
        let asked = [
            (1, Settle::Ack),
            (3, nack(5)),
            (2, nack(5)),
            (4, nack(0)),
            (5, Settle::Dead { reason: "bad".into() }),
            (6, Settle::Extend),
            (1, Settle::Ack),
            (99, Settle::Ack),
        ];
        let plan = plan(Span::full(0, 8), 1, 3, &asked);
        assert_eq!(plan.left.iter().collect::<Vec<_>>(), [0, 7]);
        assert_eq!(plan.took, [true, true, true, true, true, true, false, false]);
        assert_eq!(plan.again[&Duration::from_secs(5)], Span::of([2, 3]));
        assert_eq!(plan.again[&Duration::ZERO], Span::of([4]));
        assert_eq!(plan.dead, [(5, "bad".to_owned())]);
        assert_eq!(plan.extended, Span::of([6]));
    }

    #[test]
    fn the_last_attempt_is_a_dead_letter_and_nothing_is_left() {
        let plan = plan(Span::full(7, 2), 3, 3, &[(7, nack(1)), (8, Settle::Ack)]);
        assert!(plan.left.is_empty() && plan.again.is_empty());
        assert_eq!(plan.dead, [(7, "no".to_owned())]);
    }

    #[test]
    fn a_settle_repeated_in_one_batch_counts_once() {
        let plan = plan(Span::full(0, 1), 1, 3, &[(0, nack(0)), (0, Settle::Ack)]);
        assert_eq!(plan.took, [true, false]);
        assert_eq!(plan.again.len(), 1);
    }
}
