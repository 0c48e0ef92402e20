//! Consul: its keys, sessions and blocking queries, over HTTP.
//!
//! # URL
//! `consul://host:8500,host:8500`, or `consul+tls:` for TLS. The options are listed at [`Config`].
//!
//! # How it works
//! A revision is `ModifyIndex` of the last change, `CreateIndex` of the creation, one count for the whole datacenter. A
//! write reads the key and is a transaction on what was read, made again when somebody came between. A lease is a session
//! that deletes its keys when it ends, without checks and without a lock-delay: it ends by its time alone, and a key of a
//! lease is one that the session has locked. Reads are consistent. A watch is a blocking query on everything under the
//! prefix, whose answer is compared with the last: of several changes in a short time the last is told.
//! Whoever uses Consul otherwise sees the same keys, behind `prefix=`; keys that Linchpin couldn't name are left alone. The
//! flags of a key count its writes, because Consul takes one that changes nothing for none.
//!
//! Agents are asked in turn. What was certainly not done, and what may be done twice, is asked again elsewhere until the
//! timeout; a write whose answer was lost is an error with [`Retry::Unknown`](linchpin_core::Retry::Unknown).
//!
//! # Limits of the engine
//! * Leases last 10 seconds to 24 hours, and a time is a minimum: Consul lets a session live for up to twice its time, and a
//!   new leader starts each anew. [`Caps::slack`](linchpin_core::coord::Caps::slack) is that of the shortest lease; a longer
//!   one may be late by its own time.
//! * A value is at most 380 KiB, for a transaction has 512 KiB in all, in base64.
//! * A list reads everything under the prefix, also for one page of it; so does every answer to a watch.
//! * A key has 512 bytes with the prefix of the URL.
//! * A watch that waits holds a connection, of which an agent takes 200 per client (`limits.http_max_conns_per_client`).
//! * Consul leaves out of lists, without a word, what the token may not read.

mod coord;
mod doctor;
mod error;
mod http;
mod shapes;
mod tls;
mod url;
mod watch;

use std::sync::Arc;

use linchpin_core::Result;
use linchpin_core::coord::CoordEngine;
use linchpin_core::url::EngineUrl;

pub use self::coord::ConsulCoord;
pub use self::doctor::examine;
pub use self::url::Config;

/// The engine's name in errors and in the matrix.
pub const NAME: &str = "consul";

/// Looks whether an agent that `url` names answers.
///
/// # Errors
/// `Config` for wrong options or certificates; `Denied` for a wrong token; `Unavailable` or `Timeout` for agents that can't
/// be reached.
pub async fn open(url: &EngineUrl) -> Result<Arc<dyn CoordEngine>> {
    let coord = ConsulCoord::open(Config::from_url(url)?).await?;
    Ok(Arc::new(coord))
}
