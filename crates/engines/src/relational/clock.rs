//! The host's clock, kept from going back.

use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 that never step back: where the host's clock does, this one goes on at the pace of the
/// monotonic clock until the host's has caught up.
#[derive(Debug)]
pub struct MonotoneClock(Mutex<(i64, Instant)>);

impl MonotoneClock {
    /// A clock that shows the host's time, or `least` if that is later.
    pub fn new(least: i64) -> Self {
        Self(Mutex::new((host().max(least), Instant::now())))
    }

    /// Never earlier than this from now on.
    pub fn at_least(&self, least: i64) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.0 = last.0.max(least);
    }

    /// The time, in milliseconds since 1970.
    pub fn now(&self) -> i64 {
        self.step(host(), Instant::now())
    }

    fn step(&self, host: i64, instant: Instant) -> i64 {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = i64::try_from(instant.saturating_duration_since(last.1).as_millis()).unwrap_or(0);
        // The anchor moves only by whole milliseconds, so that frequent calls don't round the time away.
        if passed > 0 || host > last.0 {
            *last = (host.max(last.0.saturating_add(passed)), instant);
        }
        last.0
    }
}

fn host() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn goes_on_when_the_host_steps_back_and_follows_it_forward() {
        let start = Instant::now();
        let clock = MonotoneClock(Mutex::new((10_000, start)));
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(clock.step(10_050, at(50)), 10_050);
        assert_eq!(clock.step(4_000, at(60)), 10_060, "an hour back");
        assert_eq!(clock.step(4_010, at(70)), 10_070);
        assert_eq!(clock.step(20_000, at(80)), 20_000, "and forward");
        clock.at_least(30_000);
        assert_eq!(clock.step(20_001, at(81)), 30_001);
    }
}
