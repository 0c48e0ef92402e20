//! One server of several dies, and another takes over.

use std::time::Duration;

use tokio::time::sleep;

use crate::bus::outage::{Ledger, patient};
use crate::tools::*;
use crate::world::World;

/// Those that lead, or may: a replica's death moves nothing.
async fn leaders(w: &World) -> Vec<usize> {
    let replicas = w.server().replicas().await;
    (0..w.server().nodes()).filter(|node| !replicas.contains(node)).collect()
}

pub(super) async fn lost_leaders_lose_nothing_acknowledged(w: World) {
    w.topic("t", 6).await;
    let sub = join(&w.bus, "t", &patient("g")).await;
    let mut ledger = Ledger::default();
    let mut next = 0;
    for leader in leaders(&w).await {
        for dead in [true, false] {
            if dead {
                w.server().kill_node(leader).await;
            } else {
                w.server().restart_node(leader).await;
                w.server().whole().await;
            }
            for _ in 0..3 {
                ledger.publish(&w.bus, next..next + 300).await;
                next += 300;
                ledger.step(&sub, 200, MOMENT / 10).await;
            }
        }
    }
    ledger.consume(&sub).await;
}

/// Where a failover may lose what was acknowledged just before, everything after it must still be as ever.
pub(super) async fn work_goes_on_after_a_failover(w: World) {
    w.topic("t", 6).await;
    let sub = join(&w.bus, "t", &patient("g")).await;
    let mut ledger = Ledger::default();
    ledger.publish(&w.bus, 0..500).await;
    ledger.consume(&sub).await;
    // Long enough for every replica to know of it: then a failover takes nothing.
    sleep(Duration::from_secs(1)).await;
    let leader = leaders(&w).await[0];
    w.server().kill_node(leader).await;
    ledger.publish(&w.bus, 500..1_500).await;
    ledger.consume(&sub).await;
    w.server().restart_node(leader).await;
    w.server().whole().await;
    ledger.publish(&w.bus, 1_500..2_000).await;
    ledger.consume(&sub).await;
}
