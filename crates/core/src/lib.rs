//! Linchpin's contracts, and everything that is built on contracts alone.
//!
//! No driver, no database and no web framework lives here. Each capability is a room with the same
//! furniture: `mod.rs` holds the handle people use, `engine.rs` the trait an engine implements with its
//! whole contract, `memory` the in-process engine, and one file per further idea.
//!
//! * [`bus`] — messages: topics, groups, publishers, consumers, dead letters.
//! * [`pipe`] — moving a subscription into a sink, each message landing once.
//! * [`error`], [`url`], [`time`], [`retry`], [`telemetry`] — what every capability shares.

pub mod bus;
pub mod error;
pub mod pipe;
pub mod retry;
pub mod telemetry;
pub mod time;
pub mod url;

pub use bus::Bus;
pub use error::{Error, Kind, Result, Retry};
pub use time::Timestamp;
