//! etcd: keys, leases and watches are its own.
//!
//! # URL
//! `etcd://user:password@host:2379,host:2379`, or `etcd+tls:` for TLS. The options are listed at [`Config`].
//!
//! # How it works
//! A revision is etcd's: `mod_revision` of the last change, `create_revision` of the creation, one count for the whole
//! cluster. A condition is a transaction, a lease is a lease, and every read is linearizable. A watch reads everything at
//! one revision and watches from the next; when its connection goes it goes on behind the last revision it saw, on
//! another endpoint if need be, and when that was compacted away it reads everything again and tells the difference.
//! Whoever uses etcd otherwise sees the same keys, behind `prefix=`; keys that Linchpin couldn't name are left alone.
//!
//! Endpoints are asked in turn. What was certainly not done, and what may be done twice, is asked again elsewhere until
//! the timeout; a write whose answer was lost is an error with [`Retry::Unknown`](linchpin_core::Retry::Unknown). A member
//! that has lost its leader refuses to answer, and to watch.
//!
//! # Limits of the engine
//! * Leases last whole seconds, rounded up, and at least one and a half election timeouts: two seconds by default.
//! * A time is a minimum: a new leader starts every lease anew. So a key can outlive its lease by the lease's whole time
//!   per election. [`Caps::slack`](linchpin_core::coord::Caps::slack) covers one election for the shortest lease; add the
//!   time of a longer one.
//! * A cluster that was restored from a backup counts revisions from there, so tokens fall back: restore it with
//!   `--bump-revision` and `--mark-compacted`.
//! * A value is at most 1.5 MiB less 4 KiB, as long as `--max-request-bytes` is what it is by default.

mod client;
mod coord;
mod doctor;
mod error;
mod keys;
mod link;
mod url;
mod watch;
mod wire;

use std::sync::Arc;

use linchpin_core::Result;
use linchpin_core::coord::CoordEngine;
use linchpin_core::url::EngineUrl;

pub use self::coord::EtcdCoord;
pub use self::doctor::examine;
pub use self::url::Config;

/// The engine's name in errors and in the matrix.
pub const NAME: &str = "etcd";

/// Connects to the cluster that `url` names.
///
/// # Errors
/// `Config` for wrong options or certificates; `Denied` for wrong credentials; `Unavailable` or `Timeout` for a cluster
/// that can't be reached.
pub async fn open(url: &EngineUrl) -> Result<Arc<dyn CoordEngine>> {
    let coord = EtcdCoord::open(Config::from_url(url)?).await?;
    Ok(Arc::new(coord))
}
