//! Delays: a message waits in stages, queues whose messages all wait equally long, so that none holds up another.
//!
//! A message goes into the longest stage that is shorter than what is left of its delay, and comes to a member when
//! that is over, together with the time it is due. The member sends it into the next stage; what is left in the end, less than
//! the shortest stage, the member waits out itself.

use std::time::Duration;

use linchpin_core::Timestamp;
use linchpin_core::time::{plus, since};

use super::topic::STAGES;

/// When a message is due that is to wait so long; whole milliseconds are kept of it.
pub(super) fn after(now: Timestamp, delay: Duration) -> Timestamp {
    plus(now, delay.saturating_add(Duration::from_millis(1)))
}

/// How long the stage is, in milliseconds, that a message due then goes into; `None` if the rest is too short for one.
pub(super) fn ttl(due: Timestamp, now: Timestamp) -> Option<u64> {
    let left = u64::try_from(since(due, now).as_millis()).unwrap_or(u64::MAX);
    let bits = left.checked_ilog2().filter(|bits| *bits >= *STAGES.start())?;
    Some(1 << bits.min(*STAGES.end()))
}

#[cfg(test)]
mod tests {
    use linchpin_core::time::from_millis;

    use super::*;

    #[test]
    fn the_stage_is_the_longest_that_is_not_too_long() {
        let at = |ms| ttl(from_millis(ms + 1_000), from_millis(1_000));
        assert_eq!([at(-5), at(0), at(63)], [None; 3]);
        assert_eq!([at(64), at(127), at(800)], [Some(64), Some(64), Some(512)]);
        assert_eq!(at(i64::from(u32::MAX) * 4), Some(1 << 31));
    }
}
