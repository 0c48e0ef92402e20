//! The server dies, freezes, or can't be reached, and comes back: what was answered still holds.

use std::time::Duration;

use linchpin::Retry;
use linchpin::coord::{Coord, Rev, When};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::tools::*;
use super::watches::scribble;
use crate::tools::{GRACE, LONG, MOMENT, SOON};
use crate::world::Space;

/// How soon everything must work again once the server does.
const BACK: Duration = Duration::from_secs(60);
/// How long a call may take on a server that is gone: its timeout is 3 s.
const TOLD: Duration = Duration::from_secs(8);
/// Longer than clients take to notice anything.
const FROZEN: Duration = Duration::from_secs(4);

/// What someone knows who incremented a counter through an outage.
#[derive(Default)]
struct Tally {
    /// Answered with a revision, in the order of asking.
    revs: Vec<Rev>,
    /// May have happened.
    unknown: u64,
}

/// Increments until `times` of them were answered.
async fn tally(coord: Coord, key: &'static str, times: usize) -> Tally {
    let (mut tally, mut last) = (Tally::default(), Instant::now());
    while tally.revs.len() < times {
        assert!(last.elapsed() < BACK, "{} of {times} increments after {BACK:?}", tally.revs.len());
        match timeout(TOLD, increment(&coord, key)).await.expect("a call ends in time") {
            Ok(rev) => {
                tally.revs.push(rev);
                last = Instant::now();
            }
            Err(error) => {
                match error.retry() {
                    Retry::Safe { .. } => {}
                    Retry::Unknown | Retry::Exhausted => tally.unknown += 1,
                    Retry::Never => panic!("a passing outage is no reason never to try again: {error}"),
                }
                sleep(MOMENT / 2).await;
            }
        }
    }
    tally
}

/// Until a write is answered: the harm may have ended a moment ago, and nobody wrote since.
async fn back(coord: &Coord) {
    let started = Instant::now();
    while coord.put("back", "x", When::Always).await.is_err() {
        assert!(started.elapsed() < BACK, "no write after {BACK:?}");
        sleep(MOMENT).await;
    }
}

/// Four tasks increment while `harm` is done; every answer is held against what is there in the end.
async fn count_through(s: &Space, times: usize, harm: impl AsyncFnOnce()) {
    let tasks: Vec<JoinHandle<Tally>> =
        (0..4).map(|_| tokio::spawn(tally(s.coord.clone(), "count", times))).collect();
    harm().await;
    back(&s.coord).await;
    let (mut revs, mut unknown) = (Vec::new(), 0);
    for task in tasks {
        let tally = task.await.unwrap();
        assert!(tally.revs.is_sorted_by(|a, b| a < b), "revisions fall: {:?}", tally.revs);
        unknown += tally.unknown;
        revs.extend(tally.revs);
    }
    let answered = revs.len() as u64;
    let found = number(&s.coord, "count").await;
    assert!(
        (answered..=answered + unknown).contains(&found),
        "{answered} increments were answered, {unknown} may have happened, {found} are there"
    );
    revs.sort_unstable();
    assert!(revs.is_sorted_by(|a, b| a < b), "a revision was given twice");
    assert!(put(&s.coord, "after", "x").await > *revs.last().unwrap());
}

pub(super) async fn increments_survive_kills_of_the_server(s: Space) {
    let server = s.server();
    count_through(&s, 150, async || {
        for _ in 0..2 {
            sleep(MOMENT).await;
            server.kill().await;
            sleep(MOMENT).await;
            server.restart().await;
        }
    })
    .await;
}

pub(super) async fn a_frozen_server_is_told_of(s: Space) {
    put(&s.coord, "a", "x").await;
    let mut watched = s.coord.watch("").await.unwrap();
    s.server().freeze().await;
    let started = Instant::now();
    let told = timeout(TOLD, s.coord.put("a", "y", When::Always)).await.expect("a put ends in time");
    let error = told.expect_err("nobody can have answered");
    assert_ne!(error.retry(), Retry::Never, "{error}");
    timeout(TOLD, s.coord.get("a")).await.expect("a get ends in time").expect_err("nobody can have answered");
    // A watch may not notice; it must not hang.
    let _ = timeout(TOLD, watched.changes.next(MOMENT)).await.expect("a look ends in time");
    sleep(FROZEN.saturating_sub(started.elapsed())).await;
    s.server().thaw().await;
    let started = Instant::now();
    while s.coord.put("b", "x", When::Always).await.is_err() {
        assert!(started.elapsed() < BACK, "no write after {BACK:?}");
        sleep(MOMENT).await;
    }
    let value = text(&s.coord.get("a").await.unwrap().unwrap());
    assert!(value == "x" || value == "y", "{value}");
    let mut picture = Picture::of(&s.coord, "").await;
    put(&s.coord, "c", "x").await;
    picture.until("c", SOON).await;
}

