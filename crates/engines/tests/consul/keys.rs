//! Keys: what is asked of Consul, and what its answers mean.

use linchpin_core::Kind;
use linchpin_core::coord::{LeaseId, Rev, When};
use serde_json::json;

use crate::agent::{Agent, OTHER, SESSION, absent, done, held, pair, present, refused, said, step, write};

#[tokio::test]
async fn a_key_is_read_with_everything_about_it() {
    let plain = json!({"CreateIndex": 5, "ModifyIndex": 6, "LockIndex": 0, "Key": "shop/b", "Flags": 0, "Value": null});
    let steps = [present(held("shop/a", 200, SESSION)), absent("shop/x"), present(plain)];
    let (agent, coord) = Agent::opened(steps).await;
    let entry = coord.get("a").await.unwrap().unwrap();
    assert_eq!((entry.key.as_str(), entry.value.as_ref()), ("a", &b"test"[..]));
    assert_eq!((entry.created, entry.rev), (Rev(100), Rev(200)));
    assert_eq!(entry.lease, Some(LeaseId(SESSION.into())));
    assert!(coord.get("x").await.unwrap().is_none());
    let entry = coord.get("b").await.unwrap().unwrap();
    assert!(entry.value.is_empty() && entry.lease.is_none());
    agent.finish();
}

#[tokio::test]
async fn a_list_is_one_state_in_the_order_of_keys() {
    let tree = || step("PUT /v1/txn?consistent").body(json!([{"KV": {"Verb": "get-tree", "Key": "shop/é"}}]));
    // Keys that others stored, and that Linchpin couldn't name, are left alone.
    let pairs = ["shop/é/2", "shop/é//", "shop/é/1", "shop/é/3", "shop/é/"].map(|key| pair(key, 9));
    let steps = [
        tree().gives(done(pairs.clone())),
        tree().gives(done(pairs)),
        tree().gives(json!({"Results": [], "Errors": null})),
    ];
    let (agent, coord) = Agent::opened(steps).await;
    let keys =
        |entries: Vec<linchpin_core::coord::Entry>| entries.into_iter().map(|e| e.key).collect::<Vec<_>>();
    assert_eq!(keys(coord.list("é").await.unwrap()), ["é/1", "é/2", "é/3"]);
    assert_eq!(keys(coord.engine().list("é", Some("é/1"), 1).await.unwrap()), ["é/2"]);
    assert!(coord.list("é").await.unwrap().is_empty());
    agent.finish();
}

#[tokio::test]
async fn a_new_key_is_written_if_it_is_not_there() {
    let create =
        |key: &str| json!([{"KV": {"Verb": "cas", "Key": key, "Value": "MQ==", "Flags": 0, "Index": 0}}]);
    let stale = "failed to set key \"shop/a\", index is stale";
    let steps = [
        write(create("shop/a"), "shop/a", 300),
        refused(create("shop/a"), stale),
        present(pair("shop/a", 300)),
        // Gone again before it was looked at.
        refused(create("shop/a"), stale),
        absent("shop/a"),
        write(create("shop/a"), "shop/a", 310),
    ];
    let (agent, coord) = Agent::opened(steps).await;
    assert_eq!(coord.put("a", "1", When::Absent).await.unwrap(), Rev(300));
    said(&coord.put("a", "1", When::Absent).await.unwrap_err(), Kind::Conflict, "at revision 300");
    assert_eq!(coord.put("a", "1", When::Absent).await.unwrap(), Rev(310));
    agent.finish();
}

#[tokio::test]
async fn a_key_is_written_over_what_was_read() {
    let cas = |index: u64| json!([{"KV": {"Verb": "cas", "Key": "shop/a", "Value": "MQ==", "Flags": 8, "Index": index}}]);
    let new = json!([{"KV": {"Verb": "cas", "Key": "shop/a", "Value": "MQ==", "Flags": 0, "Index": 0}}]);
    let stale = "failed to set key \"shop/a\", index is stale";
    let steps = [
        present(pair("shop/a", 200)),
        refused(cas(200), stale),
        present(pair("shop/a", 201)),
        write(cas(201), "shop/a", 202),
        absent("shop/a"),
        write(new, "shop/a", 210),
        present(pair("shop/a", 210)),
        write(cas(210), "shop/a", 211),
        present(pair("shop/a", 211)),
        absent("shop/a"),
        // A key that went and came back meanwhile isn't at that revision any more.
        present(pair("shop/a", 211)),
        refused(cas(211), stale),
        present(pair("shop/a", 220)),
    ];
    let (agent, coord) = Agent::opened(steps).await;
    assert_eq!(coord.put("a", "1", When::Always).await.unwrap(), Rev(202));
    assert_eq!(coord.put("a", "1", When::Always).await.unwrap(), Rev(210));
    assert_eq!(coord.put("a", "1", When::Is(Rev(210))).await.unwrap(), Rev(211));
    said(&coord.put("a", "1", When::Is(Rev(210))).await.unwrap_err(), Kind::Conflict, "211, not 210");
    said(&coord.put("a", "1", When::Is(Rev(0))).await.unwrap_err(), Kind::Conflict, "isn't there");
    said(&coord.put("a", "1", When::Is(Rev(211))).await.unwrap_err(), Kind::Conflict, "220");
    agent.finish();
}

