//! Wrong input, and servers that say no: a clear error, in time.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use linchpin_core::bus::{Message, SubscribeOptions};
use linchpin_core::coord::{Coord, When};
use linchpin_core::{Kind, Retry};
use linchpin_engines::REDIS;
use linchpin_harness::Port;

use crate::server::{SOON, Server, one, open, said, topic};

#[tokio::test]
async fn a_wrong_password_is_denied_and_the_right_one_is_not() {
    let server = Server::start(&["--requirepass", "s3cret"]);
    for login in ["", ":wr0ng@", "you:s3cret@"] {
        let error = open(&server.url(login, "")).await.unwrap_err();
        said(&error, Kind::Denied, "user or password");
        assert!(!error.to_string().contains("wr0ng"), "{error}");
    }
    let bus = open(&server.url(":s3cret@", "")).await.unwrap();
    assert!(!bus.info().url.contains("s3cret"));
    bus.ensure("t", &topic(1)).await.unwrap();
}

#[tokio::test]
async fn a_user_without_rights_is_denied_where_it_matters() {
    let server = Server::start(&[]);
    for (rights, keys) in [("-@all +ping", "~*"), ("+@all", "~other*"), ("+@all -xgroup", "~*")] {
        let words = format!("ACL SETUSER me reset on >s3cret {keys} &* {rights}");
        server.cli(&words.split(' ').collect::<Vec<_>>());
        let bus = open(&server.url("me:s3cret@", "")).await.unwrap();
        said(&bus.ensure("t", &topic(1)).await.unwrap_err(), Kind::Denied, "may not");
    }
    server.bus("").await.ensure("t", &topic(1)).await.unwrap();
    server.cli(&["ACL", "SETUSER", "me", "reset", "on", ">s3cret", "~*", "&*", "+@all", "-xadd"]);
    let bus = open(&server.url("me:s3cret@", "")).await.unwrap();
    said(&bus.publish("t", Message::new("x")).await.unwrap_err(), Kind::Denied, "may not");
}

#[tokio::test]
async fn the_rights_that_the_doctor_names_are_enough() {
    let server = Server::start(&[]);
    let words = "ACL SETUSER me reset on >s3cret ~{shop:* ~shop:* &shop:* +@all -@dangerous +info";
    server.cli(&words.split(' ').collect::<Vec<_>>());
    let bus = open(&server.url("me:s3cret@", "?prefix=shop")).await.unwrap();
    bus.ensure("t", &topic(2)).await.unwrap();
    let sub = bus.subscribe("t", &SubscribeOptions::group("g")).await.unwrap();
    bus.publish("t", Message::new("x")).await.unwrap();
    sub.ack(one(&sub).await).await.unwrap();
    assert_eq!(bus.stats(None).await.unwrap().len(), 1);
    bus.remove("t", None).await.unwrap();
    let lists = server.url("me:s3cret@", "?prefix=shop").replacen("redis:", "redis-list:", 1);
    let lists = open(&lists).await.unwrap();
    lists.ensure("t", &topic(1)).await.unwrap();
    lists.publish("t", Message::new("x")).await.unwrap();
    let sub = lists.subscribe("t", &SubscribeOptions::group("g")).await.unwrap();
    sub.ack(one(&sub).await).await.unwrap();
    let coord = Coord::open_with(&server.url("me:s3cret@", "?prefix=shop"), &[REDIS]).await.unwrap();
    let mut watched = coord.watch("").await.unwrap();
    coord.put("a", "x", When::Absent).await.unwrap();
    assert_eq!(watched.changes.next(SOON).await.unwrap().len(), 1);
    assert!(coord.delete("a", When::Always).await.unwrap());
}

#[tokio::test]
async fn a_database_that_is_not_there_is_named() {
    let server = Server::start(&["--databases", "2"]);
    said(&open(&server.url("", "/2")).await.unwrap_err(), Kind::Config, "no such database");
    said(&open(&server.url("", "/two")).await.unwrap_err(), Kind::Config, "\"two\"");
    let bus = server.bus("/1").await;
    bus.ensure("t", &topic(1)).await.unwrap();
    assert_eq!(server.cli(&["-n", "1", "EXISTS", "{t:0}"]), ["1"]);
}

#[tokio::test]
async fn an_unknown_option_is_refused_with_the_known_ones() {
    let error = open("redis://127.0.0.1?timout=1s").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    let text = error.to_string();
    assert!(["timout", "timeout", "prefix", "tls_ca"].iter().all(|word| text.contains(word)), "{text}");
}

#[tokio::test]
async fn nobody_at_the_address_is_unavailable_in_time() {
    let began = Instant::now();
    let nobody = Port::free().unwrap();
    let error = open(&format!("redis://127.0.0.1:{}?timeout=2s", nobody.number())).await.unwrap_err();
    said(&error, Kind::Unavailable, "reached");
    assert!(matches!(error.retry(), Retry::Safe { .. }));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let began = Instant::now();
    let url = format!("redis://{}?timeout=1s", silent.local_addr().unwrap());
    let error = open(&url).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Timeout | Kind::Unavailable), "{error}");
    said(&error, error.kind(), "redis");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_key_that_holds_something_else_is_named() {
    let server = Server::start(&[]);
    let bus = server.bus("").await;
    server.cli(&["SET", "{t:0}", "mine"]);
    let error = bus.ensure("t", &topic(1)).await.unwrap_err();
    said(&error, Kind::Conflict, "{t:0}");
    assert!(error.remedy().unwrap().contains("prefix"));
    assert_eq!(server.cli(&["GET", "{t:0}"]), ["mine"]);
    server.cli(&["SET", "{record}", "mine"]);
    said(&bus.ensure("record", &topic(1)).await.unwrap_err(), Kind::Conflict, "{record}");
    said(&bus.stats(Some("record")).await.unwrap_err(), Kind::Conflict, "{record}");
    // Under the feet of a topic that exists.
    bus.ensure("late", &topic(1)).await.unwrap();
    server.cli(&["DEL", "{late:0}"]);
    server.cli(&["SET", "{late:0}", "mine"]);
    said(&bus.publish("late", Message::new("x")).await.unwrap_err(), Kind::Conflict, "{late:0}");
    let joined = bus.subscribe("late", &SubscribeOptions::group("g")).await;
    said(&joined.unwrap_err(), Kind::Conflict, "{late:0}");
}

#[tokio::test]
async fn a_full_server_says_so() {
    let server = Server::start(&["--maxmemory", "4mb", "--maxmemory-policy", "noeviction"]);
    let bus = server.bus("").await;
    bus.ensure("t", &topic(1)).await.unwrap();
    let batch: Vec<_> = (0..100).map(|_| Message::new(vec![7; 100_000])).collect();
    let answers = bus.publish_all("t", batch, &Default::default()).await;
    let error = answers.into_iter().find_map(Result::err).expect("10 MB don't fit into 4");
    said(&error, Kind::Limited, "memory");
    assert!(matches!(error.retry(), Retry::Safe { .. }));
}
