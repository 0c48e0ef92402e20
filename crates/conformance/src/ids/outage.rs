//! The server dies, or can't be reached, and comes back.

use std::time::Duration;

use linchpin::id::{Id, Ids};
use linchpin::{Kind, Retry};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::tools::*;
use crate::tools::{GRACE, LONG, MOMENT};
use crate::world::Issuer;

/// How soon everything must work again once the server does.
const BACK: Duration = Duration::from_secs(60);
/// How long a call may take on a server that is gone: its timeout is 3 s.
const TOLD: Duration = Duration::from_secs(8);
/// Long enough for a segment to be fetched.
const FETCHED: Duration = Duration::from_millis(500);

/// Draws until told to stop, and then until it has drawn once more.
async fn draw_through(ids: Ids, stop: tokio::sync::watch::Receiver<bool>) -> Vec<Id> {
    let (mut all, mut last) = (Vec::new(), Instant::now());
    loop {
        let told = *stop.borrow();
        match timeout(TOLD, ids.next_n(fastrand::usize(1..40))).await.expect("a call ends in time") {
            Ok(batch) => {
                all.extend(batch);
                last = Instant::now();
                if told {
                    return all;
                }
            }
            Err(error) => {
                assert!(last.elapsed() < BACK, "no ids after {BACK:?}: {error}");
                assert_ne!(error.retry(), Retry::Never, "an outage passes: {error}");
            }
        }
        sleep(Duration::from_millis(3)).await;
    }
}

/// Three draw while `harm` is done, and a fourth begins after it.
async fn through(s: &Issuer, options: &str, harm: impl AsyncFnOnce()) {
    let (told, stop) = tokio::sync::watch::channel(false);
    let mut tasks = JoinSet::new();
    for process in 0..3 {
        tasks.spawn(draw_through(open_within(s, process, options, BACK).await, stop.clone()));
    }
    harm().await;
    let fresh = open_within(s, 4, options, BACK).await;
    told.send_replace(true);
    let mut seen = Seen::default();
    for all in timeout(BACK * 2, tasks.join_all()).await.expect("all come back") {
        assert!(!all.is_empty());
        seen.add(all);
    }
    seen.add(draw(&fresh, 500).await);
}

pub(super) async fn kills_of_the_server_repeat_nothing(s: Issuer) {
    through(&s, "", async || {
        for _ in 0..2 {
            sleep(MOMENT).await;
            s.server().kill().await;
            sleep(MOMENT).await;
            s.server().restart().await;
        }
    })
    .await;
}

pub(super) async fn lost_leaders_repeat_nothing(s: Issuer) {
    // Short enough to be lost while nobody leads.
    through(&s, &short_lease(), async || {
        for node in 0..s.server().nodes().min(3) {
            sleep(MOMENT).await;
            s.server().kill_node(node).await;
            sleep(GRACE * 2).await;
            s.server().restart_node(node).await;
            s.server().whole().await;
        }
    })
    .await;
}

pub(super) async fn two_segments_outlast_the_server(s: Issuer) {
    let mut seen = Seen::default();
    // Of the first segment of 100 a fifth fetches the next, of 200.
    for (before, after) in [(10, 90), (30, 270)] {
        let ids = s.open(0).await;
        seen.add(draw(&ids, before).await);
        sleep(FETCHED).await;
        s.server().kill().await;
        let rest = timeout(MOMENT, draw(&ids, after)).await.expect("they are at hand");
        assert!(rest.is_sorted());
        seen.add(rest);
        for _ in 0..2 {
            let error = timeout(TOLD, ids.next()).await.expect("never a hang").expect_err("all are used");
            assert!(matches!(error.kind(), Kind::Unavailable | Kind::Timeout), "{error}");
        }
        // None at hand: told when it is opened.
        let error = timeout(TOLD, s.try_open(0, "")).await.expect("never a hang").expect_err("it is gone");
        assert!(matches!(error.kind(), Kind::Unavailable | Kind::Timeout), "{error}");
        s.server().restart().await;
        // The handle comes back by itself.
        let next = async {
            loop {
                match ids.next().await {
                    Ok(id) => return id,
                    Err(_) => sleep(MOMENT / 2).await,
                }
            }
        };
        seen.add([timeout(LONG, next).await.expect("it comes back")]);
    }
}

/// The server takes the numbers for good, and nobody hears of it.
pub(super) async fn numbers_of_an_unknown_outcome_are_nobodys(s: Issuer) {
    let (ids, other) = (s.open(0).await, s.open(1).await);
    let mut seen = Seen::default();
    seen.add(draw(&ids, 10).await);
    // In the background, while numbers are at hand; and while somebody waits.
    for count in [30, 1_000] {
        sleep(FETCHED).await;
        s.server().lose_an_answer(s.source.commit);
        let (mut all, started) = (Vec::new(), Instant::now());
        while all.len() < count || !s.server().was_answer_lost() {
            assert!(started.elapsed() < LONG, "no answer was lost");
            match timeout(TOLD * 2, ids.next_n(10)).await.expect("never a hang") {
                Ok(batch) => all.extend(batch),
                Err(error) => assert_ne!(error.retry(), Retry::Never, "{error}"),
            }
        }
        assert!(all.is_sorted(), "{all:?}");
        seen.add(all);
        seen.add(draw(&other, 150).await);
    }
    // Whoever asks for one segment is told that it may have been taken.
    sleep(FETCHED).await;
    let name = if s.url(0, "").contains("name=tickets") { "tickets" } else { "orders" };
    let before = ids.segment(name, Some(10)).await.unwrap();
    s.server().lose_an_answer(s.source.commit);
    let error = ids.segment(name, Some(10)).await.expect_err("the answer was lost");
    assert_eq!(error.retry(), Retry::Unknown, "{error}");
    let after = ids.segment(name, Some(10)).await.unwrap();
    assert!(after.first > before.last + 10, "it was taken: {before:?}, then {after:?}");
    seen.add(before.first..=before.last);
    seen.add(after.first..=after.last);
}
