//! When deliveries in hand run out: what was handed out together has one lease, and settling only counts it down.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Instant;

/// Which lease a delivery has: when it runs out, and the first delivery under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lease {
    pub(super) deadline: Instant,
    first: u64,
}

/// The leases that run. Invariant: each has at least one delivery that isn't settled.
#[derive(Debug, Default)]
pub(super) struct Leases(BTreeMap<Lease, Running>);

#[derive(Debug)]
struct Running {
    last: u64,
    /// Deliveries that still have it.
    open: usize,
}

impl Leases {
    /// One more delivery, larger in number than all before it, under the lease of those that were handed out with it.
    pub(super) fn join(&mut self, lease: Option<Lease>, deadline: Instant, id: u64) -> Lease {
        let lease = lease.filter(|lease| lease.deadline == deadline).unwrap_or(Lease { deadline, first: id });
        let running = self.0.entry(lease).or_insert(Running { last: id, open: 0 });
        running.last = running.last.max(id);
        running.open += 1;
        lease
    }

    /// A delivery doesn't have it any more.
    pub(super) fn end(&mut self, lease: Lease) {
        if let Some(running) = self.0.get_mut(&lease) {
            running.open = running.open.saturating_sub(1);
            if running.open == 0 {
                self.0.remove(&lease);
            }
        }
    }

    /// A lease that has run out, and the numbers that may have it: some of them are settled, or have another one.
    pub(super) fn lapsed(&mut self, now: Instant) -> Option<(Lease, RangeInclusive<u64>)> {
        let first = self.0.first_entry().filter(|entry| entry.key().deadline <= now)?;
        let (lease, Running { last, .. }) = first.remove_entry();
        Some((lease, lease.first..=last))
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.first_key_value().map(|(lease, _)| lease.deadline)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_lease_runs_until_the_last_that_has_it_is_settled() {
        let mut leases = Leases::default();
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(9));
        let first = leases.join(None, later, 1);
        assert_eq!(leases.join(Some(first), later, 2), first);
        let extended = leases.join(None, later + Duration::from_secs(1), 1);
        assert_ne!(extended, first);
        assert_eq!((leases.next(), leases.lapsed(now)), (Some(later), None));
        leases.end(first);
        assert_eq!(leases.next(), Some(later));
        leases.end(first);
        assert_eq!(leases.next(), Some(extended.deadline));
        assert_eq!(leases.lapsed(extended.deadline), Some((extended, 1..=1)));
        assert_eq!(leases.next(), None);
    }

    #[test]
    fn another_time_is_another_lease() {
        let mut leases = Leases::default();
        let now = Instant::now();
        let first = leases.join(None, now, 1);
        let second = leases.join(Some(first), now + Duration::from_secs(1), 2);
        assert_eq!(leases.lapsed(now), Some((first, 1..=1)));
        assert_eq!(leases.lapsed(now), None);
        assert_eq!(leases.next(), Some(second.deadline));
    }
}
