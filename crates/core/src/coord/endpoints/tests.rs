//! Live lists, on the memory engine with a paused clock.

use std::collections::BTreeMap;

use tokio::time::sleep;

use super::*;
use crate::coord::testing::rigged;
use crate::coord::{DEFAULT_TTL, Health, MemoryCoord, Registration, When};

const TICK: Duration = Duration::from_millis(1);

async fn register(coord: &Coord, n: usize) -> Registration {
    coord.register("time", Instance::new(format!("127.0.0.1:{n}"))).await.unwrap()
}

async fn registered(coord: &Coord, n: usize) -> Vec<Registration> {
    let mut all = Vec::new();
    for n in 0..n {
        all.push(register(coord, n).await);
    }
    all
}

/// The keys go as if the leases had ended.
async fn expire(coord: &Coord, which: impl IntoIterator<Item = usize>) {
    for n in which {
        let entry = coord.get(&format!("service/time/~127.0.0.1:{n}")).await.unwrap().unwrap();
        coord.engine().revoke(&entry.lease.unwrap()).await.unwrap();
    }
}

fn suspects(endpoints: &Endpoints) -> (usize, usize) {
    let list = endpoints.list();
    (list.len(), list.iter().filter(|endpoint| endpoint.suspect).count())
}

#[tokio::test(start_paused = true)]
async fn calls_spread_over_those_that_are_there() {
    let coord = Coord::new(MemoryCoord::new());
    let servers = registered(&coord, 3).await;
    let options = EndpointsOptions { balance: Balance::RoundRobin, ..EndpointsOptions::default() };
    let time = coord.endpoints_with("time", options).await.unwrap();
    let calls = |n: usize| {
        let mut counts = BTreeMap::new();
        for _ in 0..n {
            *counts.entry(time.pick().unwrap().address().to_owned()).or_insert(0) += 1;
        }
        counts.into_values().collect::<Vec<_>>()
    };
    assert!(calls(99).iter().all(|n| *n == 33));
    let mut servers = servers.into_iter();
    servers.next().unwrap().deregister().await.unwrap();
    sleep(TICK).await;
    assert_eq!(calls(100), [50, 50]);
    servers.next().unwrap().deregister().await.unwrap();
    sleep(TICK).await;
    assert_eq!(calls(10), [10]);
    servers.next().unwrap().deregister().await.unwrap();
    sleep(DEFAULT_TTL * 2).await;
    assert!(time.pick().is_none(), "who takes leave isn't kept, however many");
}

#[tokio::test(start_paused = true)]
async fn follows_changes_and_health() {
    let coord = Coord::new(MemoryCoord::new());
    let mut time = coord.endpoints("time").await.unwrap();
    assert!(time.pick().is_none());
    let registration = register(&coord, 1).await;
    time.changed().await;
    assert_eq!(time.pick().unwrap().address(), "127.0.0.1:1");
    registration.update(|instance| instance.health = Health::Down);
    time.changed().await;
    assert!(time.pick().is_none(), "it takes no calls");
    registration.update(|instance| instance.health = Health::Up);
    time.changed().await;
    assert!(time.pick().is_some());
    // What isn't an instance is left out, and so is another service.
    coord.put("service/time/~junk", "junk", When::Always).await.unwrap();
    let _other = coord.register("time/zone", Instance::new("x:1")).await.unwrap();
    sleep(TICK).await;
    assert_eq!(time.list().len(), 1);
}

/// Instances of processes that can die: nobody registers them again.
async fn mortal(coord: &Coord, n: usize) {
    for n in 0..n {
        let lease = coord.engine().grant(DEFAULT_TTL * 1000).await.unwrap();
        let json = serde_json::to_vec(&Instance::new(format!("127.0.0.1:{n}"))).unwrap();
        let key = format!("service/time/~127.0.0.1:{n}");
        coord.engine().put(&key, json.into(), When::Always, Some(&lease)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_vanishes_all_at_once_is_kept_for_a_while() {
    let coord = Coord::new(MemoryCoord::new());
    mortal(&coord, 10).await;
    let time = coord.endpoints("time").await.unwrap();
    expire(&coord, 0..5).await;
    sleep(TICK).await;
    assert_eq!(suspects(&time), (5, 0), "half is believed");
    assert!((0..100).all(|_| time.pick().unwrap().address() >= "127.0.0.1:5"));
    sleep(Duration::from_secs(10)).await;
    expire(&coord, [5]).await;
    sleep(TICK).await;
    assert_eq!(suspects(&time), (10, 6), "more isn't: all that vanished of late is back");
    // One comes back, one fails.
    let back = register(&coord, 0).await;
    while time.pick().is_some_and(|picked| {
        if picked.address() == "127.0.0.1:3" {
            picked.failed();
            false
        } else {
            true
        }
    }) {}
    sleep(Duration::from_secs(2)).await;
    assert_eq!(suspects(&time), (9, 4));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(suspects(&time), (5, 0), "a real mass death is listed for a minute at most");
    drop(back);
}

#[tokio::test(start_paused = true)]
async fn one_by_one_is_believed() {
    let coord = Coord::new(MemoryCoord::new());
    mortal(&coord, 6).await;
    let time = coord.endpoints("time").await.unwrap();
    for n in 0..6 {
        expire(&coord, [n]).await;
        sleep(Duration::from_secs(16)).await;
        assert_eq!(suspects(&time), (5 - n, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_leaves_the_list_and_says_so() {
    let (coord, rigged) = rigged();
    let _servers = registered(&coord, 3).await;
    let mut time = coord.endpoints("time").await.unwrap();
    rigged.down(true);
    time.changed().await;
    assert!(time.is_stale());
    sleep(DEFAULT_TTL * 10).await;
    assert_eq!(time.list().len(), 3, "the last known list");
    rigged.down(false);
    sleep(Duration::from_secs(5)).await;
    assert!(!time.is_stale());
    assert_eq!(suspects(&time), (3, 0), "all are back");
}

#[tokio::test(start_paused = true)]
async fn the_last_list_outlives_a_restart() {
    let file = std::env::temp_dir().join(format!("linchpin-endpoints-{}.json", fastrand::u64(..)));
    let options = EndpointsOptions { file: Some(file.clone()), ..EndpointsOptions::default() };
    let (coord, rigged) = rigged();
    rigged.down(true);
    let error = coord.endpoints_with("time", options.clone()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "nothing is known yet");
    rigged.down(false);
    let servers = registered(&coord, 3).await;
    drop(coord.endpoints_with("time", options.clone()).await.unwrap());

    rigged.down(true);
    let time = coord.endpoints_with("time", options).await.unwrap();
    assert!(time.is_stale());
    assert_eq!(time.list().len(), 3);
    assert!(time.pick().is_some());
    drop(servers);
    sleep(DEFAULT_TTL * 2).await;
    rigged.down(false);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(
        (time.is_stale(), suspects(&time)),
        (false, (0, 0)),
        "an old list isn't held against the registry"
    );
    std::fs::remove_file(file).unwrap();
}

#[tokio::test(start_paused = true)]
async fn options_out_of_range_are_refused() {
    let coord = Coord::new(MemoryCoord::new());
    for options in [
        EndpointsOptions { share: 1.5, ..EndpointsOptions::default() },
        EndpointsOptions { balance: Balance::ConsistentHash(0.5), ..EndpointsOptions::default() },
        EndpointsOptions { balance: Balance::ConsistentHash(f64::NAN), ..EndpointsOptions::default() },
    ] {
        assert_eq!(coord.endpoints_with("time", options).await.unwrap_err().kind(), Kind::Config);
    }
}
