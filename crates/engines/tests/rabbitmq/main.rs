//! RabbitMQ with a plain client beside it, servers that say no, and acknowledgements that must hold:
//! `cargo test -p linchpin-engines --features rabbitmq,live --test rabbitmq`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod acks;
mod encrypted;
mod interop;
mod long;
mod refusals;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lapin::{Channel, Connection, ConnectionProperties};
use linchpin_core::Result;
use linchpin_core::bus::{BusEngine, Message, PublishOptions, TopicOptions};
use linchpin_harness::Running;

pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The server of the tests that don't harm it; it ends with the process that started it.
pub(crate) fn server() -> &'static Running {
    static SERVER: OnceLock<Running> = OnceLock::new();
    SERVER.get_or_init(|| linchpin_harness::find("rabbitmq").unwrap().start().unwrap())
}

pub(crate) async fn open(url: &str) -> Result<Arc<dyn BusEngine>> {
    linchpin_engines::rabbitmq::open(&url.parse()?).await
}

pub(crate) async fn bus(prefix: &str) -> Arc<dyn BusEngine> {
    open(&format!("{}?prefix={prefix}", server().url())).await.unwrap()
}

pub(crate) async fn topic(bus: &Arc<dyn BusEngine>, name: &str, partitions: u32) {
    bus.ensure(name, &TopicOptions { partitions, ..TopicOptions::default() }).await.unwrap();
}

pub(crate) async fn publish(
    bus: &Arc<dyn BusEngine>,
    topic: &str,
    messages: Vec<Message>,
) -> Vec<Result<()>> {
    let answers = bus.publish(topic, messages, &PublishOptions::default()).await;
    answers.into_iter().map(|answer| answer.map(drop)).collect()
}

/// A client that knows nothing of Linchpin.
pub(crate) async fn plain(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}
