//! What the doctor says of clusters as they run.

use linchpin_core::coord::When;
use linchpin_core::{Finding, Status};
use linchpin_engines::etcd::examine;
use linchpin_harness::Port;

use crate::server::{Server, open};

fn found<'r>(report: &'r [Finding], name: &str) -> (Status, &'r str) {
    let one = report.iter().find(|one| one.name == name).unwrap_or_else(|| panic!("{name} in {report:?}"));
    (one.status, &one.text)
}

#[tokio::test]
async fn a_whole_cluster_is_well_and_what_fails_is_told() {
    let server = linchpin_harness::find("etcd-3").unwrap().start().unwrap();
    let url = format!("{}?timeout=2s", server.url());
    let report = examine(url.parse().unwrap()).await;
    let names: Vec<_> = report.iter().map(|finding| finding.name).collect();
    assert_eq!(names, ["server", "quorum", "members", "space", "access", "lease"]);
    assert!(report.iter().all(|one| one.status == Status::Well || one.name == "access"), "{report:?}");
    assert!(found(&report, "members").1.contains("1 may die"), "{report:?}");

    server.nodes()[1].kill().unwrap();
    let report = examine(url.parse().unwrap()).await;
    assert!(report[0].text.contains("2 of 3") && report[1].status == Status::Wrong, "{report:?}");
    assert_eq!(found(&report, "quorum").0, Status::Well);

    server.nodes()[2].kill().unwrap();
    let report = examine(url.parse().unwrap()).await;
    assert_eq!(found(&report, "quorum").0, Status::Wrong, "{report:?}");
}

#[tokio::test]
async fn one_member_and_a_full_database_are_told_of() {
    let server = Server::start(&["--quota-backend-bytes", "300000"]);
    let url = server.url("", "?timeout=2s");
    let coord = open(&url).await.unwrap();
    let report = examine(url.parse().unwrap()).await;
    let (status, text) = found(&report, "members");
    assert!(status == Status::Look && text.contains("one member"), "{text}");
    while coord.put("a", vec![1; 100_000], When::Always).await.is_ok() {}
    let report = examine(url.parse().unwrap()).await;
    let (status, text) = found(&report, "space");
    assert!(status == Status::Wrong && text.contains("full") && text.contains("disarm"), "{report:?}");
}

#[tokio::test]
async fn wrong_credentials_and_nobody_there_are_wrong() {
    let server = Server::start(&[]);
    server.lock();
    let well = examine(server.url("root:s3cret@", "?timeout=2s").parse().unwrap()).await;
    assert_eq!(found(&well, "access").0, Status::Well, "{well:?}");
    let denied = examine(server.url("me:wr0ng@", "?timeout=2s").parse().unwrap()).await;
    assert!(matches!(denied.as_slice(), [one] if one.status == Status::Wrong), "{denied:?}");
    assert!(denied[0].text.contains("password") && !denied[0].text.contains("wr0ng"), "{denied:?}");
    let port = Port::free().unwrap();
    let url = format!("etcd://127.0.0.1:{}?timeout=2s", port.number());
    let nobody = examine(url.parse().unwrap()).await;
    assert!(matches!(nobody.as_slice(), [one] if one.text.contains("reached")), "{nobody:?}");
}
