//! The database's clock, between one look at it and the next.

use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What the database's clock shows, carried on at the pace of the host's monotonic clock. It is never ahead of the
/// database's by more than the two drift apart between transactions, since it is read when the answer has come.
#[derive(Debug)]
pub(super) struct DatabaseClock(Mutex<(i64, Instant)>);

impl DatabaseClock {
    pub(super) fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(Mutex::new((i64::try_from(since.as_millis()).unwrap_or(i64::MAX), Instant::now())))
    }

    /// Milliseconds since 1970.
    pub(super) fn now(&self) -> i64 {
        let (at, when) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        at.saturating_add(i64::try_from(when.elapsed().as_millis()).unwrap_or(i64::MAX))
    }

    /// The database just said what time it is.
    pub(super) fn read(&self, now: i64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (now, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_what_the_database_said() {
        let clock = DatabaseClock::new();
        clock.read(1_000);
        assert!((1_000..2_000).contains(&clock.now()));
    }
}
