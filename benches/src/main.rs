//! Linchpin beside what it is compared with, both in one go: `cargo run --release -p linchpin-benches -- [CLAIM]…`.
//!
//! Without a name every claim is measured. Each prints a ratio and writes its row into `docs/performance.json`, from which
//! `docs/performance.md` is made; rows of other claims stay. A claim is a file here, and [`harness`] does the rest.

mod apalis;
mod broker;
mod harness;
mod idle;
mod ids;
mod jetstream;
mod kafka;
mod machine;
mod naive;
mod nats;
mod rabbitmq;
mod redis_streams;
mod registry;
mod sql;
mod sqlite_consume;
mod sqlite_publish;
mod work;

use harness::{Claim, Result};

const CLAIMS: &[&Claim] = &[
    &sqlite_publish::CLAIM,
    &sqlite_consume::CLAIM,
    &sqlite_consume::AWAITING,
    &nats::PUBLISH,
    &nats::CONSUME,
    &naive::PUBLISH,
    &naive::CONSUME,
    &apalis::ENQUEUE,
    &apalis::RUN,
    &redis_streams::PUBLISH,
    &redis_streams::PUBLISH_1K,
    &redis_streams::CONSUME,
    &redis_streams::CONSUME_1K,
    &redis_streams::TUTORIAL_PUBLISH,
    &redis_streams::TUTORIAL_CONSUME,
    &kafka::PUBLISH,
    &kafka::PUBLISH_1K,
    &kafka::CONSUME,
    &kafka::CONSUME_1K,
    &jetstream::PUBLISH,
    &jetstream::PUBLISH_1K,
    &jetstream::CONSUME,
    &jetstream::CONSUME_1K,
    &rabbitmq::PUBLISH,
    &rabbitmq::PUBLISH_1K,
    &rabbitmq::CONSUME,
    &rabbitmq::CONSUME_1K,
    &sql::POSTGRES_PUBLISH,
    &sql::POSTGRES_CONSUME,
    &sql::MYSQL_PUBLISH,
    &sql::MYSQL_CONSUME,
    &ids::SNOWFLAKE,
    &ids::SEGMENTS,
    &ids::SERVE,
    &registry::PICK,
    &registry::change::REDIS,
    &registry::change::ETCD,
    &idle::REDIS,
    &idle::NATS,
    &idle::POSTGRES,
    &idle::MYSQL,
    &idle::SQLITE,
];

#[tokio::main]
async fn main() -> Result {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.as_slice() {
        [word] if word == ids::BARE => ids::serve_constant().await,
        _ => harness::main(CLAIMS, &words).await,
    }
}
