//! Who of many is called next.

mod ring;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use self::ring::{Guide, Ring};
use super::Instance;

/// How the next instance is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Balance {
    /// Any, all alike.
    Random,
    /// One after another.
    RoundRobin,
    /// By weight, evenly spread: of any calls in a row each instance gets its share, to within a few.
    Weighted,
    /// The one with the fewest calls under way for its weight. Looks at all: some microseconds for a thousand.
    LeastConnections,
    /// The better of two taken at random: the one whose latency (a moving average, failures included) times calls under way is
    /// the smaller for its weight. The default: follows load and latency, and no herd runs to one instance.
    #[default]
    PowerOfTwo,
    /// The same one for the same key while it is there and not overloaded. The factor, at least 1, says how far above its
    /// share of the calls under way an instance may be before its keys go on to the next; 1.25 is usual. An instance has as many
    /// points on the ring as its weight says, up to 1,000.
    ConsistentHash(f64),
}

/// The latency that a failure counts as, at most.
const WORST: Duration = Duration::from_secs(10);

/// What this process knows of an instance. Outlives snapshots.
#[derive(Debug, Default)]
pub(super) struct Load {
    in_flight: AtomicU32,
    /// The moving average of latencies, in nanoseconds; 0 before the first.
    latency: AtomicU64,
    /// Something was reported since the last rest.
    reported: AtomicBool,
    /// A call failed since the instance came under suspicion.
    pub(super) failed: AtomicBool,
}

/// An instance in a snapshot.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) instance: Instance,
    /// The registry doesn't list it any more.
    pub(super) suspect: bool,
    pub(super) load: Arc<Load>,
    /// Calls under way to all of the service.
    total: Arc<AtomicUsize>,
}

impl Node {
    pub(super) fn new(instance: Instance, suspect: bool, load: Arc<Load>, total: Arc<AtomicUsize>) -> Self {
        Self { instance, suspect, load, total }
    }

    fn weight(&self) -> u64 {
        u64::from(self.instance.weight.max(1))
    }

    fn in_flight(&self) -> u64 {
        u64::from(self.load.in_flight.load(Ordering::Relaxed))
    }
}

impl Load {
    /// An instance that nobody has reported on for a while is given a better chance again.
    pub(super) fn rest(&self) {
        if !self.reported.swap(false, Ordering::Relaxed) {
            let latency = self.latency.load(Ordering::Relaxed);
            self.latency.store(latency / 2, Ordering::Relaxed);
        }
    }

    fn report(&self, change: impl Fn(u64) -> u64) {
        // Two at once may lose one report: it is an average.
        let latency = change(self.latency.load(Ordering::Relaxed));
        self.latency.store(latency, Ordering::Relaxed);
        self.reported.store(true, Ordering::Relaxed);
    }
}

/// Instances that take calls, ready to pick from.
#[derive(Debug, Default)]
pub(super) struct Pool {
    nodes: Vec<Arc<Node>>,
    /// Sums of weights, for [`Balance::Weighted`].
    weights: Guide,
    ring: Ring,
    total_weight: u64,
    total: Arc<AtomicUsize>,
}

/// Multiples of the golden ratio, as fractions of 2⁶⁴, are spread more evenly than chance.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// `x` of 2⁶⁴ as a part of `n`.
fn part(x: u64, n: u64) -> u64 {
    // Less than `n`, so it fits.
    ((u128::from(x) * u128::from(n)) >> 64) as u64
}

impl Pool {
    pub(super) fn new(nodes: Vec<Arc<Node>>, balance: Balance, total: Arc<AtomicUsize>) -> Self {
        let total_weight = nodes.iter().map(|node| node.weight()).sum();
        let mut pool = Self { nodes, total_weight, total, ..Self::default() };
        match balance {
            Balance::Weighted => pool.weights = Guide::weights(pool.nodes.iter().map(|node| node.weight())),
            Balance::ConsistentHash(_) => pool.ring = Ring::new(&pool.nodes),
            _ => {}
        }
        pool
    }

