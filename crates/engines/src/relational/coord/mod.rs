//! Coordination on any relational database, free of drivers.
//!
//! # The schema in words
//!
//! | table | a row is |
//! |---|---|
//! | `lp_rev` | the one row with the schema's [`VERSION`], the last revision, and that up to which deletions are forgotten |
//! | `lp_key` | a key that is there: value, the revisions of its creation and its last change, its lease |
//! | `lp_gone` | a deletion: its revision and the key |
//! | `lp_lease` | a lease: how long it lasts, and when it ends |
//!
//! # The protocol in words
//! Who changes keys first takes the row of `lp_rev`, and keeps it until the commit: so the order of revisions is the
//! order of commits, and what is read under it stays true. It then ends the leases that are over, up to a bound, each key
//! with a revision of its own, and does what was asked: `Round` decides, the driver reads before and writes after.
//! A lease is over when its time has come, whether somebody ended it or not: reads leave its keys out, and it can't be
//! renewed. Renewing takes the row of the lease alone, so it never waits for those who write.
//!
//! A watcher asks for what has a later revision than the last it knows of, among keys and deletions, in one statement.
//! Deletions are kept for [`KEPT`] revisions. Who is further behind reads all that is there instead.

mod ask;
mod engine;
mod feed;
mod round;
mod store;
mod watch;

pub(crate) use ask::{Answer, Ask, Needs};
pub(crate) use engine::RowCoord;
pub(crate) use feed::Feed;
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) use round::Put;
pub(crate) use round::{Changes, Found, Lease, Loaded, Round};
pub(crate) use store::{Look, Range, Rows, Seen, Stored};

/// The version of the tables of coordination that this build reads and writes.
pub const VERSION: i64 = 1;

/// Deletions are kept for this many revisions.
pub const KEPT: u64 = 10_000;

/// The number that stands for coordination where topics are told by theirs, which begin at 1.
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) const TOLD: i64 = 0;

/// The largest value, in bytes: InnoDB refuses more than a tenth of its log, which has 96 MiB unless it is told otherwise.
pub(crate) const MAX_VALUE: usize = 8 << 20;

/// Leases ended in one transaction, at most.
pub(crate) const LEASES: usize = 64;
/// Their keys, at most; what is left of them is hidden, and for the next transaction.
pub(crate) const KEYS: usize = 256;
