//! What only shows after thousands of requests.

use crate::{bus, server, topic};

/// A connection has 2,047 numbers for channels, and each look takes several. The server closed the very first channel, when it was
/// asked for a record that wasn't there.
#[tokio::test(flavor = "multi_thread")]
async fn requests_outlive_the_numbers_of_channels() {
    let bus = bus("long-").await;
    topic(&bus, "t", 1).await;
    for n in 0..800 {
        let stats = bus.stats(Some("t")).await.unwrap_or_else(|e| panic!("look {n}: {e}"));
        assert_eq!(stats.len(), 1);
    }
}

/// Looking at what topics there are, and making them, refuses nothing: what a server refuses is in its log as an error.
#[tokio::test(flavor = "multi_thread")]
async fn looking_leaves_no_errors_in_the_servers_log() {
    let bus = bus("quiet-").await;
    topic(&bus, "t", 4).await;
    let before = refusals();
    topic(&bus, "u", 4).await;
    for _ in 0..20 {
        bus.stats(None).await.unwrap();
    }
    bus.remove("t", None).await.unwrap();
    let new: Vec<_> = refusals().split_off(before.len());
    assert!(new.is_empty(), "{new:#?}");
}

/// What the server refused to those who use the prefix of this test.
fn refusals() -> Vec<String> {
    let log = std::fs::read_to_string(server().folder().unwrap().join("rabbitmq.log")).unwrap();
    let of_ours = |line: &&str| line.contains("channel exception") && line.contains("'quiet-");
    log.lines().filter(of_ours).map(str::to_owned).collect()
}
