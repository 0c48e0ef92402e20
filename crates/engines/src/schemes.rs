//! The lines that the engines have in the table of schemes, those that this build lacks included.

use linchpin_core::{Scheme, Ways};

const fn scheme(name: &'static str, feature: &'static str, ways: Option<Ways>) -> Scheme {
    Scheme { name, feature, ways }
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
/// Redis lists of bare payloads: `redis-list://host:6379`.
pub const REDIS_LIST: Scheme = scheme("redis-list", "redis", BY_REDIS_LIST);
/// The same, encrypted.
pub const REDISS_LIST: Scheme = scheme("rediss-list", "redis", BY_REDIS_LIST);
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
/// RabbitMQ: `amqp://user:password@host:5672/vhost`.
pub const AMQP: Scheme = scheme("amqp", "rabbitmq", BY_RABBITMQ);
/// The same, encrypted.
pub const AMQPS: Scheme = scheme("amqps", "rabbitmq", BY_RABBITMQ);
/// etcd: `etcd://user:password@host:2379,host:2379`.
pub const ETCD: Scheme = scheme("etcd", "etcd", BY_ETCD);
/// The same, encrypted.
pub const ETCD_TLS: Scheme = scheme("etcd+tls", "etcd", BY_ETCD);
/// Consul: `consul://host:8500,host:8500`.
pub const CONSUL: Scheme = scheme("consul", "consul", BY_CONSUL);
/// The same, encrypted.
pub const CONSUL_TLS: Scheme = scheme("consul+tls", "consul", BY_CONSUL);
/// ZooKeeper: `zookeeper://host:2181,host:2181/path`.
pub const ZOOKEEPER: Scheme = scheme("zookeeper", "zookeeper", BY_ZOOKEEPER);
/// The same, encrypted.
pub const ZOOKEEPER_TLS: Scheme = scheme("zookeeper+tls", "zookeeper", BY_ZOOKEEPER);

#[cfg(feature = "sqlite")]
const BY_SQLITE: Option<Ways> = Some(Ways {
    bus: Some(|url| Box::pin(async move { crate::sqlite::open(&url).await })),
    coord: Some(|url| Box::pin(async move { crate::sqlite::open_coord(&url).await })),
    ids: Some(|url| Box::pin(crate::sqlite::ids(url))),
    examine: Some(|url| Box::pin(crate::sqlite::examine(url))),
});
#[cfg(not(feature = "sqlite"))]
const BY_SQLITE: Option<Ways> = None;

#[cfg(any(feature = "mysql", feature = "postgres"))]
const BY_SQL: Option<Ways> = Some(Ways {
    bus: Some(|url| Box::pin(async move { crate::sql::open(&url).await })),
    coord: Some(|url| Box::pin(async move { crate::sql::open_coord(&url).await })),
    ids: Some(|url| Box::pin(crate::sql::ids(url))),
    examine: Some(|url| Box::pin(crate::sql::examine(url))),
});
#[cfg(feature = "postgres")]
const BY_POSTGRES: Option<Ways> = BY_SQL;
#[cfg(not(feature = "postgres"))]
const BY_POSTGRES: Option<Ways> = None;
#[cfg(feature = "mysql")]
const BY_MYSQL: Option<Ways> = BY_SQL;
#[cfg(not(feature = "mysql"))]
const BY_MYSQL: Option<Ways> = None;

#[cfg(feature = "redis")]
const BY_REDIS: Option<Ways> = Some(Ways {
    bus: Some(|url| Box::pin(async move { crate::redis::open(&url).await })),
    coord: Some(|url| Box::pin(async move { crate::redis::coord::open(&url).await })),
    ids: Some(|url| Box::pin(crate::redis::ids(url))),
    examine: Some(|url| Box::pin(crate::redis::examine(url))),
});
#[cfg(not(feature = "redis"))]
const BY_REDIS: Option<Ways> = None;
#[cfg(feature = "redis")]
const BY_REDIS_LIST: Option<Ways> = Some(Ways {
    bus: Some(|url| Box::pin(async move { crate::redis::list::open(&url).await })),
    examine: Some(|url| Box::pin(crate::redis::examine(url))),
    ..Ways::NONE
});
#[cfg(not(feature = "redis"))]
const BY_REDIS_LIST: Option<Ways> = None;
#[cfg(feature = "redis")]
const BY_REDIS_PUBSUB: Option<Ways> = Some(Ways {
    bus: Some(|url| Box::pin(async move { crate::redis::pubsub::open(&url).await })),
    examine: Some(|url| Box::pin(crate::redis::examine(url))),
    ..Ways::NONE
});
#[cfg(not(feature = "redis"))]
const BY_REDIS_PUBSUB: Option<Ways> = None;

#[cfg(feature = "kafka")]
const BY_KAFKA: Option<Ways> = Some(Ways {
    bus: Some(|url| Box::pin(async move { crate::kafka::open(&url).await })),
    examine: Some(|url| Box::pin(crate::kafka::examine(url))),
    ..Ways::NONE
});
#[cfg(not(feature = "kafka"))]
const BY_KAFKA: Option<Ways> = None;

#[cfg(feature = "nats")]
const BY_NATS: Option<Ways> = Some(Ways {
    bus: Some(|url| Box::pin(async move { crate::nats::open(&url).await })),
    examine: Some(|url| Box::pin(crate::nats::examine(url))),
    ..Ways::NONE
});
#[cfg(not(feature = "nats"))]
const BY_NATS: Option<Ways> = None;

#[cfg(feature = "rabbitmq")]
const BY_RABBITMQ: Option<Ways> = Some(Ways {
    bus: Some(|url| Box::pin(async move { crate::rabbitmq::open(&url).await })),
    examine: Some(|url| Box::pin(crate::rabbitmq::examine(url))),
    ..Ways::NONE
});
#[cfg(not(feature = "rabbitmq"))]
const BY_RABBITMQ: Option<Ways> = None;

#[cfg(feature = "etcd")]
const BY_ETCD: Option<Ways> = Some(Ways {
    coord: Some(|url| Box::pin(async move { crate::etcd::open(&url).await })),
    examine: Some(|url| Box::pin(crate::etcd::examine(url))),
    ..Ways::NONE
});
#[cfg(not(feature = "etcd"))]
const BY_ETCD: Option<Ways> = None;

#[cfg(feature = "consul")]
const BY_CONSUL: Option<Ways> = Some(Ways {
    coord: Some(|url| Box::pin(async move { crate::consul::open(&url).await })),
    examine: Some(|url| Box::pin(crate::consul::examine(url))),
    ..Ways::NONE
});
#[cfg(not(feature = "consul"))]
const BY_CONSUL: Option<Ways> = None;

#[cfg(feature = "zookeeper")]
const BY_ZOOKEEPER: Option<Ways> = Some(Ways {
    coord: Some(|url| Box::pin(async move { crate::zookeeper::open(&url).await })),
    examine: Some(|url| Box::pin(crate::zookeeper::examine(url))),
    ..Ways::NONE
});
#[cfg(not(feature = "zookeeper"))]
const BY_ZOOKEEPER: Option<Ways> = None;
