//! Linchpin's engines: one folder per technology, each behind a cargo feature of its name.
//!
//! * `sqlite` — the embedded default: everything in one file.
//! * `sql` (features `postgres` and `mysql`) — PostgreSQL, MySQL and MariaDB.
//! * `redis` — streams, on one server or over a cluster; channels.
//! * `kafka` — Kafka's topics and groups, with a settle per message on top.
//! * `nats` — NATS with JetStream.
//! * `rabbitmq` — RabbitMQ's quorum queues, over AMQP 0-9-1.
//! * `etcd` — coordination on etcd.
//! * `consul` — coordination on Consul.
//! * `zookeeper` — coordination on ZooKeeper.
//! * `relational` — what the engines on relational databases share: claims, shares, the schema's names.

#[cfg(feature = "consul")]
pub mod consul;
#[cfg(feature = "etcd")]
pub mod etcd;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(any(
    feature = "redis",
    feature = "nats",
    feature = "rabbitmq",
    feature = "zookeeper",
    feature = "mysql",
    feature = "postgres"
))]
mod pem;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(any(feature = "sqlite", feature = "mysql", feature = "postgres"))]
pub mod relational;
mod schemes;
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub mod sql;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(feature = "zookeeper")]
pub mod zookeeper;

pub use schemes::*;
