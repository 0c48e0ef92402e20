//! What plain clients write is delivered, and they read what Linchpin writes.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::stream::Config;
use futures_util::StreamExt;
use linchpin_core::Kind;
use linchpin_core::bus::{Message, SubscribeOptions, Subscriber, TopicOptions};

use crate::server::Server;

const SOON: Duration = Duration::from_secs(10);

fn topic(partitions: u32) -> TopicOptions {
    TopicOptions { partitions, ..TopicOptions::default() }
}

async fn one(sub: &Subscriber) -> linchpin_core::bus::Delivery {
    sub.next(1, SOON).await.unwrap().pop().expect("a message comes")
}

/// The server has read all that the client sent before: it reads a connection in order, and flushing
/// waits for the socket alone.
async fn answered(client: &async_nats::Client) {
    let mut echo = client.subscribe("echo").await.unwrap();
    client.publish("echo", "".into()).await.unwrap();
    tokio::time::timeout(SOON, echo.next()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_plain_client_sees_payload_and_headers() {
    let server = Server::start(&[]);
    let (bus, client) = (server.bus("").await, server.client().await);
    bus.ensure("orders.eu", &topic(2)).await.unwrap();
    let mut plain = client.subscribe("orders.eu.*").await.unwrap();
    answered(&client).await;
    let sent = Message::new("two lanterns").key("customer-7").header("country", "GB").partition(1);
    bus.publish("orders.eu", sent.clone()).await.unwrap();
    let came = tokio::time::timeout(SOON, plain.next()).await.unwrap().unwrap();
    let headers = came.headers.unwrap();
    let text = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
    assert_eq!((came.subject.as_str(), &came.payload), ("orders.eu.1", &sent.payload));
    assert_eq!(text("country").as_deref(), Some("GB"));
    assert_eq!(text("lp-key").as_deref(), Some("customer-7"));
    assert_eq!(text("lp-id"), Some(sent.id.to_string()));
}

#[tokio::test]
async fn what_a_plain_client_publishes_is_delivered() {
    let server = Server::start(&[]);
    let (bus, client) = (server.bus("&prefix=shop-").await, server.client().await);
    bus.ensure("orders", &topic(2)).await.unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("country", "GB");
    client.publish_with_headers("shop-orders.1", headers, "by hand".into()).await.unwrap();
    client.publish("shop-orders.1", "bare".into()).await.unwrap();
    answered(&client).await;
    let sub = bus.subscribe("orders", &SubscribeOptions::group("g")).await.unwrap();
    let first = one(&sub).await;
    assert_eq!((first.message.payload.as_ref(), first.position.partition), (&b"by hand"[..], 1));
    assert_eq!(first.message.headers.text("country"), Some("GB"));
    let id = first.message.id.clone();
    sub.nack(first, Duration::ZERO, "again").await.unwrap();
    let mut rest = [one(&sub).await, one(&sub).await];
    rest.sort_by_key(|delivery| delivery.position);
    assert_eq!((&rest[0].message.id, rest[0].attempt), (&id, 2), "an id made from the place stays");
    assert_eq!(rest[1].message.payload, "bare");
}

#[tokio::test]
async fn a_stream_of_others_is_a_topic_of_one_partition() {
    let server = Server::start(&[]);
    let (bus, client) = (server.bus("").await, server.client().await);
    let js = async_nats::jetstream::new(client);
    let config = Config { name: "logs".into(), subjects: vec!["logs.>".into()], ..Config::default() };
    js.create_stream(config).await.unwrap();
    for subject in ["logs.a", "logs.b.c"] {
        js.publish(subject, subject.into()).await.unwrap().await.unwrap();
    }
    let sub = bus.subscribe("logs", &SubscribeOptions::group("g")).await.unwrap();
    let came = [one(&sub).await, one(&sub).await].map(|delivery| delivery.message.payload);
    assert_eq!(came, ["logs.a", "logs.b.c"]);
    let refused = bus.publish("logs", Message::new("x")).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Invalid, "{refused}");
    assert_eq!(bus.trim("logs").await.unwrap(), 0, "it keeps what it is set to keep");
    assert!(bus.stats(None).await.unwrap().is_empty(), "only topics of its own are listed");
}

#[tokio::test]
async fn buses_with_prefixes_of_their_own_are_apart() {
    let server = Server::start(&[]);
    let (a, b) = (server.bus("&prefix=a-").await, server.bus("&prefix=b-").await);
    a.ensure("t", &topic(1)).await.unwrap();
    assert_eq!(b.publish("t", Message::new("x")).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(a.stats(None).await.unwrap().len(), 1);
    assert!(
        b.stats(None).await.unwrap().is_empty() && server.bus("").await.stats(None).await.unwrap().is_empty()
    );
}
