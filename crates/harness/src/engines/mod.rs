//! One file per engine: how it is started, and when it is ready.

mod activemq;
mod consul;
mod etcd;
mod influxdb;
mod kafka;
mod mariadb;
mod nats;
mod nginx;
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
    mariadb::REPLICA,
    influxdb::ENGINE,
    nginx::ENGINE,
    etcd::ENGINE,
    etcd::THREE,
    consul::ENGINE,
    zookeeper::ENGINE,
    zookeeper::THREE,
    activemq::ENGINE,
    rabbitmq::ENGINE,
    kafka::ENGINE,
    kafka::THREE,
];
