//! Time, injected: engines and handles ask a [`Clock`], never the operating system.
//!
//! Three rules hold everywhere. Expiry is judged by the engine's clock. Deadlines of local waits are judged by
//! the monotonic clock (`tokio::time`). Tests pause or move a clock; they never sleep and hope.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

pub use jiff::Timestamp;
use tokio::time::Instant;

/// Where the time of day comes from.
pub trait Clock: Send + Sync + Debug {
    /// The time of day now. It may step back: callers that need monotony keep their own maximum.
    fn now(&self) -> Timestamp;
}

/// A clock shared by everything under one handle.
pub type SharedClock = Arc<dyn Clock>;

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// The time of day at creation, moved on by tokio's monotonic clock: it never steps back, and stands still
/// under `tokio::time::pause`, so a handler's retries and delays are tested without waiting.
#[derive(Debug, Clone, Copy)]
pub struct TokioClock {
    wall: Timestamp,
    started: Instant,
}

impl TokioClock {
    /// A clock that shows the system's time of day now.
    pub fn new() -> Self {
        Self { wall: Timestamp::now(), started: Instant::now() }
    }
}

impl Default for TokioClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        plus(self.wall, self.started.elapsed())
    }
}

/// A clock that shows what it is told, for tests of clocks that jump.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that stands at `at`, to the millisecond.
    pub fn new(at: Timestamp) -> Self {
        Self(AtomicI64::new(at.as_millisecond()))
    }

    /// Moves the clock by `ms` milliseconds, back if negative.
    pub fn shift(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// `at + span`, held at the end of time instead of overflowing.
pub fn plus(at: Timestamp, span: Duration) -> Timestamp {
    at.checked_add(span).unwrap_or(Timestamp::MAX)
}

/// The time from `earlier` to `later`; zero if it isn't later.
pub fn since(later: Timestamp, earlier: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or(Duration::ZERO)
}

/// The timestamp this many milliseconds after 1970, held at the ends of time.
pub fn from_millis(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(if ms < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tokio_clock_moves_with_the_paused_clock() {
        let clock = TokioClock::new();
        let before = clock.now();
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(since(clock.now(), before), Duration::from_secs(3600));
    }

    #[test]
    fn manual_clock_steps_back() {
        let clock = ManualClock::new(from_millis(10_000));
        clock.shift(-5_000);
        assert_eq!(clock.now().as_millisecond(), 5_000);
        assert_eq!(since(from_millis(1), from_millis(2)), Duration::ZERO);
    }
}
