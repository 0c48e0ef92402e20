//! Finding a place on a circle of 2⁶⁴ points in about one step.

use std::sync::Arc;

use super::Node;

/// Ends of stretches that fill 0..2⁶⁴, and for each of as many equal slices the first stretch that reaches into it.
#[derive(Debug, Default)]
pub(super) struct Guide {
    /// The last point of each stretch, rising.
    ends: Vec<u64>,
    slices: Vec<u32>,
}

impl Guide {
    fn new(ends: Vec<u64>) -> Self {
        let n = ends.len() as u64;
        let mut slices = Vec::with_capacity(ends.len());
        let mut at = 0;
        for slice in 0..n {
            // The smallest point whose part is this slice.
            let begin = (u128::from(slice) << 64).div_ceil(u128::from(n)) as u64;
            while ends.get(at).is_some_and(|end| *end < begin) {
                at += 1;
            }
            slices.push(u32::try_from(at).unwrap_or(u32::MAX));
        }
        Self { ends, slices }
    }

    /// Stretches as long as the weights say.
    pub(super) fn weights(weights: impl Iterator<Item = u64> + Clone) -> Self {
        let total: u128 = weights.clone().map(u128::from).sum::<u128>().max(1);
        let mut sum = 0_u128;
        let ends = weights.map(|weight| {
            sum += u128::from(weight);
            u64::try_from((sum << 64) / total - 1).unwrap_or(u64::MAX)
        });
        Self::new(ends.collect())
    }

    /// The stretch that holds the point; behind the last one, how many there are.
    pub(super) fn find(&self, point: u64) -> usize {
        let slice = super::part(point, self.ends.len() as u64) as usize;
        let mut at = self.slices.get(slice).map_or(0, |at| *at as usize);
        while self.ends.get(at).is_some_and(|end| *end < point) {
            at += 1;
        }
        at
    }
}

/// The most points of one instance.
const MOST: u32 = 1000;

/// Points of instances on a circle. Those of one don't depend on the others, so that a key moves only if its
/// instance comes or goes.
#[derive(Debug, Default)]
pub(super) struct Ring {
    points: Guide,
    nodes: Vec<u32>,
}

impl Ring {
    pub(super) fn new(nodes: &[Arc<Node>]) -> Self {
        let of_node = |(at, node): (usize, &Arc<Node>)| {
            let (at, id) = (u32::try_from(at).unwrap_or(u32::MAX), hash(node.instance.id.as_bytes()));
            let points = node.instance.weight.clamp(1, MOST);
            (0..points).map(move |n| (mix(id.wrapping_add(u64::from(n).wrapping_mul(super::GOLDEN))), at))
        };
        let mut points: Vec<(u64, u32)> = nodes.iter().enumerate().flat_map(of_node).collect();
        points.sort_unstable();
        points.dedup_by_key(|(point, _)| *point);
        let (points, nodes) = points.into_iter().unzip();
        Self { points: Guide::new(points), nodes }
    }

    /// The instances from this point on, once round; some more than once.
    pub(super) fn from(&self, point: u64) -> impl Iterator<Item = usize> {
        let (before, from) = self.nodes.split_at_checked(self.points.find(point)).unwrap_or_default();
        from.iter().chain(before).map(|at| *at as usize)
    }
}

/// FNV-1a, mixed. Every process and every version must come to the same: it never changes.
pub(super) fn hash(key: &[u8]) -> u64 {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mix(key.iter().fold(0xcbf2_9ce4_8422_2325, fnv))
}

/// The finaliser of SplitMix64: each bit depends on all.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
