use linchpin::bus::{Message, Settle, SubscribeOptions};
use linchpin::{Open, TopicOptions};

use super::*;

async fn report(url: &str) -> Report {
    let mut report = Report { url: url.into(), aloud: false, checks: Vec::new(), facts: Map::new() };
    examine(url, &mut report).await;
    report
}

fn status(report: &Report, name: &str) -> Vec<(Status, String)> {
    let of = report.checks.iter().filter(|check| check.name == name);
    of.map(|check| (check.status, check.text.clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_in_memory_is_well_and_not_durable() {
    let report = report("memory://").await;
    assert!(report.ok(), "{report:?}");
    let abilities = status(&report, "abilities");
    assert_eq!(abilities, [(Status::Look, "this engine does not promise: durable, shared".to_owned())]);
    assert_eq!(report.json()["caps"]["durable"], false);
    assert!(report.json()["publish"]["p99_us"].as_u64() >= report.json()["publish"]["p50_us"].as_u64());
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_looked_into_and_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("a.db").display());
    let bus = <Bus as Open>::open(&url).await.unwrap();
    bus.ensure("orders", &TopicOptions::default()).await.unwrap();
    bus.publish("orders", Message::new("1")).await.unwrap();
    bus.publish("orders", Message::new("2")).await.unwrap();
    let group = bus.subscribe("orders", &SubscribeOptions::group("billing")).await.unwrap();
    let first = group.next(1, Duration::from_secs(5)).await.unwrap().remove(0);
    let dead = Settle::Dead { reason: "no".into() };
    group.settle(vec![(first, dead)]).await.remove(0).unwrap();
    group.close(Duration::from_secs(5)).await.unwrap();
    let report = report(&url).await;
    assert!(report.ok(), "{report:?}");
    for name in ["open", "sync", "file", "integrity", "publish", "consume", "topics"] {
        assert_eq!(status(&report, name).first().map(|s| s.0), Some(Status::Well), "{name}: {report:?}");
    }
    let groups = status(&report, "groups");
    assert!(
        groups.iter().any(|(_, text)| text == "billing of orders: 1 dead letter (topic redrive)"),
        "{groups:?}"
    );
    assert!(
        groups.iter().any(|(_, text)| text == "billing of orders: 1 message to do, and no member"),
        "{groups:?}"
    );
    let topics: Vec<_> = bus.stats(None).await.unwrap().into_iter().map(|t| t.topic).collect();
    assert_eq!(topics, ["orders", "orders.billing.dead"]);
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_database_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("notes.txt");
    std::fs::write(&file, "no database, but long enough to be looked at ".repeat(100)).unwrap();
    let url = |file: &std::path::Path| format!("sqlite:{}", file.display());
    for url in
        [url(&file), url(&folder.path().join("missing.db")), url(folder.path()), "sqlite:a.db?x=1".into()]
    {
        let report = report(&url).await;
        assert!(!report.ok(), "{report:?}");
        assert_eq!(status(&report, "open").first().map(|s| s.0), Some(Status::Wrong), "{report:?}");
    }
    assert!(!folder.path().join("missing.db").exists());
}
