//! Wrong input, and servers that say no: a clear error, at once.

use async_nats::jetstream::stream::{Config, RetentionPolicy};
use linchpin_core::bus::{Message, SubscribeOptions, TopicOptions};
use linchpin_core::{Error, Kind, Retry, Status};
use linchpin_engines::nats::examine;
use linchpin_harness::Port;

use crate::server::{Server, open};

fn said(error: &Error, kind: Kind, part: &str) {
    assert_eq!(error.kind(), kind, "{error}");
    let text = error.to_string();
    assert!(text.contains(part) && text.contains("nats"), "{text:?} names {part:?}");
    assert!(error.remedy().is_some(), "{text:?} names a remedy");
}

#[tokio::test]
async fn wrong_credentials_are_denied_and_right_ones_are_not() {
    let server = Server::start(&["--user", "me", "--pass", "s3cret"]);
    for login in ["", "me:wrong@", "you:s3cret@"] {
        let url = format!("nats://{login}127.0.0.1:{}?timeout=5s", server.port);
        let error = open(&url).await.unwrap_err();
        said(&error, Kind::Denied, "credentials");
        assert!(!format!("{error:?}").contains("s3cret"));
    }
    let bus = open(&format!("nats://me:s3cret@127.0.0.1:{}", server.port)).await.unwrap();
    assert!(!bus.info().url.contains("s3cret"));
    bus.ensure("t", &TopicOptions::default()).await.unwrap();
}

#[tokio::test]
async fn a_token_lets_in() {
    let server = Server::start(&["--auth", "t0ken"]);
    said(&open(&server.url("&token=wrong")).await.unwrap_err(), Kind::Denied, "credentials");
    open(&server.url("&token=t0ken")).await.unwrap();
}

#[tokio::test]
async fn a_server_without_jetstream_says_so() {
    let server = Server::plain();
    let error = open(&server.url("")).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Config | Kind::Unavailable), "{error}");
    said(&error, error.kind(), "JetStream");
}

#[tokio::test]
async fn nobody_at_the_address_is_unavailable() {
    let nobody = Port::free().unwrap();
    let error = open(&format!("nats://127.0.0.1:{}?timeout=2s", nobody.number())).await.unwrap_err();
    said(&error, Kind::Unavailable, "reached");
    assert!(matches!(error.retry(), Retry::Safe { .. }));
}

#[tokio::test]
async fn what_the_server_finds_too_large_is_refused_alone() {
    let config = "max_payload: 2048\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nats.conf");
    std::fs::write(&path, config).unwrap();
    let server = Server::start(&["-c", path.to_str().unwrap()]);
    let bus = server.bus("").await;
    bus.ensure("t", &TopicOptions { partitions: 1, ..TopicOptions::default() }).await.unwrap();
    let messages = vec![Message::new("a"), Message::new(vec![7; 4000]), Message::new("b")];
    let answers = bus.publish_all("t", messages, &Default::default()).await;
    let kinds: Vec<_> = answers.iter().map(|answer| answer.as_ref().err().map(Error::kind)).collect();
    assert_eq!(kinds, [None, Some(Kind::Invalid), None]);
    said(answers[1].as_ref().unwrap_err(), Kind::Invalid, "2048");
    assert!(server.folder().exists());
}

#[tokio::test]
async fn a_stream_that_drops_what_is_acknowledged_is_no_topic() {
    let server = Server::start(&[]);
    let bus = server.bus("").await;
    let js = async_nats::jetstream::new(server.client().await);
    let config = Config { name: "work".into(), retention: RetentionPolicy::WorkQueue, ..Config::default() };
    js.create_stream(config).await.unwrap();
    let error = bus.subscribe("work", &SubscribeOptions::group("g")).await.unwrap_err();
    said(&error, Kind::Invalid, "\"work\"");
}

#[tokio::test]
async fn the_doctor_sees_what_is_wrong() {
    let server = Server::start(&["--user", "me", "--pass", "s3cret"]);
    let url = |login: &str| format!("nats://{login}127.0.0.1:{}?timeout=5s", server.port).parse().unwrap();
    let wrong = examine(url("me:wrong@")).await;
    assert!(matches!(wrong.as_slice(), [one] if one.status == Status::Wrong), "{wrong:?}");
    let well = examine(url("me:s3cret@")).await;
    assert!(well.iter().all(|finding| finding.status != Status::Wrong), "{well:?}");
    assert!(well.iter().any(|finding| finding.name == "sync" && finding.status == Status::Look), "{well:?}");
}
