//! One holder at a time, and what becomes of it when somebody dies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use linchpin::Kind;
use linchpin::coord::{Coord, Rev, Session};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::tools::*;
use crate::child::Child;
use crate::protocol::{CoordCommand, Event, Held};
use crate::tools::{GRACE, LONG, MOMENT, SOON, assert_kind};
use crate::world::Space;

const NAME: &str = "orders/42";
/// How long everything may take when servers die.
const BACK: Duration = Duration::from_secs(90);

async fn session(coord: &Coord) -> Session {
    coord.session(ttl(coord) * 3).await.unwrap()
}

/// Until as many stand in line, holders included.
async fn line_of(coord: &Coord, count: usize) {
    let started = Instant::now();
    loop {
        let there = keys(coord, "lock/").await;
        if there.len() == count {
            return;
        }
        assert!(started.elapsed() < SOON, "{} in line instead of {count}: {there:?}", there.len());
        sleep(Duration::from_millis(10)).await;
    }
}

pub(super) async fn a_lock_is_passed_on_in_the_order_of_asking(s: Space) {
    let session = session(&s.coord).await;
    let (order, mut waiters) = (Arc::new(Mutex::new(Vec::new())), JoinSet::new());
    let holder = session.lock(NAME).acquire().await.unwrap();
    for n in 0..10 {
        let (session, order) = (session.clone(), order.clone());
        waiters.spawn(async move {
            let guard = session.lock(NAME).acquire().await.unwrap();
            order.lock().await.push((n, guard.token()));
            guard.release().await.unwrap();
        });
        line_of(&s.coord, n + 2).await;
    }
    let mut last = holder.token();
    holder.release().await.unwrap();
    timeout(LONG, waiters.join_all()).await.expect("everybody gets it");
    let order = order.lock().await;
    assert_eq!(order.iter().map(|(n, _)| *n).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    for (n, token) in order.iter() {
        assert!(*token > last, "the token of {n} is {token} after {last}");
        last = *token;
    }
    line_of(&s.coord, 0).await;
}

pub(super) async fn a_token_rises_whenever_the_lock_is_taken(s: Space) {
    let (mine, others) = (session(&s.coord).await, session(&s.coord).await);
    let mut last = Rev(0);
    for round in 0..6 {
        let session = if round % 3 == 2 { &others } else { &mine };
        let guard = session.lock(NAME).acquire().await.unwrap();
        assert!(guard.token() > last, "{} after {last}, in round {round}", guard.token());
        last = guard.token();
        guard.release().await.unwrap();
        line_of(&s.coord, 0).await;
    }
}

pub(super) async fn trying_and_waiting_at_most_leave_nothing(s: Space) {
    let (mine, others) = (session(&s.coord).await, session(&s.coord).await);
    let lock = others.lock(NAME);
    let guard = mine.lock(NAME).acquire().await.unwrap();
    assert!(lock.try_acquire().await.unwrap().is_none(), "it is held");
    let started = Instant::now();
    assert_kind(lock.acquire_within(MOMENT * 2).await, Kind::Timeout);
    assert!(
        started.elapsed() >= MOMENT * 2 && started.elapsed() < MOMENT * 2 + GRACE,
        "{:?}",
        started.elapsed()
    );
    line_of(&s.coord, 1).await;
    assert!(others.lock("orders/43").try_acquire().await.unwrap().is_some(), "another lock is another lock");
    guard.release().await.unwrap();
    let guard = lock.try_acquire().await.unwrap().expect("it is free");
    let again = guard.reenter().unwrap();
    assert_eq!(guard.token(), again.token(), "entering again keeps the token");
    guard.release().await.unwrap();
    assert!(mine.lock(NAME).try_acquire().await.unwrap().is_none(), "one entry is left");
    again.release().await.unwrap();
    assert!(mine.lock(NAME).try_acquire().await.unwrap().is_some());
}

pub(super) async fn cancelled_waiters_leave_nothing(s: Space) {
    let session = session(&s.coord).await;
    let guard = session.lock(NAME).acquire().await.unwrap();
    let mut waiters = JoinSet::new();
    for n in 0..20_u64 {
        let session = session.clone();
        waiters.spawn(async move {
            // Cut short at any point of asking and waiting.
            let _ = timeout(Duration::from_millis(n * 3), session.lock(NAME).acquire()).await;
        });
    }
    waiters.join_all().await;
    line_of(&s.coord, 1).await;
    let heir = session.lock(NAME);
    let waiting = tokio::spawn(async move { heir.acquire().await.unwrap() });
    line_of(&s.coord, 2).await;
    drop(guard);
    let heir = timeout(SOON, waiting).await.expect("it was released by being dropped").unwrap();
    heir.release().await.unwrap();
    line_of(&s.coord, 0).await;
}

pub(super) async fn many_contend_and_never_two_hold(s: Space) {
    let (holders, turns) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
    let mut tasks = JoinSet::new();
    for _ in 0..20 {
        let session = session(&s.coord).await;
        let (holders, turns) = (holders.clone(), turns.clone());
        tasks.spawn(async move {
            for _ in 0..5 {
                let guard = session.lock(NAME).acquire().await.unwrap();
                assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two hold it");
                turns.lock().await.push(guard.token());
                tokio::task::yield_now().await;
                holders.fetch_sub(1, Ordering::SeqCst);
                guard.release().await.unwrap();
            }
            session.close().await.unwrap();
        });
    }
    tasks.join_all().await;
    let turns = turns.lock().await;
    assert_eq!(turns.len(), 100);
    assert!(turns.is_sorted_by(|a, b| a < b), "tokens rise from holder to holder: {turns:?}");
}

pub(super) async fn nobody_releases_what_another_holds(s: Space) {
    let mine = s.coord.session(ttl(&s.coord)).await.unwrap();
    let guard = mine.lock(NAME).acquire().await.unwrap();
    // As if its lease had ended: the engine has taken it away.
    s.coord.engine().revoke(mine.lease()).await.unwrap();
    let theirs = session(&s.coord).await;
    let heir = timeout(latest(&s.coord), theirs.lock(NAME).acquire()).await.expect("it is free").unwrap();
    assert!(heir.token() > guard.token());
    let answer = timeout(SOON, guard.release()).await.expect("an answer");
    answer.expect_err("it wasn't held any more");
    assert!(heir.is_held());
    assert!(theirs.lock(NAME).try_acquire().await.unwrap().is_none(), "the heir still holds it");
    let why = timeout(latest(&s.coord), mine.lost()).await.expect("it is told");
    assert_eq!(why.kind(), Kind::Fenced, "{why}");
}

async fn contend(child: &mut Child, rounds: u64, ttl: Duration) {
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap();
    child.tell(&CoordCommand::Contend { name: NAME.into(), rounds, ttl_ms }).await;
}

pub(super) async fn a_killed_holder_is_followed(s: Space) {
    let mut child = s.child().await;
    let ttl_ms = u64::try_from(ttl(&s.coord).as_millis()).unwrap();
    let held = child.ask(&CoordCommand::Lock { name: NAME.into(), ttl_ms }).await;
    let Event::Held(held) = held else { panic!("{held:?}") };
    let session = session(&s.coord).await;
    let lock = session.lock(NAME);
    assert_kind(lock.acquire_within(ttl(&s.coord) * 2).await, Kind::Timeout);
    child.kill().await;
    let killed = Instant::now();
    let guard = timeout(latest(&s.coord) + GRACE, lock.acquire()).await.expect("it is passed on").unwrap();
    assert!(guard.token().0 > held.token, "after {:?}", killed.elapsed());
}

pub(super) async fn a_frozen_holder_is_told_that_it_lost(s: Space) {
    let mut child = s.child().await;
    let ttl_ms = u64::try_from(ttl(&s.coord).as_millis()).unwrap();
    let held = child.ask(&CoordCommand::Lock { name: NAME.into(), ttl_ms }).await;
    let Event::Held(held) = held else { panic!("{held:?}") };
    child.freeze();
    // What it asks itself first when it goes on.
    child.tell(&CoordCommand::IsHeld).await;
    let session = session(&s.coord).await;
    let guard = timeout(latest(&s.coord) + GRACE, session.lock(NAME).acquire()).await;
    let guard = guard.expect("it is passed on").unwrap();
    child.thaw();
    let answer = child.event().await;
    assert!(matches!(&answer, Some(Event::Failed { kind, .. }) if kind == "Fenced"), "{answer:?}");
    assert!(guard.token().0 > held.token && guard.is_held());
    assert!(session.lock(NAME).try_acquire().await.unwrap().is_none(), "what it did released nothing");
}

/// By one clock for all processes: where someone surely held it, nobody else did; and tokens rise.
fn assert_one_at_a_time(mut turns: Vec<Held>) {
    turns.sort_by_key(|turn| turn.from_ns);
    for pair in turns.windows(2) {
        let [before, after] = pair else { unreachable!() };
        assert!(before.token < after.token, "tokens fall: {before:?}, {after:?}");
        assert!(before.until_ns <= after.from_ns, "two hold it at once: {before:?}, {after:?}");
    }
}

async fn turns(children: &mut [Child]) -> Vec<Held> {
    let mut turns = Vec::new();
    let started = Instant::now();
    for child in children {
        loop {
            let left = BACK.saturating_sub(started.elapsed());
            match timeout(left, child.long_event()).await.expect("every acquire ends") {
                Some(Event::Held(turn)) => turns.push(turn),
                Some(Event::Done) => break,
                other => panic!("the child said {other:?}"),
            }
        }
    }
    turns
}

pub(super) async fn twenty_processes_contend(s: Space) {
    let mut children = Vec::new();
    for _ in 0..20 {
        children.push(s.child().await);
    }
    for child in &mut children {
        contend(child, 5, ttl(&s.coord) * 5).await;
    }
    let turns = turns(&mut children).await;
    assert_eq!(turns.len(), 100);
    assert_one_at_a_time(turns);
}

pub(super) async fn twenty_processes_contend_while_the_server_dies(s: Space) {
    let mut children = Vec::new();
    for _ in 0..20 {
        children.push(s.child().await);
    }
    for child in &mut children {
        contend(child, 5, ttl(&s.coord) * 2).await;
    }
    sleep(MOMENT * 2).await;
    s.server().kill().await;
    sleep(MOMENT).await;
    s.server().restart().await;
    let turns = turns(&mut children).await;
    assert!(turns.len() >= 100);
    assert_one_at_a_time(turns);
}

pub(super) async fn twenty_processes_contend_while_leaders_are_lost(s: Space) {
    let mut children = Vec::new();
    for _ in 0..20 {
        children.push(s.child().await);
    }
    for child in &mut children {
        contend(child, 8, ttl(&s.coord) * 2).await;
    }
    for node in 0..s.server().nodes().min(3) {
        sleep(MOMENT * 2).await;
        s.server().kill_node(node).await;
        sleep(GRACE).await;
        s.server().restart_node(node).await;
        s.server().whole().await;
    }
    let turns = turns(&mut children).await;
    assert!(turns.len() >= 160);
    assert_one_at_a_time(turns);
}

pub(super) async fn a_holder_is_told_before_a_silent_server_can_pass_it_on(s: Space) {
    let ttl = ttl(&s.coord) * 2;
    let session = s.coord.session(ttl).await.unwrap();
    let guard = session.lock(NAME).acquire().await.unwrap();
    assert!(guard.is_held());
    s.server().freeze().await;
    let frozen = Instant::now();
    let why = timeout(ttl + GRACE, guard.lost()).await.expect("it is told");
    assert_eq!(why.kind(), Kind::Fenced, "{why}");
    assert!(frozen.elapsed() < ttl, "told only after {:?}", frozen.elapsed());
    assert!(!guard.is_held());
    s.server().thaw().await;
    sleep(MOMENT).await;
    assert!(!guard.is_held(), "what was lost stays lost");
}