/// Ten writers change keys while `harm` is done; a watcher sees all of it.
async fn watch_through(s: &Space, harm: impl AsyncFnOnce()) {
    let mut picture = Picture::of(&s.coord, "w/").await;
    let mut writers = JoinSet::new();
    for task in 0..10 {
        writers.spawn(scribble(s.coord.clone(), task, 1_000, format!("w/end{task}")));
    }
    let watching = async {
        for task in 0..10 {
            picture.until(&format!("w/end{task}"), BACK * 2).await;
        }
    };
    tokio::join!(watching, harm());
    writers.join_all().await;
    back(&s.coord).await;
    put(&s.coord, "w/really", "x").await;
    picture.until("w/really", SOON).await;
    picture.check(&s.coord, "w/").await;
}

pub(super) async fn a_watch_has_no_hole_across_kills_of_the_server(s: Space) {
    let server = s.server();
    watch_through(&s, async || {
        for _ in 0..2 {
            sleep(MOMENT * 2).await;
            server.kill().await;
            server.restart().await;
        }
    })
    .await;
}

pub(super) async fn a_watch_has_no_hole_across_cut_connections(s: Space) {
    let server = s.server();
    watch_through(&s, async || {
        for _ in 0..3 {
            sleep(MOMENT * 2).await;
            server.cut();
            sleep(MOMENT * 2).await;
            server.mend();
        }
    })
    .await;
}

pub(super) async fn a_lease_ends_in_time_after_a_kill_of_the_server(s: Space) {
    let lease = s.coord.engine().grant(ttl(&s.coord)).await.unwrap();
    let kept = s.coord.engine().grant(LONG * 4).await.unwrap();
    lend(&s.coord, "ends", &lease).await.unwrap();
    lend(&s.coord, "stays", &kept).await.unwrap();
    s.server().kill().await;
    s.server().restart().await;
    // A new server may give every lease its whole time again.
    let started = Instant::now();
    let limit = BACK + latest(&s.coord);
    while !matches!(s.coord.get("ends").await, Ok(None)) {
        assert!(started.elapsed() < limit, "the lease goes on after {limit:?}");
        sleep(MOMENT).await;
    }
    let ended = started.elapsed();
    assert!(ended <= latest(&s.coord) + SOON, "the lease ended {ended:?} after the restart");
    assert!(is_there(&s.coord, "stays").await, "a lease that had time left is over");
    s.coord.engine().renew(&kept).await.unwrap();
    s.coord.engine().revoke(&kept).await.unwrap();
    assert!(!is_there(&s.coord, "stays").await);
}

/// Each server in turn dies and comes back while work goes on: one of them led.
async fn lose_each(s: &Space) {
    for node in 0..s.server().nodes().min(3) {
        sleep(MOMENT * 2).await;
        s.server().kill_node(node).await;
        sleep(GRACE * 3).await;
        s.server().restart_node(node).await;
        s.server().whole().await;
    }
}

pub(super) async fn revisions_rise_across_lost_leaders(s: Space) {
    count_through(&s, 400, async || lose_each(&s).await).await;
}

pub(super) async fn work_goes_on_after_a_lost_leader(s: Space) {
    put(&s.coord, "a", "x").await;
    for node in 0..s.server().nodes().min(3) {
        s.server().kill_node(node).await;
        let started = Instant::now();
        while s.coord.put("a", node.to_string(), When::Always).await.is_err() {
            assert!(started.elapsed() < BACK, "no write {BACK:?} after server {node} died");
            sleep(MOMENT).await;
        }
        s.server().restart_node(node).await;
        s.server().whole().await;
    }
    let mut picture = Picture::of(&s.coord, "").await;
    put(&s.coord, "b", "x").await;
    picture.until("b", SOON).await;
}