    pub(super) fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    /// The next instance. `round` counts calls; `key` is for [`Balance::ConsistentHash`].
    pub(super) fn pick(&self, balance: Balance, round: &AtomicU64, key: Option<&[u8]>) -> Option<&Arc<Node>> {
        let n = self.nodes.len();
        if n < 2 {
            return self.nodes.first();
        }
        let next = || round.fetch_add(1, Ordering::Relaxed);
        let at = match balance {
            Balance::Random => fastrand::usize(..n),
            Balance::RoundRobin => (next() % n as u64) as usize,
            Balance::Weighted => self.weights.find(next().wrapping_mul(GOLDEN)),
            Balance::LeastConnections => return self.least(next()),
            Balance::PowerOfTwo => return self.better_of_two(),
            Balance::ConsistentHash(factor) => {
                let point = key.map_or_else(|| fastrand::u64(..), ring::hash);
                return self.on_ring(point, factor);
            }
        };
        self.nodes.get(at)
    }

    fn least(&self, round: u64) -> Option<&Arc<Node>> {
        // From another one each time, so that equals take turns.
        let (before, from) = self.nodes.split_at_checked((round % self.nodes.len() as u64) as usize)?;
        let mut best: Option<(&Arc<Node>, u64, u64)> = None;
        for node in from.iter().chain(before) {
            let (load, weight) = (node.in_flight(), node.weight());
            if best.is_none_or(|(_, least, of)| load * of < least * weight) {
                best = Some((node, load, weight));
            }
        }
        best.map(|(node, ..)| node)
    }

    fn better_of_two(&self) -> Option<&Arc<Node>> {
        let n = self.nodes.len() as u64;
        let random = fastrand::u64(..);
        let first = part(random, n);
        // Any other, all alike.
        let other = (first + 1 + part(random.wrapping_mul(GOLDEN), n - 1)) % n;
        let (a, b) = (self.nodes.get(first as usize)?, self.nodes.get(other as usize)?);
        let latency = |node: &Node| node.load.latency.load(Ordering::Relaxed);
        // One that wasn't measured yet is compared by its load alone.
        let (of_a, of_b) = match (latency(a), latency(b)) {
            (0, _) | (_, 0) => (1, 1),
            both => both,
        };
        let cost = |latency: u64, node: &Node| u128::from(latency) * u128::from(node.in_flight() + 1);
        let (cost_a, cost_b) =
            (cost(of_a, a) * u128::from(b.weight()), cost(of_b, b) * u128::from(a.weight()));
        Some(if cost_a <= cost_b { a } else { b })
    }

    fn on_ring(&self, point: u64, factor: f64) -> Option<&Arc<Node>> {
        let calls = (self.total.load(Ordering::Relaxed) + 1) as f64 * factor.max(1.0);
        let share = calls / self.total_weight as f64;
        let mut first = None;
        for at in self.ring.from(point) {
            let node = self.nodes.get(at)?;
            if node.in_flight() < (share * node.weight() as f64).ceil() as u64 {
                return Some(node);
            }
            first = first.or(Some(node));
        }
        first
    }
}

/// An instance that was chosen for a call. While it lives the call counts as under way; say how it went with
/// [`Picked::succeeded`] or [`Picked::failed`].
#[derive(Debug)]
pub struct Picked {
    node: Arc<Node>,
}

impl Picked {
    pub(super) fn new(node: Arc<Node>) -> Self {
        node.load.in_flight.fetch_add(1, Ordering::Relaxed);
        node.total.fetch_add(1, Ordering::Relaxed);
        Self { node }
    }

    /// The instance.
    pub fn instance(&self) -> &Instance {
        &self.node.instance
    }

    /// Where it is called.
    pub fn address(&self) -> &str {
        &self.node.instance.address
    }

    /// Whether the registry doesn't list it any more: see [`Endpoints`](super::Endpoints).
    pub fn is_suspect(&self) -> bool {
        self.node.suspect
    }

    /// The call took this long.
    pub fn succeeded(self, latency: Duration) {
        let sample = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.node.load.report(|average| match average {
            0 => sample,
            average => (average - average / 4).saturating_add(sample / 4).max(1),
        });
    }

    /// The call failed through the instance's fault. It counts as four times the latency so far, and a
    /// suspect is let go.
    pub fn failed(self) {
        self.node.load.report(|average| {
            let worst = WORST.as_nanos() as u64;
            average.max(1_000_000).saturating_mul(4).min(worst)
        });
        self.node.load.failed.store(true, Ordering::Relaxed);
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.node.load.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.node.total.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
