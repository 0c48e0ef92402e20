//! What the tests have in common.

use linchpin_core::coord::{Coord, LeaseId, Rev, When};
use linchpin_core::{Error, Kind, Result};
use linchpin_engines::{ZOOKEEPER, ZOOKEEPER_TLS};
use linchpin_harness::{Node, Running, find};

pub(crate) async fn open(url: &str) -> Result<Coord> {
    Coord::open_with(url, &[ZOOKEEPER, ZOOKEEPER_TLS]).await
}

pub(crate) fn start(engine: &str) -> Running {
    find(engine).unwrap().start().unwrap()
}

pub(crate) async fn lend(coord: &Coord, key: &str, lease: &LeaseId) -> Result<Rev> {
    coord.engine().put(key, "leased".into(), When::Always, Some(lease)).await
}

pub(crate) async fn text(coord: &Coord, key: &str) -> Result<String> {
    let entry = coord.get(key).await?.expect("the key is there");
    Ok(String::from_utf8(entry.value.to_vec()).unwrap())
}

#[track_caller]
pub(crate) fn said(error: &Error, kind: Kind, part: &str) {
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(part), "{error}");
    assert!(error.remedy().is_some(), "{error}");
}

/// What the node says of itself: `leader`, `follower`, `standalone`; nothing while it has no majority.
pub(crate) fn mode(node: &Node) -> Option<String> {
    let enough = |answer: &[u8]| linchpin_harness::wire::contains(answer, b"Mode: ");
    let answer = linchpin_harness::wire::ask(node.port(), b"srvr", enough).ok()?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    text.lines().find_map(|line| line.strip_prefix("Mode: ")).map(|mode| mode.trim().to_owned())
}

/// The leader's place among the nodes.
pub(crate) fn leader(servers: &Running) -> usize {
    let leads = |node: &Node| mode(node).as_deref() == Some("leader");
    servers.nodes().iter().position(leads).expect("one of them leads")
}