#[tokio::test]
async fn a_key_goes_from_lease_to_lease_in_one_transaction() {
    let kv = |verb: &str, value: &str, flags: u64, session: &str| json!({"KV": {"Verb": verb, "Key": "shop/a", "Value": value, "Flags": flags, "Session": session}});
    let at = |index: u64| json!({"KV": {"Verb": "check-index", "Key": "shop/a", "Index": index}});
    let steps = [
        write(
            json!([{"KV": {"Verb": "check-not-exists", "Key": "shop/a"}}, kv("lock", "MQ==", 0, SESSION)]),
            "shop/a",
            300,
        ),
        // The same again.
        present(held("shop/a", 300, SESSION)),
        write(json!([at(300), kv("lock", "MQ==", 8, SESSION)]), "shop/a", 301),
        // To another.
        present(held("shop/a", 301, SESSION)),
        write(json!([at(301), kv("unlock", "", 8, SESSION), kv("lock", "MQ==", 8, OTHER)]), "shop/a", 302),
        // To none.
        present(held("shop/a", 302, OTHER)),
        write(json!([at(302), kv("unlock", "MQ==", 8, OTHER)]), "shop/a", 303),
        // From none.
        present(pair("shop/a", 303)),
        write(json!([at(303), kv("lock", "MQ==", 8, OTHER)]), "shop/a", 304),
    ];
    let (agent, coord) = Agent::opened(steps).await;
    let (mine, other) = (LeaseId(SESSION.into()), LeaseId(OTHER.into()));
    let put =
        async |when, lease: Option<&LeaseId>| coord.engine().put("a", "1".into(), when, lease).await.unwrap();
    assert_eq!(put(When::Absent, Some(&mine)).await, Rev(300));
    assert_eq!(put(When::Always, Some(&mine)).await, Rev(301));
    assert_eq!(put(When::Is(Rev(301)), Some(&other)).await, Rev(302));
    assert_eq!(put(When::Always, None).await, Rev(303));
    assert_eq!(put(When::Always, Some(&other)).await, Rev(304));
    agent.finish();
}

#[tokio::test]
async fn a_key_is_deleted_at_what_was_read() {
    let delete = |index: u64| {
        json!([{"KV": {"Verb": "check-index", "Key": "shop/a", "Index": index}},
            {"KV": {"Verb": "delete-cas", "Key": "shop/a", "Index": index}}])
    };
    let gone = || step("PUT /v1/txn").body(delete(200)).gives(done([pair("shop/a", 200)]));
    let raced = "failed index check for key \"shop/a\", current modify index 201 != 200";
    let steps = [
        present(pair("shop/a", 200)),
        gone(),
        absent("shop/a"),
        present(pair("shop/a", 200)),
        refused(delete(200), raced),
        absent("shop/a"),
        present(pair("shop/a", 200)),
        refused(delete(200), raced),
        present(pair("shop/a", 201)),
    ];
    let (agent, coord) = Agent::opened(steps).await;
    assert!(coord.delete("a", When::Always).await.unwrap());
    assert!(!coord.delete("a", When::Always).await.unwrap());
    assert!(!coord.delete("a", When::Is(Rev(200))).await.unwrap(), "another deleted it");
    said(&coord.delete("a", When::Is(Rev(200))).await.unwrap_err(), Kind::Conflict, "201, not 200");
    said(&coord.delete("a", When::Absent).await.unwrap_err(), Kind::Invalid, "absent");
    agent.finish();
}

#[tokio::test]
async fn what_consul_would_not_take_is_not_asked() {
    let (agent, coord) = Agent::opened([]).await;
    let max = coord.caps().max_value;
    assert_eq!(coord.put("a", vec![0; max + 1], When::Always).await.unwrap_err().kind(), Kind::Invalid);
    said(&coord.get(&"k".repeat(508)).await.unwrap_err(), Kind::Invalid, "513 bytes");
    assert_eq!(coord.get("/a").await.unwrap_err().kind(), Kind::Invalid);
    agent.finish();
}

#[tokio::test]
async fn the_largest_value_fits_into_a_transaction() {
    // What Consul takes of a transaction by default.
    let longest = "k\"".repeat(253);
    let name = format!("shop/{longest}");
    let value = vec![255_u8; 380 << 10];
    use base64::Engine;
    let encoded = base64::engine::general_purpose::STANDARD.encode(&value);
    let ops = json!([{"KV": {"Verb": "check-index", "Key": name, "Index": 200}},
        {"KV": {"Verb": "unlock", "Key": name, "Value": "", "Flags": 8, "Session": SESSION}},
        {"KV": {"Verb": "lock", "Key": name, "Value": encoded, "Flags": 8, "Session": OTHER}}]);
    assert!(ops.to_string().len() <= 512 << 10, "{}", ops.to_string().len());
    let (agent, coord) = Agent::opened([present(held(&name, 200, SESSION)), write(ops, &name, 201)]).await;
    assert_eq!(coord.caps().max_value, value.len());
    let lease = LeaseId(OTHER.into());
    coord.engine().put(&longest, value.into(), When::Always, Some(&lease)).await.unwrap();
    agent.finish();
}
