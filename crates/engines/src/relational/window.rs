//! How far ahead a subscription fetches.

use std::time::{Duration, Instant};

/// A shelf that was emptied this soon after it was filled is too small.
const FAST: Duration = Duration::from_millis(20);

/// Grows while what is fetched is handed out at once; back to nothing ahead when some of it had to be given back, so
/// that a slow consumer leaves the rest to other members.
#[derive(Debug, Default)]
pub(crate) struct Window {
    size: usize,
    filled: Option<Instant>,
}

impl Window {
    /// How much to fetch for a caller that wants `max`, its shelf being empty or nearly so, and at `most`.
    pub(crate) fn size(&mut self, max: usize, most: usize, now: Instant) -> usize {
        let fast = self.filled.is_some_and(|filled| now.duration_since(filled) < FAST);
        self.size = if fast { self.size.max(max).saturating_mul(2) } else { max }.min(most);
        self.size
    }

    /// Whether to fetch before the shelf is empty, with `left` on it.
    pub(crate) fn ahead(&self, max: usize, left: usize) -> bool {
        self.size > max && left < self.size / 2
    }

    pub(crate) fn filled(&mut self, now: Instant) {
        self.filled = Some(now);
    }

    pub(crate) fn unused(&mut self) {
        self.size = 0;
        self.filled = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_while_drained_fast_and_falls_back() {
        let start = Instant::now();
        let mut window = Window::default();
        assert_eq!(window.size(10, 160, start), 10);
        window.filled(start);
        assert_eq!(window.size(10, 160, start + FAST / 2), 20);
        assert!(window.ahead(10, 9) && !window.ahead(10, 10));
        for _ in 0..9 {
            window.size(10, 160, start + FAST / 2);
        }
        assert_eq!(window.size(10, 160, start), 160, "the bound");
        assert_eq!(window.size(10, 160, start + 2 * FAST), 10, "slow");
        window.unused();
        assert_eq!(window.size(10, 160, start), 10);
    }
}
