//! Agents that say no, or nothing; and what the doctor makes of it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use linchpin_core::coord::When;
use linchpin_core::{Kind, Retry, Status};
use linchpin_engines::consul::examine;
use linchpin_harness::Port;
use serde_json::json;

use crate::agent::{Agent, SESSION, absent, get, open, pair, present, refused, said, step};

#[tokio::test]
async fn the_token_goes_with_every_request_and_into_no_error() {
    let agent = Agent::new([
        absent("linchpin"),
        get("a").says(403, "Permission denied: token with AccessorID 'x' lacks permission"),
    ])
    .await;
    let coord = open(&agent.url("?token=s3cret")).await.unwrap();
    assert!(!coord.info().url.contains("s3cret"));
    said(&coord.get("a").await.unwrap_err(), Kind::Denied, "may not");
    assert_eq!(agent.tokens(), [Some("s3cret".to_owned()), Some("s3cret".to_owned())]);
    agent.finish();
    let agent = Agent::new([get("linchpin").says(403, "ACL not found")]).await;
    said(
        &open(&agent.url("").replace("://", "://:s3cret@")).await.unwrap_err(),
        Kind::Denied,
        "ACL not found",
    );
    agent.finish();
}

#[tokio::test]
async fn what_consul_hides_and_refuses_inside_of_an_answer_is_denied() {
    let cas = json!([{"KV": {"Verb": "cas", "Key": "shop/a", "Value": "", "Flags": 0, "Index": 0}}]);
    let hidden = json!({"Results": [], "Errors": null});
    let steps = [
        get("shop/a").gives(hidden),
        refused(cas.clone(), "Permission denied"),
        refused(cas, "something new"),
    ];
    let (agent, coord) = Agent::opened(steps).await;
    said(&coord.get("a").await.unwrap_err(), Kind::Denied, "may not");
    said(&coord.put("a", "", When::Absent).await.unwrap_err(), Kind::Denied, "may not");
    said(&coord.put("a", "", When::Absent).await.unwrap_err(), Kind::Unexpected, "something new");
    agent.finish();
}

#[tokio::test]
async fn a_key_that_others_change_all_the_time_is_given_up() {
    let cas = json!([{"KV": {"Verb": "cas", "Key": "shop/a", "Value": "", "Flags": 8, "Index": 5}}]);
    let delayed = || refused(cas.clone(), "failed to set key \"shop/a\", index is stale").slow();
    let steps = (0..5).flat_map(|_| [present(pair("shop/a", 5)), delayed()]);
    let (agent, coord) = Agent::opened(steps).await;
    let error = coord.put("a", "", When::Always).await.unwrap_err();
    said(&error, Kind::Limited, "all the time");
    assert!(matches!(error.retry(), Retry::Safe { .. }));
    agent.finish();
}

#[tokio::test]
async fn what_was_certainly_not_done_is_asked_of_another_agent() {
    let create = || {
        step("PUT /v1/txn")
            .body(json!([{"KV": {"Verb": "cas", "Key": "a", "Value": "MQ==", "Flags": 0, "Index": 0}}]))
    };
    let first = Agent::new([absent("linchpin"), create().says(500, "No cluster leader")]).await;
    let second =
        Agent::new([create().gives(json!({"Results": [{"KV": pair("a", 9)}], "Errors": null}))]).await;
    let nobody = Port::free().unwrap();
    let ports = [first.port, nobody.number(), second.port].map(|port| format!("127.0.0.1:{port}"));
    let url = format!("consul://{}", ports.join(","));
    let coord = open(&url).await.unwrap();
    assert_eq!(coord.put("a", "1", When::Absent).await.unwrap().0, 9);
    first.finish();
    second.finish();
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_not_made_again() {
    let cas = || {
        step("PUT /v1/txn")
            .body(json!([{"KV": {"Verb": "cas", "Key": "a", "Value": "", "Flags": 0, "Index": 0}}]))
    };
    let steps = [
        absent("linchpin"),
        cas().hangs_up(),
        cas().says(500, "rpc error making call: leadership lost while committing log"),
        cas().hangs(),
        cas().says(413, "Request body too large, max size: 524288 bytes"),
        // A read is.
        get("a").hangs_up(),
        get("a").says(503, "try again"),
        present(pair("a", 3)),
    ];
    let agent = Agent::new(steps).await;
    let coord = open(&agent.url("?timeout=1s")).await.unwrap();
    for (kind, retry) in [
        (Kind::Unavailable, Retry::Unknown),
        (Kind::Unavailable, Retry::Unknown),
        (Kind::Timeout, Retry::Unknown),
        (Kind::Invalid, Retry::Never),
    ] {
        let began = Instant::now();
        let error = coord.put("a", "", When::Absent).await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(3));
        assert_eq!((error.kind(), error.retry()), (kind, retry), "{error}");
    }
    assert_eq!(coord.get("a").await.unwrap().unwrap().rev.0, 3);
    agent.finish();
}

