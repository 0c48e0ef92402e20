//! Which partition a message goes to.

use std::sync::atomic::{AtomicU32, Ordering};

use super::Message;
use crate::{Error, Kind, Result};

/// How a publisher picks the partition of a message that doesn't name one itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Partitioner {
    /// By [`murmur2`] of the key; messages without a key go round robin. The default.
    #[default]
    KeyHash,
    /// One after another.
    RoundRobin,
    /// At random.
    Random,
}

/// Where the round of one topic stands; one per publisher or engine handle.
#[derive(Debug, Default)]
pub struct Round(AtomicU32);

impl Partitioner {
    /// The partition of `message` among `partitions`.
    ///
    /// # Errors
    /// [`Kind::Invalid`] if the message names a partition the topic doesn't have.
    pub fn choose(self, message: &Message, partitions: u32, round: &Round) -> Result<u32> {
        let partitions = partitions.max(1);
        let next = || round.0.fetch_add(1, Ordering::Relaxed) % partitions;
        match (message.partition, self, &message.key) {
            (Some(partition), _, _) if partition < partitions => Ok(partition),
            (Some(partition), _, _) => {
                Err(Error::new(Kind::Invalid, format!("partition {partition} doesn't exist"))
                    .help(format!("the topic has {partitions}, numbered from 0")))
            }
            _ if partitions == 1 => Ok(0),
            (None, Self::KeyHash, Some(key)) => Ok((murmur2(key) & 0x7fff_ffff) % partitions),
            (None, Self::Random, _) => Ok(fastrand::u32(..partitions)),
            (None, Self::KeyHash | Self::RoundRobin, _) => Ok(next()),
        }
    }
}

/// The 32-bit MurmurHash2 that Kafka's Java client partitions by (seed `0x9747b28c`), so a key lands on the same
/// partition whoever publishes it. Written out because its value is part of the contract: it never changes.
pub fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ u32::try_from(data.len()).unwrap_or(u32::MAX);
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        let rest = tail.iter().rev().fold(0, |rest, byte| rest << 8 | u32::from(*byte));
        hash = (hash ^ rest).wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_is_kafkas() {
        // The vectors of Kafka's own UtilsTest.
        for (text, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), hash, "{text}");
        }
    }

    #[test]
    fn every_partitioner_stays_in_range_and_hands_are_checked() {
        let round = Round::default();
        let plain = Message::new("x");
        let picks: Vec<_> =
            (0..6).map(|_| Partitioner::RoundRobin.choose(&plain, 3, &round).unwrap()).collect();
        assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
        let keyed = Message::new("x").key("k");
        let first = Partitioner::KeyHash.choose(&keyed, 7, &round).unwrap();
        assert!((0..9).all(|_| Partitioner::KeyHash.choose(&keyed, 7, &round).unwrap() == first));
        assert!((0..99).all(|_| Partitioner::Random.choose(&plain, 7, &round).unwrap() < 7));
        assert!(Partitioner::default().choose(&plain.clone().partition(7), 7, &round).is_err());
        assert_eq!(Partitioner::default().choose(&plain.partition(6), 7, &round).unwrap(), 6);
    }
}
