//! Keys that vanish.

use std::time::Duration;

use linchpin::Kind;
use linchpin::coord::{LeaseId, When};
use tokio::time::{Instant, sleep};

use super::tools::*;
use crate::tools::assert_kind;
use crate::world::Space;

pub(super) async fn a_lease_that_ends_takes_its_keys_in_time(s: Space) {
    let lease = s.coord.engine().grant(ttl(&s.coord)).await.unwrap();
    let started = Instant::now();
    lend(&s.coord, "a", &lease).await.unwrap();
    lend(&s.coord, "b/c", &lease).await.unwrap();
    put(&s.coord, "stays", "x").await;
    let entry = s.coord.get("a").await.unwrap().unwrap();
    assert_eq!(entry.lease.as_ref(), Some(&lease));
    sleep((ttl(&s.coord) * 3 / 4).saturating_sub(started.elapsed())).await;
    assert!(is_there(&s.coord, "a").await && is_there(&s.coord, "b/c").await, "too soon");
    gone(&s.coord, "a", started, latest(&s.coord)).await;
    gone(&s.coord, "b/c", started, latest(&s.coord)).await;
    assert_eq!(keys(&s.coord, "").await, ["stays"]);
}

pub(super) async fn a_renewed_lease_keeps_its_keys(s: Space) {
    let ttl = ttl(&s.coord);
    let lease = s.coord.engine().grant(ttl).await.unwrap();
    lend(&s.coord, "a", &lease).await.unwrap();
    let started = Instant::now();
    let enough = ttl * 2 + s.coord.caps().slack;
    while started.elapsed() < enough {
        sleep(ttl / 4).await;
        s.coord.engine().renew(&lease).await.unwrap();
        assert!(is_there(&s.coord, "a").await, "gone after {:?}", started.elapsed());
    }
    let renewed = Instant::now();
    s.coord.engine().renew(&lease).await.unwrap();
    gone(&s.coord, "a", renewed, latest(&s.coord)).await;
    assert!(renewed.elapsed() >= ttl * 3 / 4, "after {:?}", renewed.elapsed());
}

pub(super) async fn revoking_takes_the_keys_at_once(s: Space) {
    let engine = s.coord.engine();
    let (a, b) =
        (engine.grant(ttl(&s.coord) * 10).await.unwrap(), engine.grant(ttl(&s.coord) * 10).await.unwrap());
    assert_ne!(a, b);
    for n in 0..20 {
        lend(&s.coord, &format!("a/{n}"), &a).await.unwrap();
        lend(&s.coord, &format!("b/{n}"), &b).await.unwrap();
    }
    engine.revoke(&a).await.unwrap();
    assert_eq!(keys(&s.coord, "a/").await, [""; 0]);
    assert_eq!(keys(&s.coord, "b/").await.len(), 20);
    engine.revoke(&a).await.unwrap();
    assert_kind(engine.renew(&a).await, Kind::NotFound);
    engine.renew(&b).await.unwrap();
    engine.revoke(&b).await.unwrap();
}

pub(super) async fn an_ended_lease_is_not_found(s: Space) {
    let engine = s.coord.engine();
    let lease = engine.grant(ttl(&s.coord)).await.unwrap();
    lend(&s.coord, "a", &lease).await.unwrap();
    gone(&s.coord, "a", Instant::now(), latest(&s.coord)).await;
    assert_kind(engine.renew(&lease).await, Kind::NotFound);
    assert_kind(lend(&s.coord, "a", &lease).await, Kind::NotFound);
    assert_kind(lend(&s.coord, "b", &lease).await, Kind::NotFound);
    assert_eq!(keys(&s.coord, "").await, [""; 0]);
    engine.revoke(&lease).await.unwrap();
    let unknown = LeaseId("12345678".into());
    assert_kind(engine.renew(&unknown).await, Kind::NotFound);
}

pub(super) async fn a_put_without_the_lease_frees_the_key(s: Space) {
    let lease = s.coord.engine().grant(ttl(&s.coord)).await.unwrap();
    for key in ["freed", "kept"] {
        lend(&s.coord, key, &lease).await.unwrap();
    }
    let before = s.coord.get("freed").await.unwrap().unwrap();
    let rev = s.coord.put("freed", "x", When::Is(before.rev)).await.unwrap();
    assert!(rev > before.rev);
    assert_eq!(s.coord.get("freed").await.unwrap().unwrap().lease, None);
    gone(&s.coord, "kept", Instant::now(), latest(&s.coord)).await;
    assert!(is_there(&s.coord, "freed").await);
    s.coord.engine().revoke(&lease).await.unwrap();
    assert!(is_there(&s.coord, "freed").await);
}

pub(super) async fn a_key_moves_to_another_lease(s: Space) {
    let engine = s.coord.engine();
    let (a, b) =
        (engine.grant(ttl(&s.coord) * 10).await.unwrap(), engine.grant(ttl(&s.coord) * 10).await.unwrap());
    put(&s.coord, "x", "no lease").await;
    lend(&s.coord, "x", &a).await.unwrap();
    lend(&s.coord, "x", &b).await.unwrap();
    lend(&s.coord, "y", &a).await.unwrap();
    assert_eq!(s.coord.get("x").await.unwrap().unwrap().lease, Some(b.clone()));
    engine.revoke(&a).await.unwrap();
    assert_eq!(keys(&s.coord, "").await, ["x"]);
    engine.revoke(&b).await.unwrap();
    assert_eq!(keys(&s.coord, "").await, [""; 0]);
}

pub(super) async fn too_short_a_lease_is_refused(s: Space) {
    let min = s.coord.caps().min_ttl;
    let error = assert_kind(s.coord.engine().grant(min - Duration::from_micros(1)).await, Kind::Invalid);
    assert!(error.remedy().is_some(), "{error}");
    let lease = s.coord.engine().grant(min).await.unwrap();
    s.coord.engine().revoke(&lease).await.unwrap();
}

pub(super) async fn revisions_rise_across_the_end_of_a_lease(s: Space) {
    let lease = s.coord.engine().grant(ttl(&s.coord)).await.unwrap();
    let rev = lend(&s.coord, "a", &lease).await.unwrap();
    gone(&s.coord, "a", Instant::now(), latest(&s.coord)).await;
    let again = s.coord.put("a", "x", When::Absent).await.unwrap();
    assert!(again > rev, "{again} after {rev}");
    assert_eq!(s.coord.get("a").await.unwrap().unwrap().created, again);
}

pub(super) async fn leases_end_one_by_one(s: Space) {
    let (short, engine) = (ttl(&s.coord), s.coord.engine());
    let long = short * 2 + s.coord.caps().slack * 2 + Duration::from_secs(2);
    let (a, b) = (engine.grant(short).await.unwrap(), engine.grant(long).await.unwrap());
    for key in ["a", "b"] {
        lend(&s.coord, key, if key == "a" { &a } else { &b }).await.unwrap();
    }
    gone(&s.coord, "a", Instant::now(), latest(&s.coord)).await;
    assert!(is_there(&s.coord, "b").await);
    engine.renew(&b).await.unwrap();
    engine.revoke(&b).await.unwrap();
    assert!(!is_there(&s.coord, "b").await);
}
