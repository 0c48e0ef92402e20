//! Who is picked how often.

use std::collections::BTreeMap;

use super::*;

fn pool(weights: &[u32], balance: Balance) -> Pool {
    let total = Arc::<AtomicUsize>::default();
    let nodes = weights.iter().enumerate().map(|(n, weight)| {
        let instance = Instance { weight: *weight, ..Instance::new(format!("host-{n}:80")) };
        Arc::new(Node::new(instance, false, Arc::default(), total.clone()))
    });
    Pool::new(nodes.collect(), balance, total.clone())
}

struct Picker(Pool, Balance, AtomicU64);

impl Picker {
    fn new(weights: &[u32], balance: Balance) -> Self {
        Self(pool(weights, balance), balance, AtomicU64::new(12_345))
    }

    fn pick(&self, key: Option<&[u8]>) -> Picked {
        Picked::new(self.0.pick(self.1, &self.2, key).unwrap().clone())
    }

    fn count(&self, picks: usize) -> Vec<usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..picks {
            *counts.entry(self.pick(None).address().to_owned()).or_insert(0) += 1;
        }
        self.0.nodes().iter().map(|node| counts.get(&node.instance.address).copied().unwrap_or(0)).collect()
    }
}

#[test]
fn none_of_none_and_one_of_one() {
    for balance in [Balance::Random, Balance::Weighted, Balance::PowerOfTwo, Balance::ConsistentHash(1.25)] {
        assert!(pool(&[], balance).pick(balance, &AtomicU64::new(0), None).is_none());
        assert_eq!(Picker::new(&[5], balance).count(10), [10]);
        assert_eq!(Picker::new(&[0, 0], balance).count(1000).iter().sum::<usize>(), 1000);
    }
}

#[test]
fn round_robin_takes_turns_and_random_is_fair() {
    assert_eq!(Picker::new(&[1; 4], Balance::RoundRobin).count(400), [100; 4]);
    for balance in [Balance::Random, Balance::PowerOfTwo] {
        let counts = Picker::new(&[100; 4], balance).count(40_000);
        assert!(counts.iter().all(|n| (9_000..11_000).contains(n)), "{balance:?}: {counts:?}");
    }
}

#[test]
fn weights_are_kept_in_every_stretch() {
    let picker = Picker::new(&[5, 1, 1, 3], Balance::Weighted);
    for _ in 0..200 {
        let counts = picker.count(50);
        let fair = counts.iter().zip([25_i64, 5, 5, 15]).all(|(n, share)| (*n as i64 - share).abs() <= 3);
        assert!(fair, "{counts:?}");
    }
    let counts = Picker::new(&[1_000_000, 1], Balance::Weighted).count(10_000);
    assert!(counts[0] >= 9_999);
}

#[test]
fn least_connections_fills_what_is_empty() {
    let picker = Picker::new(&[1, 1, 2], Balance::LeastConnections);
    let mut held: Vec<_> = (0..40).map(|_| picker.pick(None)).collect();
    let flying =
        |picker: &Picker| -> Vec<u64> { picker.0.nodes().iter().map(|node| node.in_flight()).collect() };
    assert_eq!(flying(&picker), [10, 10, 20]);
    held.retain(|picked| picked.address() != "host-1:80");
    held.extend((0..10).map(|_| picker.pick(None)));
    assert_eq!(flying(&picker), [10, 10, 20]);
    drop(held);
    assert_eq!(flying(&picker), [0, 0, 0]);
}

#[test]
fn power_of_two_avoids_the_slow_and_the_failing_and_comes_back() {
    let picker = Picker::new(&[100; 4], Balance::PowerOfTwo);
    let call = |picker: &Picker| {
        let picked = picker.pick(None);
        match picked.address() {
            "host-0:80" => picked.succeeded(Duration::from_millis(100)),
            "host-1:80" => picked.failed(),
            _ => picked.succeeded(Duration::from_millis(1)),
        }
    };
    (0..2000).for_each(|_| call(&picker));
    let counts = picker.count(1000);
    assert!(counts[1] == 0 && counts[0] < 250, "{counts:?}");
    // Nobody reports: after a while all are tried again.
    (0..60).for_each(|_| picker.0.nodes().iter().for_each(|node| node.load.rest()));
    let counts = picker.count(4000);
    assert!(counts.iter().all(|n| *n > 500), "{counts:?}");
}

#[test]
fn a_key_stays_and_few_move() {
    let balance = Balance::ConsistentHash(1.25);
    let owner = |picker: &Picker, key: u32| picker.pick(Some(&key.to_le_bytes())).address().to_owned();
    let (ten, nine) = (Picker::new(&[100; 10], balance), Picker::new(&[100; 9], balance));
    let mut counts = BTreeMap::new();
    let mut moved = 0;
    for key in 0..10_000 {
        let (before, after) = (owner(&ten, key), owner(&nine, key));
        assert_eq!(before, owner(&ten, key));
        moved += u32::from(before != after);
        assert!(before == after || before == "host-9:80", "only what was on the one that left moves");
        *counts.entry(before).or_insert(0) += 1;
    }
    assert!((500..2000).contains(&moved), "{moved}");
    assert!(counts.values().all(|n| (500..2000).contains(n)), "{counts:?}");
}

#[test]
fn a_hot_key_spills_over() {
    let picker = Picker::new(&[100; 10], Balance::ConsistentHash(1.25));
    let held: Vec<_> = (0..1000).map(|_| picker.pick(Some(b"hot"))).collect();
    let most = picker.0.nodes().iter().map(|node| node.in_flight()).max();
    assert!(most <= Some(126), "{most:?}: 1.25 times the share of 100");
    drop(held);
}

/// The points of a ring never change: clients of different versions must agree.
#[test]
fn hashes_are_for_ever() {
    assert_eq!(ring::hash(b"shop/limits"), ring::hash(b"shop/limits"));
    assert_eq!(format!("{:016x}", ring::hash(b"")), "f52a15e9a9b5e89b");
    let picker = Picker::new(&[100; 10], Balance::ConsistentHash(1.25));
    let owners: Vec<_> =
        [b"a", b"b", b"c", b"d"].map(|key| picker.pick(Some(key)).address().to_owned()).into();
    assert_eq!(owners, ["host-8:80", "host-9:80", "host-5:80", "host-3:80"]);
}
