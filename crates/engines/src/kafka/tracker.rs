//! What a group knows of one partition, and how it is written into a commit.
//!
//! Kafka keeps one offset per group and partition, and up to 4 KiB of text beside it. The offset is the lowest that
//! isn't settled; the text tells what is known from there on: `lp1;FENCE;SEEK;RUNS;DUES`, numbers in hexadecimal.
//! RUNS is `[count]state` again and again, counts decimal: `.` never handed out, `x` settled, `a`… in hand for the
//! first time and so on, `A`… handed back after the first time and so on, `y30:` and `Y30:` beyond 23 times.
//! DUES are `base/index+ms,index+ms`: when what was handed back may come again.

use std::fmt::Write;

use super::runs::{Run, Runs};

/// The most text that goes with a commit: offset.metadata.max.bytes of the brokers by default.
const LIMIT: usize = 4096;
/// Beyond this much nothing new is handed out: the rest is for what happens to messages that are in hand.
pub(super) const CROWDED: usize = 3072;
const VERSION: &str = "lp1";
/// Attempts that have a letter of their own: `a` to `w`.
const LETTERS: u8 = 23;
/// The place in the alphabet of the letter that stands before a larger number: `y`.
const MANY: u8 = 24;

/// A message that isn't settled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// How often it was handed out.
    pub(super) attempts: u32,
    /// Whether a member has it.
    pub(super) held: bool,
    /// When it may be handed out again, in milliseconds since 1970.
    pub(super) due: i64,
}

/// Invariants: each offset below `top` is settled unless it is in `open`; what was entered from there on was never handed
/// out.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Tracker {
    open: Runs<Mark>,
    top: u64,
    /// The next offset that the log is asked for.
    next: u64,
    /// The fencing token of the last owner.
    pub(super) fence: u64,
    /// The last seek that was obeyed.
    pub(super) seek: u64,
}

impl Tracker {
    pub(super) fn at(offset: u64) -> Self {
        Self { top: offset, next: offset, ..Self::default() }
    }

    /// Moved to `offset` by a seek: all that is known besides is who owned it.
    pub(super) fn moved(offset: u64, fence: u64, seek: u64) -> Self {
        Self { fence, seek, ..Self::at(offset) }
    }

    /// The offset to commit: everything below is settled.
    pub(super) fn base(&self) -> u64 {
        self.open.first().unwrap_or(self.top)
    }

    /// Takes note of what the log has next; `None` if it is settled. What it skips isn't there any more.
    pub(super) fn enter(&mut self, offset: u64) -> Option<Mark> {
        if offset < self.next {
            return None;
        }
        if offset > self.next {
            self.forget(self.next, offset);
        }
        self.next = offset + 1;
        if offset < self.top { self.open.get(offset) } else { Some(Mark::default()) }
    }

    fn forget(&mut self, from: u64, to: u64) {
        self.open.clear(from, to);
        self.reach(from);
        self.top = self.top.max(to);
    }

    /// Takes note of each offset below `to` by itself.
    fn reach(&mut self, to: u64) {
        if self.top < to {
            self.open.push(self.top, to, Mark::default());
            self.top = to;
        }
    }

    /// How often a message was handed out that was entered and isn't settled.
    pub(super) fn attempts(&self, offset: u64) -> u32 {
        self.open.get(offset).map_or(0, |mark| mark.attempts)
    }

    /// It is handed out once more; says how often that makes.
    pub(super) fn hold(&mut self, offset: u64) -> u32 {
        let attempts = self.attempts(offset).saturating_add(1);
        let mark = Mark { attempts, held: true, due: 0 };
        if offset < self.top {
            self.open.set(offset, mark);
        } else {
            self.reach(offset);
            self.open.push(offset, offset + 1, mark);
            self.top = offset + 1;
        }
        attempts
    }

    /// It wasn't handed out after all.
    pub(super) fn unhold(&mut self, offset: u64) {
        if let Some(mark) = self.open.get(offset) {
            let attempts = mark.attempts.saturating_sub(1);
            self.open.set(offset, Mark { attempts, held: false, ..mark });
        }
    }

    pub(super) fn back(&mut self, offset: u64, attempts: u32, due: i64) {
        if self.open.get(offset).is_some() {
            self.open.set(offset, Mark { attempts, held: false, due });
        }
    }

    pub(super) fn done(&mut self, offset: u64) {
        self.reach(offset + 1);
        self.open.remove(offset);
    }

