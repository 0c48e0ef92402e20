//! What an examination finds.

use linchpin_core::Status;
use linchpin_engines::zookeeper::examine;

use crate::tools::{open, start};

#[tokio::test]
async fn an_examination_tells_what_there_is() {
    let servers = start("zookeeper-3");
    let url = servers.url().replace("://", "://me:s3cret@") + "/apps?timeout=5s";
    let report = examine(url.parse().unwrap()).await;
    let text = |name: &str| {
        let found = report.iter().filter(|finding| finding.name == name);
        found.map(|finding| finding.text.as_str()).collect::<Vec<_>>().join("; ")
    };
    // A busy machine's disk may be slow, and is told of.
    let well = |finding: &linchpin_core::Finding| finding.status == Status::Well || finding.name == "latency";
    assert!(report.iter().all(well) && text("latency").contains("ms"), "{report:?}");
    assert!(text("server").contains("leader") && text("server").contains("ZooKeeper 3."), "{report:?}");
    assert!(text("session").contains("from 1 s to 300 s"), "{report:?}");
    assert!(text("access").contains("isn't there yet"), "{report:?}");

    drop(open(&url).await.unwrap());
    servers.nodes()[0].kill().unwrap();
    let report = examine(url.parse().unwrap()).await;
    let status = |name: &str| {
        report.iter().filter(|finding| finding.name == name).map(|f| f.status).max_by_key(|s| *s as u8)
    };
    assert_eq!(status("server"), Some(Status::Look), "{report:?}");
    assert_eq!(status("access"), Some(Status::Well), "{report:?}");

    let other = examine(url.replace("me:s3cret@", "").parse().unwrap()).await;
    assert!(
        other.iter().any(|finding| finding.status == Status::Wrong && finding.name == "access"),
        "{other:?}"
    );
    let unknown = examine("zookeeper://127.0.0.1:1?timeout=1s".parse().unwrap()).await;
    assert!(unknown.iter().any(|finding| finding.status == Status::Wrong), "{unknown:?}");
}
