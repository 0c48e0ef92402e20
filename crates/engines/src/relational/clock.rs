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
        self.step(host(), least, Instant::now());
    }

    /// The time, in milliseconds since 1970.
    pub fn now(&self) -> i64 {
        self.step(host(), i64::MIN, Instant::now())
    }

    fn step(&self, host: i64, least: i64, instant: Instant) -> i64 {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = i64::try_from(instant.saturating_duration_since(last.1).as_millis()).unwrap_or(0);
        // What has passed is in the host's time and in `least` already: it is added to what was before alone.
        let now = host.max(least).max(last.0.saturating_add(passed));
        // The anchor moves only by whole milliseconds, so that frequent calls don't round the time away.
        if now > last.0 {
            *last = (now, instant);
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
        let step = |host, ms| clock.step(host, i64::MIN, at(ms));
        assert_eq!(step(10_050, 50), 10_050);
        assert_eq!(step(4_000, 60), 10_060, "an hour back");
        assert_eq!(step(4_010, 70), 10_070);
        assert_eq!(step(20_000, 80), 20_000, "and forward");
        assert_eq!(clock.step(20_000, 30_000, at(80)), 30_000);
        assert_eq!(step(20_001, 81), 30_001);
    }

    /// Each begins with what the other wrote last, after a pause. Between them they don't gain time.
    #[test]
    fn two_that_follow_each_other_keep_the_pace() {
        let start = Instant::now();
        let clocks = [(); 2].map(|()| MonotoneClock(Mutex::new((10_000, start))));
        let mut written = 10_000;
        for ms in (0..60_000).step_by(300) {
            let host = 10_000 + i64::try_from(ms).unwrap();
            for clock in &clocks {
                let instant = start + Duration::from_millis(ms);
                clock.step(host, written, instant);
                written = clock.step(host, i64::MIN, instant);
            }
            assert_eq!(written, host);
        }
    }
}
