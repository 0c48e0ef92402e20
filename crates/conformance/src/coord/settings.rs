//! Typed values that change live, with a history.

use std::collections::BTreeSet;
use std::time::Duration;

use linchpin::coord::{Config, Live, Rev, When};
use linchpin::{Kind, Result};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::tools::*;
use crate::tools::{GRACE, LONG, MOMENT, SOON, assert_kind};
use crate::world::Space;

const KEY: &str = "shop/limits";
/// How soon everything must work again once the server does.
const BACK: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Limits {
    orders: u32,
}

async fn set(config: &Config, orders: u32, when: When) -> Result<Rev> {
    config.set(KEY, &Limits { orders }, when).await
}

fn orders(live: &Live<Limits>) -> Option<u32> {
    live.value().map(|limits| limits.orders)
}

/// Earlier versions, the newest first.
async fn history(config: &Config) -> Vec<u32> {
    let history = config.history(KEY).await.unwrap();
    history.iter().map(|old| serde_json::from_slice::<Limits>(&old.value).unwrap().orders).collect()
}

/// Until the live value is this.
async fn until(live: &mut Live<Limits>, limit: Duration, wanted: Option<u32>) {
    let started = Instant::now();
    while orders(live) != wanted {
        let told = timeout(limit.saturating_sub(started.elapsed()), live.changed()).await;
        assert!(told.is_ok(), "{:?} instead of {wanted:?} after {limit:?}", orders(live));
    }
}

pub(super) async fn a_setting_is_followed_live(s: Space) {
    let config = s.coord.config();
    let mut live = s.other().await.config().watch::<Limits>(KEY).await.unwrap();
    assert_eq!((orders(&live), live.rev()), (None, None));
    for n in 1..=5 {
        let rev = set(&config, n, When::Always).await.unwrap();
        until(&mut live, GRACE, Some(n)).await;
        assert_eq!(live.rev(), Some(rev));
    }
    // Another key is another value, also one that begins alike.
    config.set("shop/limits2", &Limits { orders: 9 }, When::Absent).await.unwrap();
    // Other tools write it as plain JSON.
    put(&s.coord, "config/shop/limits", "{\"orders\": 70}").await;
    until(&mut live, GRACE, Some(70)).await;
    assert!(config.remove(KEY, When::Always).await.unwrap());
    until(&mut live, GRACE, None).await;
    assert!(live.problem().is_none());
}

pub(super) async fn the_last_good_value_is_kept(s: Space) {
    let config = s.coord.config();
    let good = set(&config, 10, When::Absent).await.unwrap();
    let mut live = config.watch::<Limits>(KEY).await.unwrap();
    for wrong in ["not JSON", "{\"orders\": \"many\"}", ""] {
        put(&s.coord, "config/shop/limits", wrong).await;
        let started = Instant::now();
        while live.problem().is_none() {
            assert!(started.elapsed() < SOON, "{wrong:?} isn't told of");
            sleep(MOMENT / 10).await;
        }
        assert_eq!((orders(&live), live.rev()), (Some(10), Some(good)), "{wrong:?} changes nothing");
    }
    let problem = live.problem().unwrap();
    assert_eq!(problem.kind(), Kind::Invalid, "{problem}");
    assert_kind(config.get::<Limits>(KEY).await, Kind::Invalid);
    assert_kind(config.watch::<Limits>(KEY).await, Kind::Invalid);
    set(&config, 20, When::Always).await.unwrap();
    until(&mut live, SOON, Some(20)).await;
    assert!(live.problem().is_none());
}

pub(super) async fn of_many_one_compares_and_sets(s: Space) {
    let config = s.coord.config().keep(100);
    let first = set(&config, 0, When::Absent).await.unwrap();
    assert_kind(set(&config, 1, When::Absent).await, Kind::Conflict);
    let mut tasks = JoinSet::new();
    for task in 1..=10 {
        let config = config.clone();
        tasks.spawn(async move { set(&config, task, When::Is(first)).await });
    }
    let answers = timeout(LONG, tasks.join_all()).await.expect("everybody is answered");
    let won: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
    let lost = answers.iter().filter(|a| a.as_ref().is_err_and(|e| e.kind() == Kind::Conflict)).count();
    assert_eq!((won.len(), lost), (1, 9), "{answers:?}");
    assert_eq!(config.get::<Limits>(KEY).await.unwrap().unwrap().rev, *won[0]);
    // Without a condition everybody's is written, and each version was there once.
    let mut tasks = JoinSet::new();
    for task in 0..4 {
        let config = config.clone();
        tasks.spawn(async move {
            for n in 0..5 {
                set(&config, 100 + task * 5 + n, When::Always).await.unwrap();
            }
        });
    }
    timeout(LONG, tasks.join_all()).await.expect("everybody writes");
    let mut versions = history(&config).await;
    versions.push(config.get::<Limits>(KEY).await.unwrap().unwrap().value.orders);
    assert_eq!(versions.len(), 22, "{versions:?}");
    let written: BTreeSet<_> = versions.into_iter().filter(|n| *n >= 100).collect();
    assert_eq!(written, (100..120).collect(), "no version is lost");
}

pub(super) async fn a_setting_has_a_history_and_goes_back(s: Space) {
    let config = s.coord.config().keep(3);
    assert_eq!(config.get::<Limits>(KEY).await.unwrap(), None);
    let mut revs = Vec::new();
    for n in 0..6 {
        revs.push(set(&config, n, When::Always).await.unwrap());
    }
    assert!(revs.is_sorted_by(|a, b| a < b), "{revs:?}");
    assert_eq!(history(&config).await, [4, 3, 2]);
    let error = assert_kind(config.rollback(KEY, revs[0]).await, Kind::NotFound);
    assert!(error.remedy().is_some(), "{error}");
    let back = config.rollback(KEY, revs[3]).await.unwrap();
    let now = config.get::<Limits>(KEY).await.unwrap().unwrap();
    assert_eq!((now.value.orders, now.rev), (3, back));
    assert_eq!(history(&config).await, [5, 4, 3], "going back is a change like any other");
    assert_kind(set(&config, 9, When::Is(revs[5])).await, Kind::Conflict);
    assert!(config.remove(KEY, When::Is(back)).await.unwrap());
    assert_eq!(config.get::<Limits>(KEY).await.unwrap(), None);
    assert_eq!(history(&config).await[0], 3, "it outlasts the value");
}

pub(super) async fn settings_outlast_the_server(s: Space) {
    let config = s.coord.config();
    for n in 0..4 {
        set(&config, n, When::Always).await.unwrap();
    }
    let mut live = s.other().await.config().watch::<Limits>(KEY).await.unwrap();
    let before = config.history(KEY).await.unwrap();
    s.server().kill().await;
    sleep(MOMENT).await;
    assert_eq!(orders(&live), Some(3));
    s.server().restart().await;
    let started = Instant::now();
    let there = loop {
        match config.get::<Limits>(KEY).await {
            Ok(there) => break there.unwrap(),
            Err(error) => assert!(started.elapsed() < BACK, "{error}"),
        }
        sleep(MOMENT).await;
    };
    assert_eq!((there.value.orders, Some(there.rev)), (3, live.rev()));
    assert_eq!(config.history(KEY).await.unwrap(), before);
    let changed = set(&config, 4, When::Is(there.rev)).await.unwrap();
    until(&mut live, BACK, Some(4)).await;
    assert_eq!(live.rev(), Some(changed));
    assert!(live.problem().is_none(), "{:?}", live.problem());
    config.rollback(KEY, before[1].rev).await.unwrap();
    until(&mut live, SOON, Some(1)).await;
}
