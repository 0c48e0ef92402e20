//! Configuration, on the memory engine with a paused clock.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use super::*;
use crate::coord::MemoryCoord;
use crate::coord::testing::rigged;

const TICK: Duration = Duration::from_millis(1);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Limits {
    orders: u32,
}

fn config() -> (Coord, Config) {
    let coord = Coord::new(MemoryCoord::new());
    (coord.clone(), coord.config())
}

async fn orders(config: &Config) -> Vec<u32> {
    let history = config.history("a").await.unwrap();
    history.iter().map(|old| serde_json::from_slice::<Limits>(&old.value).unwrap().orders).collect()
}

#[tokio::test(start_paused = true)]
async fn typed_values_by_compare_and_set() {
    let (_, config) = config();
    assert_eq!(config.get::<Limits>("a").await.unwrap(), None);
    let first = config.set("a", &Limits { orders: 1 }, When::Absent).await.unwrap();
    let conflict = config.set("a", &Limits { orders: 2 }, When::Absent).await.unwrap_err();
    assert_eq!(conflict.kind(), Kind::Conflict);
    let second = config.set("a", &Limits { orders: 2 }, When::Is(first)).await.unwrap();
    assert_eq!(
        config.set("a", &Limits { orders: 3 }, When::Is(first)).await.unwrap_err().kind(),
        Kind::Conflict
    );
    assert_eq!(config.get("a").await.unwrap(), Some(Setting { value: Limits { orders: 2 }, rev: second }));
    assert_eq!(config.get::<Vec<u8>>("a").await.unwrap_err().kind(), Kind::Invalid);
    assert!(config.remove("a", When::Always).await.unwrap());
    assert!(!config.remove("a", When::Always).await.unwrap());
    assert_eq!(orders(&config).await, [2, 1]);
    for bad in ["", "~", "a/~b", "a//b"] {
        assert_eq!(config.set(bad, &1, When::Always).await.unwrap_err().kind(), Kind::Invalid, "{bad:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_versions_are_kept_and_come_back() {
    let (coord, config) = config();
    for n in 1..=15 {
        config.set("a", &Limits { orders: n }, When::Always).await.unwrap();
    }
    assert_eq!(orders(&config).await, (5..=14).rev().collect::<Vec<_>>());
    assert_eq!(coord.list("config-history/").await.unwrap().len(), 10);
    let old = config.history("a").await.unwrap()[3].rev;
    config.rollback("a", old).await.unwrap();
    assert_eq!(config.get::<Limits>("a").await.unwrap().unwrap().value.orders, 11);
    assert_eq!(orders(&config).await[0], 15, "what was rolled back is a version, too");
    assert_eq!(config.rollback("a", Rev(1)).await.unwrap_err().kind(), Kind::NotFound);
    // What others write around it is kept, too, and another key's history is its own.
    coord.put("config/a", "{\"orders\":99}", When::Always).await.unwrap();
    config.set("a", &Limits { orders: 100 }, When::Always).await.unwrap();
    config.set("a/b", &1, When::Always).await.unwrap();
    config.set("a/b", &2, When::Always).await.unwrap();
    assert_eq!(orders(&config).await[0], 99);
    assert_eq!(config.keep(3).history("a").await.unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn racing_writers_lose_no_version() {
    let (_, config) = config();
    let config = config.keep(100);
    let writers = (0..8).map(|n| {
        let config = config.clone();
        tokio::spawn(async move {
            for _ in 0..5 {
                config.set("a", &Limits { orders: n }, When::Always).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(orders(&config).await.len(), 39);
}

#[tokio::test(start_paused = true)]
async fn a_handle_follows_and_keeps_the_last_good_value() {
    let (coord, config) = config();
    let mut live = config.watch::<Limits>("a").await.unwrap();
    assert!(live.value().is_none());
    let rev = config.set("a", &Limits { orders: 1 }, When::Always).await.unwrap();
    live.changed().await;
    assert_eq!((live.value().unwrap().orders, live.rev()), (1, Some(rev)));

    // Others beside it don't count.
    config.set("ab", &7, When::Always).await.unwrap();
    config.set("a/b", &7, When::Always).await.unwrap();
    assert!(timeout(TICK, live.changed()).await.is_err());
    assert!(live.problem().is_none());

    coord.put("config/a", "{\"orders\":\"many\"}", When::Always).await.unwrap();
    assert!(timeout(TICK, live.changed()).await.is_err());
    assert_eq!(live.value().unwrap().orders, 1, "the last good one");
    assert_eq!(live.problem().unwrap().kind(), Kind::Invalid);
    assert_eq!(config.watch::<Limits>("a").await.unwrap_err().kind(), Kind::Invalid);

    config.set("a", &Limits { orders: 2 }, When::Always).await.unwrap();
    live.changed().await;
    assert!(live.problem().is_none() && live.value().unwrap().orders == 2);
    config.remove("a", When::Always).await.unwrap();
    live.changed().await;
    assert!(live.value().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_told_and_sat_out() {
    let (coord, rigged) = rigged();
    let config = coord.config();
    config.set("a", &Limits { orders: 1 }, When::Always).await.unwrap();
    let mut live = config.watch::<Limits>("a").await.unwrap();
    rigged.down(true);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(live.problem().unwrap().kind(), Kind::Unavailable);
    assert_eq!(live.value().unwrap().orders, 1);
    rigged.down(false);
    config.set("a", &Limits { orders: 2 }, When::Always).await.unwrap();
    live.changed().await;
    assert!(live.problem().is_none() && live.value().unwrap().orders == 2);
}
