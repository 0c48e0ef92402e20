//! Watches: blocking queries, and what is made of their answers.

use std::time::{Duration, Instant};

use linchpin_core::coord::{Change, Watched};
use linchpin_core::{Kind, Retry};
use serde_json::json;

use crate::agent::{Agent, SOON, Step, pair, said, step};

const LIST: &str = "GET /v1/kv/shop/w/?recurse&consistent";

fn told(changes: &[Change]) -> Vec<(&str, u64, bool)> {
    changes.iter().map(|c| (c.key(), c.rev().0, matches!(c, Change::Put(_)))).collect()
}

fn answer(asks: &'static str, keys: &[(&str, u64)]) -> Step {
    step(asks).gives(keys.iter().map(|(key, index)| pair(&format!("shop/w/{key}"), *index)).collect())
}

#[tokio::test]
async fn a_watch_asks_for_what_is_newer_than_the_last_answer() {
    let steps = [
        answer(LIST, &[("a", 10), ("b", 20)]).at(25),
        answer("GET /v1/kv/shop/w/?recurse&consistent&index=25&wait=*", &[("a", 30), ("c", 28)]).at(31),
        // The time was over, and then everything went.
        answer("GET /v1/kv/shop/w/?recurse&consistent&index=31&wait=*", &[("a", 30), ("c", 28)]).at(31),
        step("GET /v1/kv/shop/w/?recurse&consistent&index=31&wait=*").says(404, "").at(40),
        answer("GET /v1/kv/shop/w/?recurse&consistent&index=40&wait=1ms", &[("c", 41)]).at(41),
    ];
    let (agent, coord) = Agent::opened(steps).await;
    let Watched { snapshot, mut changes } = coord.watch("w/").await.unwrap();
    assert_eq!(snapshot.iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), ["w/a", "w/b"]);
    let first = changes.next(SOON).await.unwrap();
    assert_eq!(told(&first), [("w/c", 28, true), ("w/a", 30, true), ("w/b", 31, false)]);
    let second = changes.next(SOON).await.unwrap();
    assert_eq!(told(&second), [("w/a", 40, false), ("w/c", 40, false)]);
    assert_eq!(told(&changes.next(Duration::ZERO).await.unwrap()), [("w/c", 41, true)]);
    agent.finish();
}

#[tokio::test]
async fn a_wait_is_a_little_shorter_for_consul_than_for_the_caller() {
    let steps = [
        step(LIST).says(404, "").at(5),
        // An hour is more than Consul takes.
        answer("GET /v1/kv/shop/w/?recurse&consistent&index=5&wait=300000ms", &[("a", 6)]).at(6),
        // Of 10 s, since an agent adds up to a sixteenth.
        answer("GET /v1/kv/shop/w/?recurse&consistent&index=6&wait=937*", &[("a", 7)]).at(7),
    ];
    let (agent, coord) = Agent::opened(steps).await;
    let Watched { mut changes, .. } = coord.watch("w/").await.unwrap();
    for (wait, rev) in [(3600, 6), (10, 7)] {
        let came = changes.next(Duration::from_secs(wait)).await.unwrap();
        assert_eq!(told(&came), [("w/a", rev, true)]);
    }
    agent.finish();
}

#[tokio::test]
async fn an_index_that_goes_back_begins_anew() {
    let steps = [
        answer(LIST, &[("a", 10), ("b", 20)]).at(25),
        // A server that was restored from a backup.
        answer("GET /v1/kv/shop/w/?recurse&consistent&index=25&wait=*", &[("b", 12)]).at(12),
        step("GET /v1/kv/shop/linchpin-index?consistent").says(404, "").at(60),
        answer(LIST, &[("b", 20), ("c", 50)]).at(50),
        answer("GET /v1/kv/shop/w/?recurse&consistent&index=50&wait=*", &[("b", 20)]).at(70),
    ];
    let (agent, coord) = Agent::opened(steps).await;
    let Watched { mut changes, .. } = coord.watch("w/").await.unwrap();
    // A deletion that Consul has forgotten isn't behind any index it knows of.
    assert_eq!(told(&changes.next(SOON).await.unwrap()), [("w/c", 50, true), ("w/a", 60, false)]);
    assert_eq!(told(&changes.next(SOON).await.unwrap()), [("w/c", 70, false)]);
    agent.finish();
}

#[tokio::test]
async fn a_prefix_that_a_path_cannot_have_is_sorted_out_here() {
    let all = [pair("shop/w/é1", 3), pair("shop/w/é2", 2), pair("shop/w/e", 1)];
    let more = [pair("shop/w/é1", 3), pair("shop/w/é2", 2), pair("shop/w/e", 9)];
    let steps = [
        step(LIST).gives(json!(all)).at(3),
        step("GET /v1/kv/shop/w/?recurse&consistent&index=3&wait=*").gives(json!(more)).at(9),
        step("GET /v1/kv/shop/w/?recurse&consistent&index=9&wait=*")
            .gives(json!([pair("shop/w/é1", 10)]))
            .at(11),
    ];
    let (agent, coord) = Agent::opened(steps).await;
    let Watched { snapshot, mut changes } = coord.watch("w/é").await.unwrap();
    assert_eq!(snapshot.iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), ["w/é1", "w/é2"]);
    assert_eq!(told(&changes.next(SOON).await.unwrap()), [("w/é1", 10, true), ("w/é2", 11, false)]);
    agent.finish();
}

#[tokio::test]
async fn an_outage_is_told_and_the_watch_goes_on_where_it_was() {
    let ask = "GET /v1/kv/shop/w/?recurse&consistent&index=10&wait=*";
    let steps = [
        answer(LIST, &[("a", 10)]).at(10),
        step(ask).hangs_up(),
        step(ask).hangs(),
        answer(ask, &[("a", 12)]).at(12),
    ];
    let (agent, coord) = Agent::opened(steps).await;
    let Watched { mut changes, .. } = coord.watch("w/").await.unwrap();
    let began = Instant::now();
    let error = changes.next(Duration::from_millis(100)).await.unwrap_err();
    said(&error, Kind::Unavailable, "broke");
    assert!(matches!(error.retry(), Retry::Safe { .. }) && began.elapsed() < SOON, "{error}");
    assert_eq!(told(&changes.next(SOON).await.unwrap()), [("w/a", 12, true)]);
    agent.finish();
}
