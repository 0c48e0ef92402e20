//! Coordination on ZooKeeper 3.6 or newer.
//!
//! # URL
//! `zookeeper://user:password@host:2181,host:2181/apps/shop`, or `zookeeper+tls:` for TLS. The options are listed at
//! [`Config`].
//!
//! # How it works
//! The key `shop/limits` is the node `keys/shop/=limits` under the URL's path: directories are containers, which the
//! servers remove some time after their last child, and a key's own name begins with `=`, so that `shop` and `shop/limits`
//! are two keys. Other clients may read them. Who writes them past Linchpin has to write the key's guard, too: see below.
//!
//! A revision is the number of a transaction (*zxid*): a key's last change is the node's `mzxid`, its coming to be the
//! `czxid`. They rise over everything the servers do, across restarts and changes of the leader.
//!
//! A condition on a revision becomes one on the node's version. A version begins at 0 again when a node is made again, so
//! it alone would let who was frozen past its lease write over the next holder's key. Whoever makes a key therefore writes
//! its *guard* in the same transaction — one of 256 nodes, by the key's hash — and a condition is on both versions.
//!
//! A lease is a session, its keys are ephemeral nodes. Renewing it means to take the session up again on a new connection,
//! since only that reaches the leader before it is answered: a ping to another server may be lost with that server, and
//! the lease would end too early. Between renewals nothing is sent: a process that is frozen or hangs loses its lease on
//! time. A write under a lease renews it, too. A lost connection says nothing about the lease; that it ended is said by
//! the servers alone.
//!
//! A read is preceded by a transaction that changes nothing, on the same connection, and so sees what was answered before.
//! ZooKeeper's own `sync` is cheaper, and a leader that was frozen while another was elected answers it without asking
//! anybody.
//!
//! A watch is a recursive watch of ZooKeeper on the directory of its prefix; it says which node changed, and what is there
//! is read. After a lost connection everything is read, and compared with what was told.
//!
//! # Limits of the engine
//! * The servers bound the length of a session: the shortest is [`Caps::min_ttl`](linchpin_core::coord::Caps::min_ttl),
//!   two ticks by default; a lease over the longest, 20 ticks by default, is refused.
//! * When the leader changes, every lease begins anew.
//! * Only the engine that granted a lease can renew, revoke, or write under it.
//! * Each lease in use takes a connection, 16 at a time; servers take 60 from one address by default (`maxClientCnxns`).
//! * A listing walks the directories under the prefix: keep what is listed often in directories of its own.
//!
//! # Why no driver
//! The clients there are keep their sessions alive by themselves, which makes leases that don't end with what they stand
//! for, and don't show the transaction an answer stems from, which a deletion's revision needs. The protocol is small.

mod conn;
mod coord;
mod doctor;
mod error;
mod hub;
mod lease;
mod link;
mod op;
mod path;
mod tls;
mod tree;
mod url;
mod watch;
mod wire;
mod write;

use std::sync::Arc;

use linchpin_core::coord::CoordEngine;
use linchpin_core::url::EngineUrl;
use linchpin_core::{Error, Result};

pub use self::coord::ZooKeeperCoord;
pub use self::doctor::examine;
pub use self::url::Config;

/// The engine's name in errors and in the matrix.
pub const NAME: &str = "zookeeper";

/// Connects to the servers that `url` names.
///
/// # Errors
/// `Config` for wrong options; `Denied` for wrong credentials; `Unavailable` for servers that can't be reached.
pub async fn open(url: &EngineUrl) -> Result<Arc<dyn CoordEngine>> {
    let coord = ZooKeeperCoord::open(Config::from_url(url)?).await?;
    Ok(Arc::new(coord))
}

/// Names the operation and the engine in an error.
fn named(op: &'static str) -> impl Fn(Error) -> Error {
    move |e| e.op(op).engine(NAME)
}
