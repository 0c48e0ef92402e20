//! Leases: sessions that end by their time alone.

use std::time::Duration;

use linchpin_core::Kind;
use linchpin_core::coord::{LeaseId, When};
use serde_json::{Value, json};

use crate::agent::{Agent, SESSION, Step, absent, refused, said, step};

fn create(ttl: &str) -> Step {
    let session = json!({"Name": "linchpin", "TTL": ttl, "Behavior": "delete", "LockDelay": "0s", "Checks": [], "NodeChecks": []});
    step("PUT /v1/session/create").body(session).gives(json!({"ID": SESSION}))
}

fn session() -> Value {
    json!([{"ID": SESSION, "Name": "linchpin", "Node": "c1", "LockDelay": 0, "Behavior": "delete", "TTL": "10000ms",
        "NodeChecks": null, "ServiceChecks": null, "CreateIndex": 1086449, "ModifyIndex": 1086449}])
}

const RENEW: &str = "PUT /v1/session/renew/adf4238a-882b-9ddc-4a9d-5b6758e4159e";
const DESTROY: &str = "PUT /v1/session/destroy/adf4238a-882b-9ddc-4a9d-5b6758e4159e";

#[tokio::test]
async fn a_lease_is_a_session_without_checks_and_delay() {
    let gone = format!("Session id '{SESSION}' not found");
    let steps = [
        create("10000ms"),
        create("12346ms"),
        step(RENEW).gives(session()),
        step(RENEW).says(404, &gone),
        step(DESTROY).gives(json!(true)),
    ];
    let (agent, coord) = Agent::opened(steps).await;
    let engine = coord.engine();
    let lease = engine.grant(coord.caps().min_ttl).await.unwrap();
    assert_eq!(lease, LeaseId(SESSION.into()));
    engine.grant(Duration::from_micros(12_345_001)).await.unwrap();
    engine.renew(&lease).await.unwrap();
    said(&engine.renew(&lease).await.unwrap_err(), Kind::NotFound, "lease");
    engine.revoke(&lease).await.unwrap();
    agent.finish();
}

#[tokio::test]
async fn times_that_consul_does_not_have_are_refused() {
    let (agent, coord) = Agent::opened([create("86400000ms")]).await;
    let short = coord.engine().grant(Duration::from_millis(9_999)).await.unwrap_err();
    assert!(short.kind() == Kind::Invalid && short.remedy().unwrap().contains("10s"), "{short}");
    let long = coord.engine().grant(Duration::from_secs(86_401)).await.unwrap_err();
    said(&long, Kind::Invalid, "more than a day");
    coord.engine().grant(Duration::from_secs(86_400)).await.unwrap();
    agent.finish();
}

#[tokio::test]
async fn a_lease_that_has_ended_takes_no_key() {
    let lock = json!([{"KV": {"Verb": "check-not-exists", "Key": "shop/a"}},
        {"KV": {"Verb": "lock", "Key": "shop/a", "Value": "", "Flags": 0, "Session": SESSION}}]);
    let what = format!("invalid session \"{SESSION}\"");
    let (agent, coord) = Agent::opened([absent("shop/a"), refused(lock, &what)]).await;
    let engine = coord.engine();
    let ended = engine.put("a", "".into(), When::Always, Some(&LeaseId(SESSION.into()))).await.unwrap_err();
    said(&ended, Kind::NotFound, "lease");
    // What no session is called like isn't asked for.
    let never = LeaseId("../kv/shop".into());
    said(&engine.put("a", "".into(), When::Always, Some(&never)).await.unwrap_err(), Kind::NotFound, "lease");
    said(&engine.renew(&never).await.unwrap_err(), Kind::NotFound, "lease");
    engine.revoke(&never).await.unwrap();
    agent.finish();
}
