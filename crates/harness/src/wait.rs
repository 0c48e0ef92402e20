//! Waiting for what sends no notification: another process.

use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(10);

/// Whether it came true before the deadline.
pub(crate) fn until(deadline: Duration, mut true_yet: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if true_yet() {
            return true;
        }
        if started.elapsed() >= deadline {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
}
