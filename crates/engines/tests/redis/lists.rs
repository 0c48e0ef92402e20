//! Lists with the server's own client beside them, and what the suite can't see because it needs headers for it.

use std::time::Duration;

use linchpin_core::Kind;
use linchpin_core::bus::{Bus, Message, SubscribeOptions, Subscriber, dead_topic};

use crate::server::{SOON, Server, one, open, said, topic};

const MOMENT: Duration = Duration::from_millis(300);

async fn lists(server: &Server) -> Bus {
    let bus = open(&format!("redis-list://127.0.0.1:{}", server.port)).await.unwrap();
    bus.ensure("orders", &topic(1)).await.unwrap();
    bus
}

async fn join(bus: &Bus, group: &str) -> Subscriber {
    bus.subscribe("orders", &SubscribeOptions::group(group)).await.unwrap()
}

/// Everything that comes, settled, in order.
async fn drain(sub: &Subscriber) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let batch = sub.next(1, MOMENT).await.unwrap();
        if batch.is_empty() {
            return all;
        }
        for delivery in batch {
            all.push(String::from_utf8(delivery.message.payload.to_vec()).unwrap());
            sub.ack(delivery).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_is_published_lies_on_the_list_of_every_group() {
    let server = Server::start(&[]);
    let bus = lists(&server).await;
    bus.publish("orders", Message::new("early")).await.unwrap();
    assert_eq!(server.cli(&["LRANGE", "{orders:0}:list", "0", "-1"]), ["early"]);
    let billing = join(&bus, "billing").await;
    let _stock = join(&bus, "stock").await;
    for text in ["a", "b"] {
        bus.publish("orders", Message::new(text)).await.unwrap();
    }
    // The first group took over what was there before it.
    assert_eq!(server.cli(&["LRANGE", "{orders:0}:list:billing", "0", "-1"]), ["b", "a", "early"]);
    assert_eq!(server.cli(&["LRANGE", "{orders:0}:list:stock", "0", "-1"]), ["b", "a"]);
    // What another program takes from one group is gone for that group, and for no other.
    assert_eq!(server.cli(&["RPOP", "{orders:0}:list:billing"]), ["early"]);
    assert_eq!(server.cli(&["BRPOP", "{orders:0}:list:stock", "1"]), ["{orders:0}:list:stock", "a"]);
    assert_eq!(drain(&billing).await, ["a", "b"]);
    // Nothing is left of what is settled.
    assert_eq!(server.cli(&["KEYS", "{orders:0}:*:billing*"]), ["{orders:0}:lists:g:billing"]);
}

#[tokio::test]
async fn what_another_program_pushes_is_delivered_and_comes_again() {
    let server = Server::start(&[]);
    let bus = lists(&server).await;
    server.cli(&["LPUSH", "{orders:0}:list:billing", "before the group"]);
    bus.publish("orders", Message::new("ours")).await.unwrap();
    let sub = join(&bus, "billing").await;
    assert_eq!(drain(&sub).await, ["ours", "before the group"]);
    let waiting = tokio::spawn(async move { (one(&sub).await, sub) });
    tokio::task::yield_now().await;
    server.cli(&["LPUSH", "{orders:0}:list:billing", "by hand"]);
    let (first, sub) = tokio::time::timeout(Duration::from_secs(2), waiting).await.unwrap().unwrap();
    let id = first.message.id.clone();
    assert_eq!((first.message.payload.as_ref(), first.position.offset), (&b"by hand"[..], None));
    sub.nack(first, Duration::ZERO, "again").await.unwrap();
    let again = one(&sub).await;
    assert_eq!((&again.message.id, again.attempt), (&id, 2), "an id stays");
    // It stays too when the member leaves with it.
    sub.close(SOON).await.unwrap();
    let heir = join(&bus, "billing").await;
    let third = one(&heir).await;
    assert_eq!((&third.message.id, third.attempt), (&id, 3));
    heir.ack(third).await.unwrap();
}

#[tokio::test]
async fn what_was_seen_keeps_its_id_even_if_it_does_not_count() {
    let server = Server::start(&[]);
    let bus = lists(&server).await;
    let once = SubscribeOptions { max_attempts: 1, ..SubscribeOptions::group("g") };
    let sub = bus.subscribe("orders", &once).await.unwrap();
    bus.publish("orders", Message::new("x")).await.unwrap();
    let id = one(&sub).await.message.id;
    sub.close(SOON).await.unwrap();
    let heir = bus.subscribe("orders", &once).await.unwrap();
    let again = one(&heir).await;
    assert_eq!((again.message.id, again.attempt), (id, 1), "a close never uses up the last attempt");
}

#[tokio::test]
async fn what_was_fetched_ahead_goes_back_where_others_find_it() {
    let server = Server::start(&[]);
    let bus = lists(&server).await;
    let sub = join(&bus, "g").await;
    let all: Vec<_> = (0..200).map(|n| Message::new(n.to_string())).collect();
    bus.publish_all("orders", all, &Default::default()).await;
    for _ in 0..50 {
        let delivery = one(&sub).await;
        sub.ack(delivery).await.unwrap();
    }
    sub.close(SOON).await.unwrap();
    let left = server.cli(&["LRANGE", "{orders:0}:list:g", "0", "-1"]);
    assert_eq!(left, (50..200).rev().map(|n| n.to_string()).collect::<Vec<_>>(), "in order");
    assert_eq!(server.cli(&["EXISTS", "{orders:0}:lists:g:g:t", "{orders:0}:lists:w:g"]), ["0"]);
}

#[tokio::test]
async fn the_last_attempt_ends_among_the_dead_letters() {
    let server = Server::start(&[]);
    let bus = lists(&server).await;
    let twice = SubscribeOptions {
        max_attempts: 2,
        ack_wait: Duration::from_secs(1),
        ..SubscribeOptions::group("g")
    };
    let sub = bus.subscribe("orders", &twice).await.unwrap();
    for text in ["refused", "silent", "hopeless"] {
        bus.publish("orders", Message::new(text)).await.unwrap();
    }
    let refused = one(&sub).await;
    let _silent = one(&sub).await;
    let hopeless = one(&sub).await;
    sub.dead(hopeless, "can't be read").await.unwrap();
    sub.nack(refused, Duration::ZERO, "no").await.unwrap();
    let refused = one(&sub).await;
    sub.nack(refused, Duration::ZERO, "no").await.unwrap();
    // A second handing out, and no word again.
    let again = one(&sub).await;
    assert_eq!((again.message.payload.as_ref(), again.attempt), (&b"silent"[..], 2));
    assert!(sub.next(1, Duration::from_secs(3)).await.unwrap().is_empty());
    let letters = dead_topic("orders", "g");
    let audit = bus.subscribe(&letters, &SubscribeOptions::group("audit")).await.unwrap();
    assert_eq!(drain(&audit).await, ["hopeless", "refused", "silent"]);
    let stats = bus.stats(Some("orders")).await.unwrap();
    assert_eq!((stats[0].messages, stats[0].groups[0].in_flight), (0, 0), "{stats:?}");
}

#[tokio::test]
async fn what_has_no_place_in_a_list_is_refused() {
    let server = Server::start(&[]);
    let bus = lists(&server).await;
    for message in [Message::new("x").key("k"), Message::new("x").header("h", "v")] {
        said(&bus.publish("orders", message).await.unwrap_err(), Kind::Unsupported, "no place");
    }
    // A topic of streams with the same name is another one, and so is a key that isn't ours.
    let streams = server.bus("").await;
    streams.ensure("orders", &topic(4)).await.unwrap();
    assert_eq!(bus.stats(None).await.unwrap()[0].options.partitions, 1);
    server.cli(&["SET", "{taken:0}:list", "mine"]);
    said(&bus.ensure("taken", &topic(1)).await.unwrap_err(), Kind::Conflict, "{taken:0}:list");
}
