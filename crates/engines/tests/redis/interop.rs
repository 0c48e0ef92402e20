//! The server's own client reads what Linchpin writes, and what it writes is delivered.

use std::time::Duration;

use linchpin_core::bus::{Message, SubscribeOptions};

use crate::server::{SOON, Server, one, open, topic};

/// The value behind a name in a list of names and values.
fn value<'l>(lines: &'l [String], name: &str) -> &'l str {
    let at = lines.iter().position(|line| line == name).unwrap_or_else(|| panic!("{name} in {lines:?}"));
    &lines[at + 1]
}

#[tokio::test]
async fn the_client_reads_payload_key_and_headers() {
    let server = Server::start(&[]);
    let bus = server.bus("/0?prefix=shop").await;
    bus.ensure("orders", &topic(2)).await.unwrap();
    let sent = Message::new("two lanterns").id("order-17").key("customer-7").header("country", "GB");
    bus.publish("orders", sent.partition(1)).await.unwrap();
    let fields =
        ["payload", "two lanterns", "lp-id", "order-17", "lp-key", "customer-7", "country", "GB"].as_slice();
    let entries = server.cli(&["XRANGE", "{shop:orders:1}", "-", "+"]);
    assert_eq!(entries[1..], *fields, "{entries:?}");
    assert!(server.cli(&["XRANGE", "{shop:orders:0}", "-", "+"]).concat().is_empty());
    server.cli(&["XGROUP", "CREATE", "{shop:orders:1}", "theirs", "0"]);
    let theirs = ["XREADGROUP", "GROUP", "theirs", "me", "STREAMS", "{shop:orders:1}", ">"];
    let read = server.cli(&theirs);
    assert!(read[0] == "{shop:orders:1}" && read[2..] == *fields, "{read:?}");
}

#[tokio::test]
async fn the_client_sees_groups_and_what_they_hold() {
    let server = Server::start(&[]);
    let bus = server.bus("").await;
    bus.ensure("orders", &topic(1)).await.unwrap();
    for text in ["a", "b", "c"] {
        bus.publish("orders", Message::new(text)).await.unwrap();
    }
    let sub = bus.subscribe("orders", &SubscribeOptions::group("billing")).await.unwrap();
    let first = one(&sub).await;
    let stream = server.cli(&["XINFO", "STREAM", "{orders:0}"]);
    assert_eq!((value(&stream, "length"), value(&stream, "groups")), ("3", "1"));
    let groups = server.cli(&["XINFO", "GROUPS", "{orders:0}"]);
    assert_eq!(value(&groups, "name"), "billing");
    assert_ne!(value(&groups, "pending"), "0", "{groups:?}");
    sub.ack(first).await.unwrap();
    for _ in 0..2 {
        let delivery = one(&sub).await;
        sub.ack(delivery).await.unwrap();
    }
    let groups = server.cli(&["XINFO", "GROUPS", "{orders:0}"]);
    assert_eq!((value(&groups, "pending"), value(&groups, "lag")), ("0", "0"));
}

#[tokio::test]
async fn what_the_client_adds_is_delivered_with_an_id_that_stays() {
    let server = Server::start(&[]);
    let bus = server.bus("").await;
    bus.ensure("orders", &topic(1)).await.unwrap();
    let named =
        server.cli(&["XADD", "{orders:0}", "*", "country", "GB", "payload", "by hand", "lp-key", "k"]);
    let bare = server.cli(&["XADD", "{orders:0}", "*", "anything", "bare"]);
    let sub = bus.subscribe("orders", &SubscribeOptions::group("g")).await.unwrap();
    let first = one(&sub).await;
    let message = &first.message;
    assert_eq!((message.payload.as_ref(), message.key.as_deref()), (&b"by hand"[..], Some(&b"k"[..])));
    assert_eq!(message.headers.text("country"), Some("GB"));
    assert_eq!(message.id.to_string(), format!("{{orders:0}}/{}", named[0]));
    let id = first.message.id.clone();
    sub.nack(first, Duration::ZERO, "again").await.unwrap();
    let mut rest = [one(&sub).await, one(&sub).await];
    rest.sort_by_key(|delivery| delivery.position);
    assert_eq!((&rest[0].message.id, rest[0].attempt), (&id, 2));
    assert_eq!((rest[1].message.payload.as_ref(), rest[1].message.headers.is_empty()), (&b"bare"[..], true));
    assert_eq!(rest[1].message.id.to_string(), format!("{{orders:0}}/{}", bare[0]));
}

#[tokio::test]
async fn an_entry_added_by_the_client_wakes_who_waits() {
    let server = Server::start(&[]);
    let bus = server.bus("").await;
    bus.ensure("orders", &topic(1)).await.unwrap();
    let sub = bus.subscribe("orders", &SubscribeOptions::group("g")).await.unwrap();
    assert!(sub.next(1, Duration::from_millis(100)).await.unwrap().is_empty());
    server.cli(&["XADD", "{orders:0}", "*", "payload", "late"]);
    assert_eq!(one(&sub).await.message.payload, "late");
}

#[tokio::test]
async fn what_a_foreign_consumer_took_and_dropped_is_not_lost() {
    let server = Server::start(&[]);
    let bus = server.bus("").await;
    bus.ensure("orders", &topic(1)).await.unwrap();
    let sub = bus.subscribe("orders", &SubscribeOptions::group("g")).await.unwrap();
    bus.publish("orders", Message::new("x")).await.unwrap();
    server.cli(&["XREADGROUP", "GROUP", "g", "by-hand", "STREAMS", "{orders:0}", ">"]);
    assert!(sub.next(1, Duration::from_millis(300)).await.unwrap().is_empty(), "it is in another's hand");
    let pending = server.cli(&["XPENDING", "{orders:0}", "g", "-", "+", "1"]);
    // A minute later, as far as the server knows.
    let claim =
        ["XCLAIM", "{orders:0}", "g", "by-hand", "0", &pending[0], "IDLE", "61000", "RETRYCOUNT", "1"];
    server.cli(&claim);
    let delivery = one(&sub).await;
    assert_eq!((delivery.message.payload.as_ref(), delivery.attempt), (&b"x"[..], 2));
}

#[tokio::test]
async fn channels_are_understood_both_ways() {
    let server = Server::start(&[]);
    let bus = open(&format!("redis-pubsub://127.0.0.1:{}", server.port)).await.unwrap();
    bus.ensure("news", &topic(1)).await.unwrap();
    let sub = bus.subscribe("news", &SubscribeOptions::broadcast()).await.unwrap();
    assert_eq!(server.cli(&["PUBLISH", "news", "by hand"]), ["1"]);
    assert_eq!(one(&sub).await.message.payload, "by hand");
    sub.close(SOON).await.unwrap();
}
