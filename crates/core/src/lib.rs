//! Linchpin's contracts, and everything that is built on contracts alone.
//!
//! No driver, no database and no web framework lives here. Each capability is a room with the same
//! furniture: `mod.rs` holds the handle people use, `engine.rs` the trait an engine implements with its
//! whole contract, `memory` the in-process engine, and one file per further idea.
//!
//! * [`bus`] — messages: topics, groups, publishers, consumers, dead letters.
//! * [`coord`] — coordination: keys, leases and watches, and on them locks, elections, registry and configuration.
//! * [`id`] — ids that never repeat.
//! * [`pipe`] — moving a subscription into a sink, each message landing once.
//! * [`scheme`] — the table of engines that handles are opened from.
//! * [`error`], [`url`], [`time`], [`retry`], [`telemetry`] — what every capability shares.

pub mod bus;
pub mod coord;
pub mod error;
mod finding;
pub mod id;
mod memory;
pub mod pipe;
pub mod retry;
pub mod scheme;
pub mod telemetry;
pub mod time;
pub mod url;

pub use bus::Bus;
pub use coord::Coord;
pub use error::{Error, Kind, Result, Retry};
pub use finding::{Finding, Status};
pub use id::Ids;
pub use memory::MEMORY;
pub use scheme::{Info, Scheme, Ways};
pub use time::Timestamp;
