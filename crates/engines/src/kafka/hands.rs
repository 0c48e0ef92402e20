//! What members have in hand: what was handed out together is one hand, under one lease.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use foldhash::fast::RandomState;
use linchpin_core::bus::Receipt;

use super::wire::Parcel;

/// Where a hand's number begins in a receipt; below is the place of the delivery in it.
const PLACES: u32 = 16;

/// What the deliveries of a hand have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) seat: u64,
    pub(super) partition: u32,
    /// Tells the partition from the same one at another time.
    pub(super) born: u64,
    pub(super) max_attempts: u32,
}

#[derive(Debug)]
struct Hand {
    terms: Terms,
    /// No later than the first of its open deliveries runs out.
    lapse: Instant,
    dealt: Vec<Dealt>,
    /// Deliveries that aren't settled.
    open: usize,
    /// Deliveries that aren't forgotten.
    left: usize,
}

/// A delivery. Settled ones have no parcel any more.
#[derive(Debug)]
struct Dealt {
    offset: u64,
    attempt: u32,
    until: Instant,
    parcel: Option<Arc<Parcel>>,
    forgotten: bool,
}

/// What there is to know of a delivery, in hand or not any more.
#[derive(Debug)]
pub(super) struct Landed {
    pub(super) terms: Terms,
    pub(super) offset: u64,
    pub(super) attempt: u32,
    pub(super) parcel: Arc<Parcel>,
}

/// What a receipt means.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) terms: Terms,
    pub(super) attempt: u32,
    /// Not settled.
    pub(super) open: bool,
}

/// Invariant: `lapses` has each hand that has an open delivery, and no other.
#[derive(Debug, Default)]
pub(super) struct Hands {
    all: HashMap<u64, Hand, RandomState>,
    lapses: BTreeSet<(Instant, u64)>,
    last: u64,
}

fn split(Receipt(receipt): Receipt) -> (u64, usize) {
    (receipt >> PLACES, (receipt & ((1 << PLACES) - 1)) as usize)
}

fn receipt(hand: u64, place: usize) -> Receipt {
    Receipt(hand << PLACES | place as u64)
}

impl Hands {
    /// Deals messages, with offset and attempt, which run out at `until`; calls `each` with every one's receipt.
    pub(super) fn deal(
        &mut self,
        terms: Terms,
        until: Instant,
        messages: impl Iterator<Item = (u64, u32, Arc<Parcel>)>,
        mut each: impl FnMut(Receipt, u64, u32, &Parcel),
    ) {
        let mut messages = messages.peekable();
        while messages.peek().is_some() {
            self.last += 1;
            let mut dealt = Vec::with_capacity(messages.size_hint().0);
            for (offset, attempt, parcel) in messages.by_ref().take(1 << PLACES) {
                each(receipt(self.last, dealt.len()), offset, attempt, &parcel);
                dealt.push(Dealt { offset, attempt, until, parcel: Some(parcel), forgotten: false });
            }
            let count = dealt.len();
            self.all.insert(self.last, Hand { terms, lapse: until, dealt, open: count, left: count });
            self.lapses.insert((until, self.last));
        }
    }

    /// What this receipt means, unless it was forgotten.
    pub(super) fn look(&self, receipt: Receipt) -> Option<Known> {
        let (number, place) = split(receipt);
        let hand = self.all.get(&number)?;
        let dealt = hand.dealt.get(place).filter(|dealt| !dealt.forgotten)?;
        Some(Known { terms: hand.terms, attempt: dealt.attempt, open: dealt.parcel.is_some() })
    }

    /// An open delivery runs out later than it did.
    pub(super) fn extend(&mut self, receipt: Receipt, until: Instant) {
        let (number, place) = split(receipt);
        if let Some(dealt) = self.all.get_mut(&number).and_then(|hand| hand.dealt.get_mut(place)) {
            dealt.until = dealt.until.max(until);
        }
    }

    /// An open delivery stays open; this is what it is.
    pub(super) fn copy(&self, receipt: Receipt) -> Option<Landed> {
        let (number, place) = split(receipt);
        let hand = self.all.get(&number)?;
        let Dealt { offset, attempt, ref parcel, .. } = *hand.dealt.get(place)?;
        Some(Landed { terms: hand.terms, offset, attempt, parcel: parcel.clone()? })
    }

    /// Takes an open delivery out of the hand; it is known until it is forgotten.
    pub(super) fn land(&mut self, receipt: Receipt) -> Option<Landed> {
        let (number, place) = split(receipt);
        let hand = self.all.get_mut(&number)?;
        let dealt = hand.dealt.get_mut(place)?;
        let parcel = dealt.parcel.take()?;
        hand.open -= 1;
        if hand.open == 0 {
            self.lapses.remove(&(hand.lapse, number));
        }
        Some(Landed { terms: hand.terms, offset: dealt.offset, attempt: dealt.attempt, parcel })
    }

    /// The receipt of a delivery that isn't open means nothing from now on.
    pub(super) fn forget(&mut self, receipt: Receipt) {
        let (number, place) = split(receipt);
        let Some(hand) = self.all.get_mut(&number) else { return };
        let Some(dealt) = hand.dealt.get_mut(place).filter(|d| d.parcel.is_none() && !d.forgotten) else {
            return;
        };
        dealt.forgotten = true;
        hand.left -= 1;
        if hand.left == 0 {
            self.all.remove(&number);
        }
    }