    /// How many of those that aren't settled are like this.
    fn number(&self, like: impl Fn(&Mark) -> bool) -> u64 {
        self.open.iter().filter(|run| like(&run.mark)).map(Run::len).sum()
    }

    /// In hand, and handed back: how many.
    pub(super) fn count(&self) -> (u64, u64) {
        (self.number(|mark| mark.held), self.number(|mark| !mark.held && mark.attempts > 0))
    }

    /// Not settled, of a log that ends at `end`.
    pub(super) fn left(&self, end: u64) -> u64 {
        self.number(|_| true) + end.saturating_sub(self.top)
    }

    /// Never handed out, of a log that ends at `end`.
    pub(super) fn lag(&self, end: u64) -> u64 {
        self.number(|mark| mark.attempts == 0) + end.saturating_sub(self.top)
    }

    /// The text that goes with the commit of [`Tracker::base`]. Due times that don't fit are left out: what they hold
    /// back then comes sooner to the next owner.
    pub(super) fn encode(&self) -> String {
        let mut text = format!("{VERSION};{:x};{:x};", self.fence, self.seek);
        self.encode_runs(&mut text);
        text.push(';');
        self.encode_dues(&mut text);
        text
    }

    fn encode_runs(&self, text: &mut String) {
        let mut runs: Vec<(u64, Option<Mark>)> = Vec::new();
        let mut add = |count: u64, mark: Option<Mark>| match runs.last_mut() {
            _ if count == 0 => {}
            Some((last, same)) if *same == mark => *last += count,
            _ => runs.push((count, mark)),
        };
        let mut at = self.base();
        for run in self.open.iter() {
            add(run.start - at, None);
            add(run.len(), Some(Mark { due: 0, ..run.mark }));
            at = run.end;
        }
        add(self.top.saturating_sub(at), None);
        // What was never handed out and has nothing behind it is fetched again as new.
        if runs.last().is_some_and(|(_, mark)| *mark == Some(Mark::default())) {
            runs.pop();
        }
        for (count, mark) in runs {
            if count > 1 {
                let _ = write!(text, "{count}");
            }
            write_state(text, mark);
        }
    }

    fn encode_dues(&self, text: &mut String) {
        let base = self.base();
        let dues = || self.open.iter().filter(|run| run.mark.due > 0);
        let Some(first) = dues().map(|run| run.mark.due).min() else { return };
        let _ = write!(text, "{first:x}/");
        for (offset, due) in dues().flat_map(|run| (run.start..run.end).map(|offset| (offset, run.mark.due)))
        {
            if text.len() + 24 > LIMIT {
                return;
            }
            let _ = write!(text, "{:x}+{:x},", offset - base, due - first);
        }
    }

    /// Reads what [`Tracker::encode`] wrote beside `offset`. Anything else is a plain offset that another tool committed.
    pub(super) fn decode(offset: u64, text: &str) -> Self {
        Self::parse(offset, text).unwrap_or_else(|| Self::at(offset))
    }

    fn parse(offset: u64, text: &str) -> Option<Self> {
        let mut parts = text.split(';');
        if parts.next()? != VERSION {
            return None;
        }
        let mut tracker = Self::at(offset);
        tracker.fence = u64::from_str_radix(parts.next()?, 16).ok()?;
        tracker.seek = u64::from_str_radix(parts.next()?, 16).ok()?;
        tracker.parse_runs(parts.next()?)?;
        if let Some((first, dues)) = parts.next()?.split_once('/') {
            let first = i64::from_str_radix(first, 16).ok()?;
            for due in dues.split_terminator(',') {
                let (index, ms) = due.split_once('+')?;
                let index = u64::from_str_radix(index, 16).ok()?;
                let offset = offset.checked_add(index)?;
                let due = first.checked_add(i64::from_str_radix(ms, 16).ok()?)?;
                tracker.open.set(offset, Mark { due, ..tracker.open.get(offset)? });
            }
        }
        Some(tracker)
    }

    fn parse_runs(&mut self, mut text: &str) -> Option<()> {
        while !text.is_empty() {
            let count = take_number(&mut text)?.unwrap_or(1);
            let mark = take_state(&mut text)?;
            let to = self.top.checked_add(count)?;
            if let Some(mark) = mark {
                self.open.push(self.top, to, mark);
            }
            self.top = to;
        }
        Some(())
    }
}

