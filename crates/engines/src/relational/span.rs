//! Some offsets of one partition, as a range and a bitmap: what a claim holds.

/// The most offsets between a span's first and last, so that a stored bitmap stays within 1 KiB.
pub const MAX_SPAN: u64 = 8192;

/// Offsets of one partition, at most [`MAX_SPAN`] apart, in rising order.
///
/// Invariant: the bit of `first` is set, and the last byte isn't zero, unless the span is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Span {
    first: u64,
    bits: Vec<u8>,
}

impl Span {
    /// `count` offsets from `first` on, at most [`MAX_SPAN`].
    pub fn full(first: u64, count: u64) -> Self {
        let count = count.min(MAX_SPAN);
        let bytes = usize::try_from(count.div_ceil(8)).unwrap_or(0);
        let mut bits = vec![0xff; bytes];
        if let Some(last) = bits.last_mut().filter(|_| !count.is_multiple_of(8)) {
            *last = 0xff >> (8 - count % 8);
        }
        Self { first, bits }
    }

    /// The offsets of a rising list, in as many spans as their distance asks for.
    pub fn of(offsets: impl IntoIterator<Item = u64>) -> Vec<Self> {
        let mut spans: Vec<Self> = Vec::new();
        for offset in offsets {
            match spans.last_mut() {
                Some(span) if offset - span.first < MAX_SPAN => span.add(offset),
                _ => spans.push(Self::full(offset, 1)),
            }
        }
        spans
    }

    /// Reads what [`Span::stored`] gave.
    pub fn from_stored(first: u64, last: u64, open: Option<&[u8]>) -> Self {
        match open {
            None => Self::full(first, (last + 1).saturating_sub(first)),
            Some(bits) => Self { first, bits: bits.to_vec() }.tight(),
        }
    }

    /// The bitmap as it is stored: `None` if every offset from first to last is in it.
    pub fn stored(&self) -> Option<&[u8]> {
        (self.len() != self.last() + 1 - self.first).then_some(self.bits.as_slice())
    }

    /// The lowest offset.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The highest offset; that before the first if it is empty.
    pub fn last(&self) -> u64 {
        let unused = self.bits.last().map_or(0, |byte| u64::from(byte.leading_zeros()));
        (self.first + 8 * self.bits.len() as u64).saturating_sub(unused + 1)
    }

    /// How many offsets it holds.
    pub fn len(&self) -> u64 {
        self.bits.iter().map(|byte| u64::from(byte.count_ones())).sum()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.bits.iter().all(|byte| *byte == 0)
    }

    /// Whether it holds this one.
    pub fn contains(&self, offset: u64) -> bool {
        self.bit(offset).and_then(|(byte, bit)| Some(self.bits.get(byte)? & bit != 0)).unwrap_or(false)
    }

    /// Takes one out. False if it wasn't in. The span must be made [`Span::tight`] before it is stored.
    pub fn remove(&mut self, offset: u64) -> bool {
        let Some((byte, bit)) = self.bit(offset) else { return false };
        let Some(byte) = self.bits.get_mut(byte).filter(|byte| **byte & bit != 0) else { return false };
        *byte &= !bit;
        true
    }

    /// The same offsets, with the range drawn as close as it goes.
    pub fn tight(mut self) -> Self {
        while self.bits.last() == Some(&0) {
            self.bits.pop();
        }
        match self.bits.first() {
            None => Self { first: self.first, bits: Vec::new() },
            Some(byte) if byte & 1 == 1 => self,
            Some(_) => Self::of(self.iter()).pop().unwrap_or_default(),
        }
    }

    /// Cuts after `count` offsets: the lower ones, and the rest.
    pub fn split(self, count: u64) -> (Self, Self) {
        if count >= self.len() {
            return (self, Self::default());
        }
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let lower = Self::of(self.iter().take(count)).pop().unwrap_or_default();
        let upper = Self::of(self.iter().skip(count)).pop().unwrap_or_default();
        (lower, upper)
    }

    /// The offsets, rising.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let bytes = self.bits.iter().enumerate().filter(|(_, byte)| **byte != 0);
        bytes.flat_map(move |(at, byte)| {
            let base = self.first + 8 * at as u64;
            (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| base + bit)
        })
    }

    fn add(&mut self, offset: u64) {
        let Some((byte, bit)) = self.bit(offset) else { return };
        if self.bits.len() <= byte {
            self.bits.resize(byte + 1, 0);
        }
        if let Some(byte) = self.bits.get_mut(byte) {
            *byte |= bit;
        }
    }

    fn bit(&self, offset: u64) -> Option<(usize, u8)> {
        let at = offset.checked_sub(self.first)?;
        Some((usize::try_from(at / 8).ok()?, 1 << (at % 8)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_spans_need_no_bitmap() {
        for count in [1, 7, 8, 9, 4096, MAX_SPAN] {
            let span = Span::full(5, count);
            assert_eq!((span.len(), span.last(), span.stored()), (count, 4 + count, None));
            assert_eq!(Span::from_stored(5, span.last(), None), span);
            assert!(span.contains(5) && span.contains(span.last()) && !span.contains(span.last() + 1));
        }
        assert_eq!(Span::full(0, MAX_SPAN + 1).len(), MAX_SPAN);
    }

    #[test]
    fn a_sparse_span_round_trips_and_is_drawn_tight() {
        let mut span = Span::full(10, 20);
        for offset in [10, 11, 12, 15, 28, 29] {
            assert!(span.remove(offset));
        }
        assert!(!span.remove(10) && !span.remove(9) && !span.remove(30));
        let span = span.tight();
        assert_eq!((span.first(), span.last(), span.len()), (13, 27, 14));
        let read = Span::from_stored(span.first(), span.last(), span.stored());
        assert_eq!(read.iter().collect::<Vec<_>>(), span.iter().collect::<Vec<_>>());
        assert_eq!(read.iter().filter(|o| *o == 15).count(), 0);
    }

    #[test]
    fn emptied_spans_are_empty() {
        let mut span = Span::full(3, 1);
        span.remove(3);
        let span = span.tight();
        assert!(span.is_empty() && span.iter().next().is_none());
    }

    #[test]
    fn far_offsets_take_several_spans_and_splits_keep_all() {
        let spans = Span::of([1, 2, MAX_SPAN + 1, MAX_SPAN + 5]);
        assert_eq!(spans.iter().map(Span::len).collect::<Vec<_>>(), [2, 2]);
        let (lower, upper) = Span::of([1, 4, 9, 20]).remove(0).split(3);
        assert_eq!(lower.iter().collect::<Vec<_>>(), [1, 4, 9]);
        assert_eq!(upper.iter().collect::<Vec<_>>(), [20]);
        let (all, none) = Span::full(0, 3).split(3);
        assert_eq!((all.len(), none.len()), (3, 0));
    }
}
