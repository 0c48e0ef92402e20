//! Wrong input, and servers that say no: a clear error, at once.

use std::time::Duration;

use lapin::ExchangeKind;
use lapin::options::ExchangeDeclareOptions;
use lapin::types::FieldTable;
use linchpin_core::bus::{Start, SubscribeOptions, TopicOptions};
use linchpin_core::{Error, Kind, Retry, Status};
use linchpin_engines::rabbitmq::examine;
use linchpin_harness::Port;

use crate::{bus, open, plain, server, topic};

fn said(error: &Error, kind: Kind, part: &str) {
    assert_eq!(error.kind(), kind, "{error}");
    let text = error.to_string();
    assert!(text.contains(part) && text.contains("rabbitmq"), "{text:?} names {part:?}");
    assert!(error.remedy().is_some(), "{text:?} names a remedy");
}

fn port() -> u16 {
    server().ports()[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_denied() {
    let error = open(&format!("amqp://guest:s3cret@127.0.0.1:{}", port())).await.unwrap_err();
    said(&error, Kind::Denied, "password");
    assert!(!format!("{error:?}").contains("s3cret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_virtual_host_is_named() {
    let error = open(&format!("{}/nowhere", server().url())).await.unwrap_err();
    said(&error, Kind::NotFound, "\"nowhere\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_at_the_address_is_unavailable() {
    let nobody = Port::free().unwrap();
    let error = open(&format!("amqp://127.0.0.1:{}?timeout=2s", nobody.number())).await.unwrap_err();
    said(&error, Kind::Unavailable, "reached");
    assert!(matches!(error.retry(), Retry::Safe { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_of_another_kind_is_no_topic() {
    let (_connection, channel) = plain(server().url()).await;
    let (kind, options) = (ExchangeKind::Fanout, ExchangeDeclareOptions::default());
    channel.exchange_declare("kind-t".into(), kind, options, FieldTable::default()).await.unwrap();
    let error = bus("kind-").await.ensure("t", &TopicOptions::default()).await.unwrap_err();
    said(&error, Kind::Config, "kind-t");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_groups_cannot_have_is_refused() {
    let bus = bus("options-").await;
    topic(&bus, "t", 1).await;
    let short = SubscribeOptions { ack_wait: Duration::from_secs(2), ..SubscribeOptions::group("g") };
    said(&bus.subscribe("t", &short).await.unwrap_err(), Kind::Invalid, "3s");
    let start = Start::Time(linchpin_core::Timestamp::now());
    let past = SubscribeOptions { start, ..SubscribeOptions::group("g") };
    said(&bus.subscribe("t", &past).await.unwrap_err(), Kind::Unsupported, "past");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_sees_what_is_wrong() {
    let wrong = examine(format!("amqp://me:wrong@127.0.0.1:{}", port()).parse().unwrap()).await;
    assert_eq!(wrong.last().unwrap().status, Status::Wrong, "{wrong:?}");
    let well = examine(server().url().parse().unwrap()).await;
    assert!(well.iter().all(|finding| finding.status != Status::Wrong), "{well:?}");
    assert!(well.iter().any(|finding| finding.name == "version"), "{well:?}");
    assert!(well.iter().any(|f| f.name == "access" && f.status == Status::Look), "{well:?}");
}