fn write_state(text: &mut String, mark: Option<Mark>) {
    let Some(Mark { attempts, held, .. }) = mark else { return text.push('x') };
    let first = if held { b'a' } else { b'A' };
    match u8::try_from(attempts) {
        Ok(0) => text.push('.'),
        Ok(n) if n <= LETTERS => text.push(char::from(first + n - 1)),
        _ => {
            let _ = write!(text, "{}{attempts}:", char::from(first + MANY));
        }
    }
}

fn take_state(text: &mut &str) -> Option<Option<Mark>> {
    let letter = text.bytes().next()?;
    *text = text.get(1..)?;
    let held = letter.is_ascii_lowercase();
    let attempts = match (letter, letter.to_ascii_lowercase().checked_sub(b'a')) {
        (b'x', _) => return Some(None),
        (b'.', _) => 0,
        (_, Some(n)) if n < LETTERS => u32::from(n) + 1,
        (_, Some(MANY)) => {
            let attempts = take_number(text)??;
            *text = text.strip_prefix(':')?;
            u32::try_from(attempts).ok()?
        }
        _ => return None,
    };
    Some(Some(Mark { attempts, held: held && attempts > 0, due: 0 }))
}

/// A decimal number at the beginning, if there is one; `None` if it is too large.
fn take_number(text: &mut &str) -> Option<Option<u64>> {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at_checked(end)?;
    *text = rest;
    if digits.is_empty() { Some(None) } else { digits.parse().ok().map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(tracker: &Tracker) -> Tracker {
        Tracker::decode(tracker.base(), &tracker.encode())
    }

    /// Ten entered from offset 100 on.
    fn ten() -> Tracker {
        let mut tracker = Tracker::at(100);
        (100..110).for_each(|offset| assert!(tracker.enter(offset).is_some()));
        tracker
    }

    #[test]
    fn the_lowest_unsettled_is_committed_and_the_rest_is_written_down() {
        let mut tracker = ten();
        tracker.fence = 7;
        (100..106).for_each(|offset| assert_eq!(tracker.hold(offset), 1));
        for offset in [100, 102, 103] {
            tracker.done(offset);
        }
        tracker.back(105, 1, 1_000_000);
        assert_eq!((tracker.base(), tracker.encode().as_str()), (101, "lp1;7;0;a2xaA;f4240/4+0,"));
        let mut read = round(&tracker);
        assert_eq!((read.base(), read.fence, read.count(), read.lag(110)), (101, 7, (2, 1), 4));
        let marks: Vec<_> =
            (101..107).map(|offset| read.enter(offset).map(|m| (m.attempts, m.due))).collect();
        assert_eq!(marks, [Some((1, 0)), None, None, Some((1, 0)), Some((1, 1_000_000)), Some((0, 0))]);
    }

    #[test]
    fn attempts_beyond_the_letters_and_what_was_never_handed_out_survive() {
        let mut tracker = ten();
        for attempts in [1, 23, 24, 4_000_000_000] {
            tracker.hold(100);
            tracker.hold(109);
            tracker.back(104, attempts, 0);
            let read = round(&tracker);
            assert_eq!(read.open, tracker.open, "{}", tracker.encode());
        }
    }

    #[test]
    fn what_the_log_skips_is_gone() {
        let mut tracker = ten();
        tracker.hold(100);
        let mut read = round(&tracker);
        assert_eq!(read.enter(105), Some(Mark::default()));
        assert_eq!((read.base(), read.enter(104)), (105, None));
    }

    #[test]
    fn all_settled_is_a_plain_offset_and_a_plain_offset_is_understood() {
        let mut tracker = ten();
        (100..110).for_each(|offset| tracker.done(offset));
        assert_eq!((tracker.base(), tracker.encode().as_str()), (110, "lp1;0;0;;"));
        for foreign in ["", "consumer-1", "lp1;", "lp1;1;1;9?;", "lp1;1;1;99999999999999999999x;"] {
            assert_eq!(Tracker::decode(5, foreign), Tracker::at(5), "{foreign:?}");
        }
    }

    #[test]
    fn it_never_outgrows_the_limit_by_due_times() {
        let mut tracker = Tracker::at(0);
        for offset in 0..1000 {
            tracker.enter(offset);
            tracker.hold(offset);
            tracker.back(offset, 1, 1_700_000_000_000 + offset as i64 * 7919);
        }
        assert!(tracker.encode().len() <= LIMIT);
        assert_eq!(round(&tracker).count(), (0, 1000));
    }
}
