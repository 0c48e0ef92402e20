//! The lines that the engines have in the table of schemes, those that this build lacks included.

use linchpin_core::bus::{Examine, OpenBus, Scheme};

/// How an engine is opened and examined, if this build has it.
type Ways = (Option<OpenBus>, Option<Examine>);

#[allow(dead_code, reason = "unused in a build that has everything")]
const LACKING: Ways = (None, None);

const fn scheme(name: &'static str, feature: &'static str, (bus, examine): Ways) -> Scheme {
    Scheme { name, feature, bus, examine }
}

/// SQLite: `sqlite:///path/file.db`, `sqlite::memory:`.
pub const SQLITE: Scheme = scheme("sqlite", "sqlite", BY_SQLITE);
/// PostgreSQL: `postgres://user:password@host/database`.
pub const POSTGRES: Scheme = scheme("postgres", "postgres", BY_POSTGRES);
/// Another name of the same.
pub const POSTGRESQL: Scheme = scheme("postgresql", "postgres", BY_POSTGRES);
/// MySQL and MariaDB: `mysql://user:password@host/database`.
pub const MYSQL: Scheme = scheme("mysql", "mysql", BY_MYSQL);
/// Redis streams on one server: `redis://host:6379`.
pub const REDIS: Scheme = scheme("redis", "redis", BY_REDIS);
/// The same, encrypted.
pub const REDISS: Scheme = scheme("rediss", "redis", BY_REDIS);
/// Redis streams over a cluster: `redis-cluster://host:6379,host:6379`.
pub const REDIS_CLUSTER: Scheme = scheme("redis-cluster", "redis", BY_REDIS);
/// The same, encrypted.
pub const REDISS_CLUSTER: Scheme = scheme("rediss-cluster", "redis", BY_REDIS);
/// Redis channels, which keep nothing: `redis-pubsub://host:6379`.
pub const REDIS_PUBSUB: Scheme = scheme("redis-pubsub", "redis", BY_REDIS_PUBSUB);
/// The same, encrypted.
pub const REDISS_PUBSUB: Scheme = scheme("rediss-pubsub", "redis", BY_REDIS_PUBSUB);
/// Kafka: `kafka://host:9092,host:9092`.
pub const KAFKA: Scheme = scheme("kafka", "kafka", BY_KAFKA);
/// NATS with JetStream: `nats://user:password@host:4222,host:4222`.
pub const NATS: Scheme = scheme("nats", "nats", BY_NATS);
/// The same, encrypted.
pub const NATS_TLS: Scheme = scheme("nats+tls", "nats", BY_NATS);

#[cfg(feature = "sqlite")]
const BY_SQLITE: Ways = (
    Some(|url| Box::pin(async move { crate::sqlite::open(&url).await })),
    Some(|url| Box::pin(crate::sqlite::examine(url))),
);
#[cfg(not(feature = "sqlite"))]
const BY_SQLITE: Ways = LACKING;

#[cfg(any(feature = "mysql", feature = "postgres"))]
const BY_SQL: Ways = (
    Some(|url| Box::pin(async move { crate::sql::open(&url).await })),
    Some(|url| Box::pin(crate::sql::examine(url))),
);
#[cfg(feature = "postgres")]
const BY_POSTGRES: Ways = BY_SQL;
#[cfg(not(feature = "postgres"))]
const BY_POSTGRES: Ways = LACKING;
#[cfg(feature = "mysql")]
const BY_MYSQL: Ways = BY_SQL;
#[cfg(not(feature = "mysql"))]
const BY_MYSQL: Ways = LACKING;

#[cfg(feature = "redis")]
const BY_REDIS: Ways = (
    Some(|url| Box::pin(async move { crate::redis::open(&url).await })),
    Some(|url| Box::pin(crate::redis::examine(url))),
);
#[cfg(not(feature = "redis"))]
const BY_REDIS: Ways = LACKING;
#[cfg(feature = "redis")]
const BY_REDIS_PUBSUB: Ways =
    (Some(|url| Box::pin(async move { crate::redis::pubsub::open(&url).await })), BY_REDIS.1);
#[cfg(not(feature = "redis"))]
const BY_REDIS_PUBSUB: Ways = LACKING;

#[cfg(feature = "kafka")]
const BY_KAFKA: Ways = (
    Some(|url| Box::pin(async move { crate::kafka::open(&url).await })),
    Some(|url| Box::pin(crate::kafka::examine(url))),
);
#[cfg(not(feature = "kafka"))]
const BY_KAFKA: Ways = LACKING;

#[cfg(feature = "nats")]
const BY_NATS: Ways = (
    Some(|url| Box::pin(async move { crate::nats::open(&url).await })),
    Some(|url| Box::pin(crate::nats::examine(url))),
);
#[cfg(not(feature = "nats"))]
const BY_NATS: Ways = LACKING;
