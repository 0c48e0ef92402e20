//! Drawing ids, one handle or many in one process.

use futures_util::future::join_all;
use linchpin::Kind;
use linchpin::id::MAX_IDS;
use linchpin::time::{Clock, SystemClock};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::tools::*;
use crate::tools::{LONG, assert_kind};
use crate::world::Issuer;

pub(super) async fn a_call_gives_as_many_as_asked(s: Issuer) {
    let (ids, mut seen) = (s.open(0).await, Seen::default());
    for count in [1, 2, 7, 1_000, 20_000] {
        let batch = ids.next_n(count).await.unwrap();
        assert_eq!(batch.len(), count);
        let before = seen.len();
        seen.add(batch);
        assert_eq!(seen.len() - before, count);
        seen.add([ids.next().await.unwrap()]);
    }
    for count in [0, MAX_IDS + 1] {
        let error = assert_kind(ids.next_n(count).await, Kind::Invalid);
        assert!(error.to_string().contains(&count.to_string()), "{error} names what was asked");
        assert!(error.remedy().unwrap().contains(&MAX_IDS.to_string()), "{error} names the limit");
    }
}

pub(super) async fn ids_rise(s: Issuer) {
    let (ids, mut all) = (s.open(0).await, Vec::new());
    for n in 0..60 {
        all.push(ids.next().await.unwrap());
        all.extend(draw(&ids, 1 + n * 3).await);
    }
    assert!(all.is_sorted_by(|a, b| a < b), "{:?}", all.windows(2).find(|pair| pair[0] >= pair[1]));
}

pub(super) async fn an_id_tells_when_it_was_made(s: Issuer) {
    let ids = s.open(0).await;
    let mut last = None;
    for id in draw(&ids, 100).await {
        let parts = ids.parse(&id.to_string()).unwrap();
        let off = parts.time.as_millisecond() - SystemClock.now().as_millisecond();
        assert!(off.abs() < 60_000, "{id} says {}", parts.time);
        assert!(last < Some((parts.time, parts.sequence)), "{id}: {last:?}, then {parts:?}");
        last = Some((parts.time, parts.sequence));
    }
    for wrong in ["", "x", "-5", "9223372036854775808"] {
        let error = assert_kind(ids.parse(wrong), Kind::Invalid);
        assert!(error.remedy().is_some(), "{error}");
    }
}

pub(super) async fn another_counter_is_apart(s: Issuer) {
    let ids = s.open(0).await;
    assert_eq!(numbers(&ids, 150).await, (1..=150).collect::<Vec<_>>());
    let other = ids.counter("invoices").unwrap();
    assert_eq!(number(&other).await, 1, "it has numbers of its own");
    assert_eq!(number(&ids).await, 151);
    // By name it is the same one.
    assert_eq!(number(&ids.counter("invoices").unwrap()).await, 2);
}

pub(super) async fn a_segment_for_others_is_drawn_by_nobody(s: Issuer) {
    let (ids, other, mut seen) = (s.open(0).await, s.open(1).await, Seen::default());
    let name = if s.url(0, "").contains("name=tickets") { "tickets" } else { "orders" };
    for count in [None, Some(1), Some(50), None, Some(300)] {
        seen.add(draw(&ids, 60).await);
        let segment = ids.segment(name, count).await.unwrap();
        let len = segment.last - segment.first + 1;
        assert!((1..=300).contains(&len), "{segment:?}");
        seen.add(segment.first..=segment.last);
        seen.add(draw(&other, 60).await);
    }
    for count in [0, MAX_IDS as u64 + 1] {
        let error = assert_kind(ids.segment(name, Some(count)).await, Kind::Invalid);
        assert!(error.to_string().contains(&count.to_string()), "{error}");
    }
}

pub(super) async fn wrong_options_are_refused(s: Issuer) {
    let error = assert_kind(s.try_open(0, "wroker=1").await, Kind::Config);
    assert!(error.to_string().contains("wroker"), "{error} names the option");
    assert!(error.remedy().is_some(), "{error}");
}

pub(super) async fn many_handles_draw_and_none_comes_twice(s: Issuer) {
    let mut tasks = JoinSet::new();
    for process in 0..4 {
        let ids = s.open(process).await;
        for task in 0..4 {
            let ids = ids.clone();
            tasks.spawn(async move {
                let mut all = Vec::new();
                while all.len() < 400 {
                    all.push(ids.next().await.unwrap());
                    all.extend(draw(&ids, 1 + task * 13).await);
                    // So that handles take turns.
                    tokio::task::yield_now().await;
                }
                all
            });
        }
    }
    let mut seen = Seen::default();
    for all in timeout(LONG, tasks.join_all()).await.expect("everybody gets ids") {
        seen.add(all);
    }
    assert!(seen.len() >= 16 * 400);
}

/// Of what is missing at first, each makes its part or waits for who does.
pub(super) async fn many_open_at_once(s: Issuer) {
    let opening = join_all((0..8).map(|process| s.try_open(process, "")));
    let mut seen = Seen::default();
    for ids in timeout(LONG, opening).await.expect("everybody gets in") {
        seen.add(draw(&ids.unwrap(), 150).await);
    }
    assert_eq!(seen.len(), 8 * 150);
}
