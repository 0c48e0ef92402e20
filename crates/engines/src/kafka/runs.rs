//! What is known of offsets, kept as runs of neighbours of which the same is known.
//!
//! The crate rangemap keeps such runs, too, but is made for whole ranges: here they grow and shrink by one offset at an end
//! almost always, for each message.

use std::collections::VecDeque;

/// Neighbours of which the same is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run<M> {
    pub(super) start: u64,
    /// The offset behind the last.
    pub(super) end: u64,
    pub(super) mark: M,
}

impl<M> Run<M> {
    pub(super) fn len(&self) -> u64 {
        self.end - self.start
    }
}

/// Invariants: no run is empty, they rise without overlapping, and two that touch have different marks.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Runs<M>(VecDeque<Run<M>>);

impl<M: Copy + Eq> Runs<M> {
    pub(super) fn first(&self) -> Option<u64> {
        self.0.front().map(|run| run.start)
    }

    /// All of them, rising.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Run<M>> {
        self.0.iter()
    }

    pub(super) fn get(&self, offset: u64) -> Option<M> {
        let at = self.0.partition_point(|run| run.end <= offset);
        self.0.get(at).filter(|run| run.start <= offset).map(|run| run.mark)
    }

    /// What is known of one offset from now on: this.
    pub(super) fn set(&mut self, offset: u64, mark: M) {
        let mut at = self.cut(offset);
        let left = at.checked_sub(1).and_then(|left| self.0.get_mut(left));
        match left.filter(|left| left.end == offset && left.mark == mark) {
            Some(left) => {
                left.end += 1;
                at -= 1;
            }
            None => self.0.insert(at, Run { start: offset, end: offset + 1, mark }),
        }
        let right =
            self.0.get(at + 1).filter(|right| right.start == offset + 1 && right.mark == mark).copied();
        if let (Some(right), Some(this)) = (right, self.0.get_mut(at)) {
            this.end = right.end;
            self.0.remove(at + 1);
        }
    }

    /// What is known of one offset from now on: nothing.
    pub(super) fn remove(&mut self, offset: u64) {
        self.cut(offset);
    }

    /// Adds a run behind all there are.
    pub(super) fn push(&mut self, start: u64, end: u64, mark: M) {
        debug_assert!(self.0.back().is_none_or(|last| last.end <= start), "a run overlaps");
        match self.0.back_mut().filter(|last| last.end == start && last.mark == mark) {
            Some(last) => last.end = end,
            None if start < end => self.0.push_back(Run { start, end, mark }),
            None => {}
        }
    }

    /// Takes out everything from `from` to before `to`.
    pub(super) fn clear(&mut self, from: u64, to: u64) {
        let mut kept = Self(VecDeque::new());
        for run in self.0.drain(..) {
            kept.push(run.start, run.end.min(from).max(run.start), run.mark);
            kept.push(run.start.max(to).min(run.end), run.end, run.mark);
        }
        *self = kept;
    }

    /// Takes one offset out; answers where a run that begins there belongs.
    fn cut(&mut self, offset: u64) -> usize {
        let at = self.0.partition_point(|run| run.end <= offset);
        let Some(run) = self.0.get_mut(at).filter(|run| run.start <= offset) else { return at };
        let whole = *run;
        match (whole.start == offset, whole.end == offset + 1) {
            (true, true) => {
                self.0.remove(at);
                return at;
            }
            (true, false) => {
                run.start += 1;
                return at;
            }
            (false, true) => run.end -= 1,
            (false, false) => {
                run.end = offset;
                self.0.insert(at + 1, Run { start: offset + 1, ..whole });
            }
        }
        at + 1
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Each offset for itself: what runs must agree with.
    fn spread(runs: &Runs<u8>) -> BTreeMap<u64, u8> {
        runs.iter().flat_map(|run| (run.start..run.end).map(|offset| (offset, run.mark))).collect()
    }

    fn check(runs: &Runs<u8>) {
        assert!(runs.iter().all(|run| run.len() > 0));
        let neighbours = runs.0.iter().zip(runs.0.iter().skip(1));
        for (left, right) in neighbours {
            assert!(
                left.end < right.start || (left.end == right.start && left.mark != right.mark),
                "{runs:?}"
            );
        }
    }

    #[test]
    fn they_know_what_a_map_of_single_offsets_knows() {
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let (mut runs, mut map) = (Runs::default(), BTreeMap::new());
            for _ in 0..200 {
                let (offset, mark) = (rng.u64(..24), rng.u8(..3));
                match rng.u8(..8) {
                    0..4 => {
                        runs.set(offset, mark);
                        map.insert(offset, mark);
                    }
                    4..7 => {
                        runs.remove(offset);
                        map.remove(&offset);
                    }
                    _ => {
                        let to = offset + rng.u64(..6);
                        runs.clear(offset, to);
                        map.retain(|at, _| *at < offset || *at >= to);
                    }
                }
                check(&runs);
                assert_eq!(spread(&runs), map);
                assert_eq!(runs.get(offset), map.get(&offset).copied());
                assert_eq!(runs.first(), map.keys().next().copied());
            }
        }
    }

    #[test]
    fn what_is_put_behind_joins_what_is_the_same() {
        let mut runs = Runs::default();
        for (start, end, mark) in [(1, 3, 0), (3, 5, 0), (5, 5, 1), (5, 6, 1), (9, 10, 1)] {
            runs.push(start, end, mark);
            check(&runs);
        }
        let all: Vec<_> = runs.iter().map(|run| (run.start, run.end, run.mark)).collect();
        assert_eq!(all, [(1, 5, 0), (5, 6, 1), (9, 10, 1)]);
    }
}