#[tokio::test]
async fn nobody_at_the_address_is_unavailable_and_another_server_is_named() {
    let nobody = Port::free().unwrap();
    let error = open(&format!("consul://127.0.0.1:{}?timeout=1s", nobody.number())).await.unwrap_err();
    said(&error, Kind::Unavailable, "can't be reached");
    assert!(matches!(error.retry(), Retry::Safe { .. }));
    let other = Agent::new([get("linchpin").says(200, "<html>")]).await;
    said(&open(&other.url("")).await.unwrap_err(), Kind::Unexpected, "can't be read");
    let other = Agent::new([get("linchpin").says(404, "no such page")]).await;
    said(&open(&other.url("")).await.unwrap_err(), Kind::Unexpected, "no such page");
}

#[tokio::test]
async fn the_doctor_tells_what_it_sees() {
    let config = json!({"Config": {"Datacenter": "dc1", "NodeName": "c1", "Server": true, "Version": "1.17.0"}, "Member": {}});
    let steps = [
        step("GET /v1/status/leader").gives(json!("10.1.10.12:8300")),
        step("GET /v1/agent/self").gives(config),
        step("GET /v1/status/peers").gives(json!(["10.1.10.12:8300", "10.1.10.11:8300", "10.1.10.10:8300"])),
        step("GET /v1/kv/linchpin-index?consistent").says(404, "").at(9),
        absent("linchpin"),
        step("PUT /v1/session/create").body(json!({"Name": "linchpin", "TTL": "10000ms", "Behavior": "delete", "LockDelay": "0s", "Checks": [], "NodeChecks": []}))
            .gives(json!({"ID": SESSION})),
        step("PUT /v1/session/destroy/adf4238a-882b-9ddc-4a9d-5b6758e4159e").gives(json!(true)),
    ];
    let agent = Agent::new(steps).await;
    let report = examine(agent.url("?token=s3cret").parse().unwrap()).await;
    assert!(report.iter().all(|finding| finding.status == Status::Well), "{report:?}");
    let names: Vec<_> = report.iter().map(|finding| finding.name).collect();
    assert_eq!(names, ["server", "quorum", "servers", "access", "rights"]);
    assert!(report[0].text.contains("1.17.0") && report[2].text.contains("1 may die"), "{report:?}");
    agent.finish();

    let steps = [
        step("GET /v1/status/leader").gives(json!("")),
        step("GET /v1/agent/self").says(403, "Permission denied"),
        step("GET /v1/status/peers").gives(json!(["10.1.10.12:8300"])),
        step("GET /v1/kv/linchpin-index?consistent").says(403, "Permission denied"),
    ];
    let agent = Agent::new(steps).await;
    let report = examine(agent.url("?timeout=1s").parse().unwrap()).await;
    let statuses: Vec<_> = report.iter().map(|finding| finding.status).collect();
    assert_eq!(
        statuses,
        [Status::Well, Status::Wrong, Status::Look, Status::Look, Status::Wrong],
        "{report:?}"
    );
    agent.finish();
}

/// Takes TLS connections and answers nothing.
struct Encrypted(Child);

impl Encrypted {
    fn start(folder: &Path, port: u16) -> Self {
        let mut server = Command::new("openssl");
        server.current_dir(folder).args(["s_server", "-quiet", "-accept", &format!("127.0.0.1:{port}")]);
        server.args(["-cert", "server.pem", "-key", "server.key"]);
        let child = server.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(10), "openssl doesn't listen");
            std::thread::yield_now();
        }
        Self(child)
    }
}

impl Drop for Encrypted {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn a_certificate_is_checked() {
    let folder = linchpin_harness::certificates().unwrap();
    let held = Port::free().unwrap();
    let port = held.number();
    let _server = Encrypted::start(folder.path(), port);
    let url = format!("consul+tls://127.0.0.1:{port}?timeout=1s");
    let error = open(&url).await.unwrap_err();
    said(&error, Kind::Config, "certificate");
    assert!(error.remedy().unwrap().contains("tls_ca"), "{error}");
    // Trusted, it is silent.
    let trusted = format!("{url}&tls_ca={}", folder.path().join("ca.pem").display());
    said(&open(&trusted).await.unwrap_err(), Kind::Timeout, "in time");
    for (option, file, part) in
        [("tls_ca", "nowhere.pem", "nowhere.pem"), ("tls_ca", "server.key", "has no certificate")]
    {
        let url = format!("{url}&{option}={}", folder.path().join(file).display());
        said(&open(&url).await.unwrap_err(), Kind::Config, part);
    }
}
