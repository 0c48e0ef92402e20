//! Wrong input, and servers that say no: a clear error, in time.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use linchpin_core::coord::{Watched, When};
use linchpin_core::{Kind, Retry};
use linchpin_harness::Port;

use crate::server::{MOMENT, SOON, Seen, Server, open, said};

#[tokio::test]
async fn a_user_is_let_in_by_the_right_password_alone() {
    let server = Server::start(&[]);
    said(&open(&server.url("me:s3cret@", "")).await.unwrap_err(), Kind::Config, "asks nobody");
    server.lock();
    said(&open(&server.url("", "")).await.unwrap_err(), Kind::Denied, "who connects");
    for login in ["me:wr0ng@", "you:s3cret@"] {
        let error = open(&server.url(login, "")).await.unwrap_err();
        said(&error, Kind::Denied, "user or password");
        assert!(!error.to_string().contains("wr0ng"), "{error}");
    }
    let coord = open(&server.url("me:s3cret@", "?prefix=shop/")).await.unwrap();
    assert!(!coord.info().url.contains("s3cret"));
    let rev = coord.put("a", "1", When::Absent).await.unwrap();
    coord.put("a", "1", When::Is(rev)).await.unwrap();
    assert_eq!(coord.list("").await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_a_user_may_not_is_denied() {
    let server = Server::start(&[]);
    server.lock();
    let coord = open(&server.url("me:s3cret@", "")).await.unwrap();
    coord.put("shop/a", "", When::Always).await.unwrap();
    said(&coord.get("other").await.unwrap_err(), Kind::Denied, "may not");
    for when in [When::Always, When::Absent] {
        said(&coord.put("other", "", when).await.unwrap_err(), Kind::Denied, "may not");
    }
    said(&coord.delete("other", When::Always).await.unwrap_err(), Kind::Denied, "may not");
    said(&coord.list("").await.unwrap_err(), Kind::Denied, "may not");
}

#[tokio::test]
async fn a_watch_that_may_not_go_on_says_so() {
    let mut server = Server::start(&[]);
    server.lock();
    let coord = open(&server.url("me:s3cret@", "")).await.unwrap();
    let Watched { mut changes, .. } = coord.watch("shop/").await.unwrap();
    coord.put("shop/b", "", When::Always).await.unwrap();
    assert_eq!(changes.next(SOON).await.unwrap()[0].key(), "shop/b");
    let token = server.post("auth/authenticate", r#"{"name":"root","password":"s3cret"}"#);
    let token = token.split('"').rev().nth(1).unwrap();
    server.post_as(token, "auth/role/revoke", r#"{"role":"me","key":"c2hvcC8=","range_end":"c2hvcDA="}"#);
    server.restart();
    let patience = Instant::now() + SOON;
    let error = loop {
        match changes.next(MOMENT).await {
            Err(e) if e.kind() == Kind::Denied => break e,
            other => assert!(Instant::now() < patience, "{other:?}"),
        }
    };
    said(&error, Kind::Denied, "may not");
}

impl Server {
    fn post_as(&self, token: &str, path: &str, body: &str) {
        let request = format!(
            "POST /v3/{path} HTTP/1.0\r\nAuthorization: {token}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer =
            linchpin_harness::wire::ask(self.port, request.as_bytes(), |answer| answer.ends_with(b"}"))
                .unwrap();
        assert!(answer.starts_with(b"HTTP/1.0 200"), "{}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test]
async fn a_token_that_the_server_forgot_is_replaced() {
    let mut server = Server::start(&[]);
    server.lock();
    let coord = open(&server.url("me:s3cret@", "?prefix=shop/&timeout=10s")).await.unwrap();
    let Watched { snapshot, mut changes } = coord.watch("").await.unwrap();
    let lease = coord.engine().grant(Duration::from_secs(60)).await.unwrap();
    server.restart();
    // A write that was sent when the connection broke would be of unknown outcome.
    tokio::time::sleep(MOMENT).await;
    coord.put("a", "1", When::Absent).await.unwrap();
    server.restart();
    coord.engine().renew(&lease).await.unwrap();
    server.restart();
    Seen::new(snapshot).follow(changes.as_mut(), &coord, "").await;
}

#[tokio::test]
async fn nobody_at_the_address_is_unavailable_in_time() {
    let began = Instant::now();
    let (one, two) = (Port::free().unwrap(), Port::free().unwrap());
    let url = format!("etcd://127.0.0.1:{},127.0.0.1:{}?timeout=1s", one.number(), two.number());
    let error = open(&url).await.unwrap_err();
    said(&error, Kind::Unavailable, "can't be reached");
    assert!(matches!(error.retry(), Retry::Safe { .. }));
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("etcd://{}?timeout=1s", silent.local_addr().unwrap());
    said(&open(&url).await.unwrap_err(), Kind::Timeout, "in time");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_database_that_is_full_says_so() {
    let server = Server::start(&["--quota-backend-bytes", "300000"]);
    let coord = open(&server.url("", "")).await.unwrap();
    let patience = Instant::now() + SOON;
    let error = loop {
        match coord.put("a", vec![1; 100_000], When::Always).await {
            Ok(_) => assert!(Instant::now() < patience),
            Err(e) => break e,
        }
    };
    said(&error, Kind::Limited, "full");
    assert!(error.remedy().unwrap().contains("quota"));
    assert!(coord.get("a").await.unwrap().is_some());
}

#[tokio::test]
async fn a_server_with_narrower_limits_says_so() {
    let server = Server::start(&["--max-request-bytes", "10000", "--election-timeout", "5000"]);
    let coord = open(&server.url("", "")).await.unwrap();
    assert_eq!(coord.caps().min_ttl, Duration::from_secs(8));
    said(&coord.put("a", vec![1; 20_000], When::Always).await.unwrap_err(), Kind::Invalid, "too large");
    let error = coord.engine().grant(Duration::from_secs(u64::MAX / 4)).await.unwrap_err();
    said(&error, Kind::Invalid, "too long");
}

#[tokio::test]
async fn an_unknown_option_is_refused_with_the_known_ones() {
    let error = open("etcd://127.0.0.1?timout=1s").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    let text = error.to_string();
    assert!(["timout", "timeout", "prefix", "tls_ca"].iter().all(|word| text.contains(word)), "{text}");
}
