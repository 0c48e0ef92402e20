//! One file per engine: how it is started, and when it is ready.

mod etcd;
mod kafka;
mod mariadb;
mod nats;
mod postgres;
mod rabbitmq;
mod redis;
mod zookeeper;

use crate::engine::Engine;

/// Every engine that can be started, the quick ones first.
pub const ENGINES: &[Engine] = &[
    redis::ENGINE,
    redis::CLUSTER,
    nats::ENGINE,
    postgres::ENGINE,
    mariadb::ENGINE,
    etcd::ENGINE,
    etcd::THREE,
    zookeeper::ENGINE,
    zookeeper::THREE,
    rabbitmq::ENGINE,
    kafka::ENGINE,
    kafka::THREE,
];
