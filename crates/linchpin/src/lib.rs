//! **One small API per job, the same guarantees on every engine, proven by one suite; only the URL changes.**
//!
//! This crate is what a program adds to its `Cargo.toml`: the handles, and the table of engines they are opened from.
//!
//! ```
//! use linchpin::{Bus, Open, Result, TopicOptions, bus::Message};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<()> {
//! let bus = Bus::open("memory://").await?;
//! bus.ensure("orders", &TopicOptions::default()).await?;
//! bus.publish("orders", Message::new("two lanterns").key("customer-7")).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Each cargo feature brings one technology; `full` brings all. A URL whose engine isn't in the build is an error that
//! names the feature.

use std::future::Future;

pub use linchpin_core::bus::{self, Bus, TopicOptions};
pub use linchpin_core::coord::{self, Coord};
pub use linchpin_core::id::{self, Ids};
pub use linchpin_core::{
    Error, Finding, Kind, Result, Retry, Scheme, Status, Timestamp, error, pipe, retry, telemetry, time, url,
};
pub use linchpin_engines as engines;

/// Every engine, by URL scheme.
pub const ENGINES: &[Scheme] = &[
    linchpin_core::MEMORY,
    engines::SQLITE,
    engines::POSTGRES,
    engines::POSTGRESQL,
    engines::MYSQL,
    engines::REDIS,
    engines::REDISS,
    engines::REDIS_CLUSTER,
    engines::REDISS_CLUSTER,
    engines::REDIS_LIST,
    engines::REDISS_LIST,
    engines::REDIS_PUBSUB,
    engines::REDISS_PUBSUB,
    engines::KAFKA,
    engines::NATS,
    engines::NATS_TLS,
    engines::AMQP,
    engines::AMQPS,
    engines::ETCD,
    engines::ETCD_TLS,
    engines::CONSUL,
    engines::CONSUL_TLS,
    engines::ZOOKEEPER,
    engines::ZOOKEEPER_TLS,
];

/// Opening a handle by URL. The URL is the whole configuration.
pub trait Open: Sized {
    /// Opens what `url` names among [`ENGINES`].
    ///
    /// # Errors
    /// [`Kind::Config`] for an unknown scheme or option, listing the valid ones; what the engine says otherwise.
    fn open(url: &str) -> impl Future<Output = Result<Self>> + Send;
}

impl Open for Bus {
    async fn open(url: &str) -> Result<Self> {
        Self::open_with(url, ENGINES).await
    }
}

impl Open for Coord {
    async fn open(url: &str) -> Result<Self> {
        Self::open_with(url, ENGINES).await
    }
}

impl Open for Ids {
    async fn open(url: &str) -> Result<Self> {
        Self::open_with(url, ENGINES).await
    }
}

/// The README's program is compiled and run as a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
