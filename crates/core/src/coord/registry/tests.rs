//! Registration, on the memory engine with a paused clock.

use tokio::time::{sleep, timeout};

use super::*;
use crate::coord::testing::rigged;
use crate::coord::{Entry, MemoryCoord};

const TICK: Duration = Duration::from_millis(1);

/// Those that haven't taken leave.
async fn listed(coord: &Coord) -> Vec<Entry> {
    let all = coord.list("service/time/").await.unwrap();
    let leaving =
        |entry: &Entry| serde_json::from_slice::<Instance>(&entry.value).unwrap().health == Health::Leaving;
    all.into_iter().filter(|entry| !leaving(entry)).collect()
}

fn instance() -> Instance {
    Instance::new("127.0.0.1:7001")
}

#[tokio::test(start_paused = true)]
async fn there_while_it_lives_and_gone_when_it_leaves() {
    let coord = Coord::new(MemoryCoord::new());
    let registration = coord.register("time", instance()).await.unwrap();
    sleep(DEFAULT_TTL * 10).await;
    let entries = listed(&coord).await;
    assert_eq!(entries[0].key, "service/time/~127.0.0.1:7001");
    assert_eq!(serde_json::from_slice::<Instance>(&entries[0].value).unwrap(), instance());
    registration.update(|instance| {
        instance.weight = 7;
        instance.id = "another".to_owned();
    });
    sleep(TICK).await;
    let seen: Instance = serde_json::from_slice(&listed(&coord).await[0].value).unwrap();
    assert_eq!((seen.weight, seen.id.as_str()), (7, "127.0.0.1:7001"));
    registration.deregister().await.unwrap();
    assert!(listed(&coord).await.is_empty());

    let dropped = coord.register("time", instance()).await.unwrap();
    drop(dropped);
    sleep(TICK).await;
    assert!(listed(&coord).await.is_empty());
    assert_eq!(coord.list("service/time/").await.unwrap().len(), 1, "it says that it leaves");
    sleep(DEFAULT_TTL).await;
    assert!(coord.list("service/time/").await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn registers_again_after_its_key_was_deleted() {
    let coord = Coord::new(MemoryCoord::new());
    let registration = coord.register("time", instance()).await.unwrap();
    for _ in 0..10 {
        coord.delete("service/time/~127.0.0.1:7001", When::Always).await.unwrap();
        sleep(Duration::from_secs(3)).await;
        assert_eq!(listed(&coord).await.len(), 1);
        assert!(registration.is_registered());
    }
}

#[tokio::test(start_paused = true)]
async fn registers_again_after_its_lease_was_lost() {
    let (coord, rigged) = rigged();
    let registration = coord.register("time", instance()).await.unwrap();
    let lease = listed(&coord).await[0].lease.clone().unwrap();
    coord.engine().revoke(&lease).await.unwrap();
    sleep(DEFAULT_TTL).await;
    assert_eq!(listed(&coord).await.len(), 1);

    rigged.down(true);
    sleep(DEFAULT_TTL * 4).await;
    assert!(!registration.is_registered());
    rigged.down(false);
    sleep(Duration::from_secs(3)).await;
    assert!(registration.is_registered());
    assert_eq!(listed(&coord).await.len(), 1);
    registration.deregister().await.unwrap();
    assert!(listed(&coord).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_id_that_another_took_is_left_to_it() {
    let (old, new) = {
        let coord = Coord::new(MemoryCoord::new());
        (coord.clone(), Coord::new(coord.engine().clone()))
    };
    let first = old.register("time", instance()).await.unwrap();
    let second = new.register("time", Instance { weight: 2, ..instance() }).await.unwrap();
    sleep(TICK).await;
    // The one that was restarted has the place; that the other leaves doesn't harm it.
    first.deregister().await.unwrap();
    let seen: Instance = serde_json::from_slice(&listed(&new).await[0].value).unwrap();
    assert_eq!(seen.weight, 2);
    second.deregister().await.unwrap();
    assert!(listed(&new).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn leaving_ends_also_while_the_registry_is_away() {
    let (coord, rigged) = rigged();
    let registration = coord.register("time", instance()).await.unwrap();
    rigged.down(true);
    timeout(Duration::from_secs(20), registration.deregister()).await.unwrap().ok();
    rigged.down(false);
    sleep(DEFAULT_TTL).await;
    assert!(listed(&coord).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn ids_make_keys() {
    let coord = Coord::new(MemoryCoord::new());
    assert_eq!(Instance::new("http://a:1/x").id, "http:--a:1-x");
    for (service, id) in [("time", ""), ("time", "a/b"), ("", "a"), ("~", "a"), ("time", &"x".repeat(600))] {
        let instance = Instance { id: id.to_owned(), ..instance() };
        assert_eq!(coord.register(service, instance).await.unwrap_err().kind(), Kind::Invalid);
    }
}

#[tokio::test(start_paused = true)]
async fn services_are_listed_by_name() {
    let coord = Coord::new(MemoryCoord::new());
    let _one = coord.register("time", instance()).await.unwrap();
    let _two = coord.register("time", Instance::new("127.0.0.1:7002")).await.unwrap();
    let _three = coord.register("shop/stock", instance()).await.unwrap();
    coord.put("service/time/~junk", "junk", When::Always).await.unwrap();
    let services = coord.services().await.unwrap();
    let counts: Vec<_> = services.iter().map(|(name, all)| (name.as_str(), all.len())).collect();
    assert_eq!(counts, [("shop/stock", 1), ("time", 2)]);
}