    /// Takes the deliveries that have run out of the hands, and forgets them.
    pub(super) fn lapsed(&mut self, now: Instant) -> Vec<Landed> {
        let mut out = Vec::new();
        while let Some((lapse, number)) = self.lapses.first().copied().filter(|(lapse, _)| *lapse <= now) {
            self.lapses.remove(&(lapse, number));
            let Some(hand) = self.all.get_mut(&number) else { continue };
            let before = out.len();
            for dealt in hand.dealt.iter_mut().filter(|dealt| dealt.until <= now) {
                let Some(parcel) = dealt.parcel.take() else { continue };
                dealt.forgotten = true;
                out.push(Landed { terms: hand.terms, offset: dealt.offset, attempt: dealt.attempt, parcel });
            }
            hand.open -= out.len() - before;
            hand.left -= out.len() - before;
            let open = hand.dealt.iter().filter(|dealt| dealt.parcel.is_some());
            if let Some(lapse) = open.map(|dealt| dealt.until).min() {
                hand.lapse = lapse;
                self.lapses.insert((lapse, number));
            }
            if hand.left == 0 {
                self.all.remove(&number);
            }
        }
        out
    }

    /// When the next may run out.
    pub(super) fn next_lapse(&self) -> Option<Instant> {
        self.lapses.first().map(|(lapse, _)| *lapse)
    }

    /// Forgets every delivery on such terms; answers which of them were open, in the order they were handed out.
    pub(super) fn drop_all(&mut self, such: impl Fn(&Terms) -> bool) -> Vec<Landed> {
        let mut hands: Vec<_> = self.all.extract_if(|_, hand| such(&hand.terms)).collect();
        hands.sort_unstable_by_key(|(number, _)| *number);
        let mut out = Vec::new();
        for (number, Hand { terms, lapse, dealt, .. }) in hands {
            self.lapses.remove(&(lapse, number));
            let landed = |Dealt { offset, attempt, parcel, .. }: Dealt| {
                Some(Landed { terms, offset, attempt, parcel: parcel? })
            };
            out.extend(dealt.into_iter().filter_map(landed));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use linchpin_core::Timestamp;
    use linchpin_core::bus::Message;

    use super::*;

    const TERMS: Terms = Terms { seat: 1, partition: 0, born: 1, max_attempts: 10 };

    fn deal(hands: &mut Hands, terms: Terms, until: Instant, offsets: std::ops::Range<u64>) -> Vec<Receipt> {
        let parcel = || Parcel { message: Message::new("x"), time: Timestamp::now(), due: 0 };
        let mut receipts = Vec::new();
        let messages = offsets.map(|offset| (offset, 1, Arc::new(parcel())));
        hands.deal(terms, until, messages, |receipt, _, _, _| receipts.push(receipt));
        receipts
    }

    fn offsets(landed: &[Landed]) -> Vec<u64> {
        landed.iter().map(|landed| landed.offset).collect()
    }

    #[test]
    fn each_runs_out_in_its_time_unless_it_is_settled() {
        let (mut hands, now) = (Hands::default(), Instant::now());
        let second = Duration::from_secs(1);
        let receipts = deal(&mut hands, TERMS, now + second, 10..14);
        hands.land(receipts[0]).unwrap();
        hands.extend(receipts[2], now + 3 * second);
        assert_eq!((hands.next_lapse(), offsets(&hands.lapsed(now))), (Some(now + second), vec![]));
        assert_eq!(offsets(&hands.lapsed(now + 2 * second)), [11, 13]);
        assert_eq!(hands.next_lapse(), Some(now + 3 * second));
        assert!(hands.look(receipts[1]).is_none() && hands.look(receipts[0]).is_some_and(|k| !k.open));
        hands.land(receipts[2]).unwrap();
        assert_eq!((hands.next_lapse(), offsets(&hands.lapsed(now + 9 * second))), (None, vec![]));
    }

    #[test]
    fn what_is_settled_is_known_until_it_is_forgotten() {
        let mut hands = Hands::default();
        let receipts = deal(&mut hands, TERMS, Instant::now(), 0..2);
        hands.forget(receipts[0]);
        assert!(hands.look(receipts[0]).is_some_and(|known| known.open), "it isn't settled");
        assert_eq!(hands.copy(receipts[0]).unwrap().offset, 0);
        for receipt in &receipts {
            assert!(hands.land(*receipt).is_some() && hands.land(*receipt).is_none());
            assert!(hands.look(*receipt).is_some_and(|known| !known.open));
            hands.forget(*receipt);
            hands.forget(*receipt);
            assert!(hands.look(*receipt).is_none());
        }
        assert!(hands.all.is_empty() && hands.lapses.is_empty());
    }

    #[test]
    fn a_large_hand_is_several_and_all_go_with_their_partition() {
        let (mut hands, now) = (Hands::default(), Instant::now());
        let many = deal(&mut hands, TERMS, now, 0..70_000);
        let other = deal(&mut hands, Terms { partition: 1, ..TERMS }, now, 5..6);
        assert_eq!((many.len(), hands.all.len()), (70_000, 3));
        hands.land(many[1]).unwrap();
        let open = hands.drop_all(|terms| terms.partition == 0);
        assert_eq!(offsets(&open), [&[0], &(2..70_000).collect::<Vec<_>>()[..]].concat());
        assert!(hands.look(many[1]).is_none() && hands.look(other[0]).is_some());
        assert_eq!((hands.all.len(), hands.lapses.len()), (1, 1));
    }
}
