//! Linchpin's engines: one folder per technology, each behind a cargo feature of its name.
//!
//! * [`sqlite`] (feature `sqlite`) — the embedded default: everything in one file.
//! * [`relational`] — what the engines on relational databases share: claims, shares, the schema's names.

pub mod relational;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use linchpin_core::bus::Scheme;

/// The `sqlite:` line of the table of engines.
pub const SQLITE: Scheme = Scheme {
    name: "sqlite",
    feature: "sqlite",
    #[cfg(feature = "sqlite")]
    bus: Some(|url| Box::pin(async move { sqlite::open(&url).await })),
    #[cfg(not(feature = "sqlite"))]
    bus: None,
};
