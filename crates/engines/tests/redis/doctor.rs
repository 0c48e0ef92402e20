//! What the doctor says of servers as they run.

use linchpin_core::{Finding, Status};
use linchpin_engines::redis::examine;
use linchpin_harness::Port;

use crate::server::Server;

async fn report(server: &Server, login: &str) -> Vec<Finding> {
    examine(server.url(login, "?timeout=5s").parse().unwrap()).await
}

fn found<'r>(report: &'r [Finding], name: &str) -> (Status, &'r str) {
    let one = report.iter().find(|one| one.name == name).unwrap_or_else(|| panic!("{name} in {report:?}"));
    (one.status, &one.text)
}

#[tokio::test]
async fn a_server_that_keeps_everything_is_well() {
    let safe = ["--appendonly", "yes", "--appendfsync", "always", "--maxmemory", "100mb"];
    let report = report(&Server::start(&safe), "").await;
    let names: Vec<_> = report.iter().map(|finding| finding.name).collect();
    assert_eq!(names, ["version", "appendonly", "appendfsync", "maxmemory", "clock", "rights"]);
    assert!(report.iter().all(|finding| finding.status == Status::Well), "{report:?}");
}

/// Every node is asked, and what they share is told once; the rights are tried where the keys are.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_one_report() {
    let cluster = linchpin_harness::find("redis-cluster").unwrap().start().unwrap();
    let report = examine(cluster.url().parse().unwrap()).await;
    let mut names: Vec<_> = report.iter().map(|finding| finding.name).collect();
    assert_eq!(found(&report, "rights").0, Status::Well, "{report:?}");
    assert!(report.iter().all(|finding| finding.status != Status::Wrong), "{report:?}");
    names.dedup();
    assert_eq!(names.len(), report.len(), "{report:?}");
}

#[tokio::test]
async fn a_server_without_a_log_is_told_of() {
    let report = report(&Server::start(&["--appendonly", "no"]), "").await;
    let (status, text) = found(&report, "appendonly");
    assert!(status == Status::Look && text.contains("lost") && text.contains("appendonly yes"), "{text}");
    assert!(report.iter().all(|finding| finding.name != "appendfsync"), "{report:?}");
}

#[tokio::test]
async fn how_often_the_log_is_synced_is_told() {
    for (policy, part) in [("everysec", "two seconds"), ("no", "thirty seconds")] {
        let server = Server::start(&["--appendonly", "yes", "--appendfsync", policy]);
        let report = report(&server, "").await;
        let (status, text) = found(&report, "appendfsync");
        assert!(status == Status::Look && text.contains(part) && text.contains("always"), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_throws_messages_away_is_wrong() {
    let server = Server::start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let report = report(&server, "").await;
    let (status, text) = found(&report, "maxmemory");
    assert!(status == Status::Wrong && text.contains("allkeys-lru") && text.contains("noeviction"), "{text}");
}

#[tokio::test]
async fn rights_that_are_missing_are_named() {
    let server = Server::start(&["--appendonly", "yes"]);
    server.cli(&["ACL", "SETUSER", "me", "on", ">s3cret", "~*", "&*", "+@all", "-xadd"]);
    let without = report(&server, "me:s3cret@").await;
    let (status, text) = found(&without, "rights");
    assert!(status == Status::Wrong && text.contains("may not"), "{text}");
    server.cli(&["ACL", "SETUSER", "me", "+xadd", "-config"]);
    let blind = report(&server, "me:s3cret@").await;
    assert_eq!(found(&blind, "rights").0, Status::Well, "{blind:?}");
    let (status, text) = found(&blind, "appendfsync");
    assert!(status == Status::Look && text.contains("always"), "{text}");
    assert!(!format!("{without:?}{blind:?}").contains("s3cret"));
}

#[tokio::test]
async fn a_wrong_password_and_nobody_there_are_wrong() {
    let server = Server::start(&["--requirepass", "s3cret"]);
    let denied = report(&server, ":wr0ng@").await;
    assert!(matches!(denied.as_slice(), [one] if one.status == Status::Wrong), "{denied:?}");
    assert!(denied[0].text.contains("password") && !denied[0].text.contains("wr0ng"), "{denied:?}");
    let port = Port::free().unwrap();
    let url = format!("redis://127.0.0.1:{}?timeout=2s", port.number());
    let nobody = examine(url.parse().unwrap()).await;
    assert!(matches!(nobody.as_slice(), [one] if one.text.contains("reached")), "{nobody:?}");
}
