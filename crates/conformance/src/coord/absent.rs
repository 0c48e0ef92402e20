//! Proof of absence: what an engine says it can't do, it can't. Each check panics if it can.

use linchpin::coord::When;
use tokio::time::{Instant, sleep};

use super::tools::*;
use crate::case::Need;
use crate::protocol::{CoordCommand, Event};
use crate::tools::{LONG, MOMENT};
use crate::world::Space;

/// Checks that `need` is absent, and says how that showed.
pub(crate) async fn prove(s: Space, need: Need) -> &'static str {
    match need {
        Need::Durable => {
            put(&s.coord, "a", "x").await;
            let s = s.reopen().await;
            assert!(!is_there(&s.coord, "a").await);
            "a key is gone once nobody has the engine open"
        }
        Need::Shared => {
            put(&s.coord, "a", "x").await;
            let event = s.child().await.ask(&CoordCommand::Count { prefix: String::new() }).await;
            assert!(matches!(event, Event::Holds(0)), "{event:?}");
            "another process doesn't see the key"
        }
        Need::Failover => lost_by_failover(&s).await,
        _ => panic!("{} says nothing about coordination", need.name()),
    }
}

/// The replicas are frozen, so that they learn nothing of what the primaries answer `Ok` to before these die.
async fn lost_by_failover(s: &Space) -> &'static str {
    put(&s.coord, "a", "before").await;
    let server = s.server();
    let replicas = server.replicas().await;
    assert!(!replicas.is_empty(), "no replica could take over");
    // What is there, arrives before the replicas freeze.
    sleep(MOMENT * 5).await;
    replicas.iter().for_each(|&node| server.freeze_node(node));
    let mut last = put(&s.coord, "a", "after").await;
    // More than lies in the sockets between a primary and its replica.
    for n in 0..40 {
        last = s.coord.put(&format!("fill/{n}"), vec![b'0'; 900_000], When::Always).await.unwrap();
    }
    // Of several primaries the one that holds the space: without it nobody writes.
    for node in (0..server.nodes()).filter(|node| !replicas.contains(node)) {
        server.kill_node(node).await;
        match s.coord.put("a", "whose", When::Always).await {
            Ok(rev) => last = rev,
            Err(_) => break,
        }
        server.restart_node(node).await;
    }
    replicas.iter().for_each(|&node| server.thaw_node(node));
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < LONG * 4, "no write after the failover");
        match s.coord.put("b", "x", When::Always).await {
            Ok(rev) if rev <= last => return "after a failover a revision is given a second time",
            Ok(_) => break,
            Err(_) => sleep(MOMENT).await,
        }
    }
    let there = s.coord.list("fill/").await.unwrap().len();
    assert!(there < 40, "all 40 survived");
    "what a primary answered Ok to before its replica knew of it is lost when that takes over"
}
