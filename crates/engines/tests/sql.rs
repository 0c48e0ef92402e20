//! PostgreSQL and MariaDB as they run: what other programs read, and what is said when something is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use linchpin_core::bus::{BusEngine, Message, PublishOptions, Settle, SubscribeOptions, TopicOptions};
use linchpin_core::{Error, Finding, Kind, Retry, Status};
use linchpin_engines::sql;
use linchpin_harness::{Running, find};

fn start(engine: &str) -> Running {
    find(engine).unwrap().start().unwrap()
}

async fn open(url: &str) -> Arc<dyn BusEngine> {
    sql::open(&url.parse().unwrap()).await.unwrap()
}

async fn refusal(url: &str) -> Error {
    let started = Instant::now();
    let error = sql::open(&url.parse().unwrap()).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(12), "it took {:?}", started.elapsed());
    assert!(error.remedy().is_some(), "{error}");
    assert!(!error.to_string().contains("s3cret"), "{error}");
    error
}

/// The server's own client: what it prints, a line per row, columns separated by tabs.
fn client(url: &str, statement: &str) -> String {
    let (_, rest) = url.split_once("://").unwrap();
    let (user, rest) = rest.split_once('@').unwrap();
    let (address, database) = rest.split_once('/').unwrap();
    let (host, port) = address.split_once(':').unwrap();
    let output = if url.starts_with("postgres") {
        let mut psql = Command::new("psql");
        psql.args(["-h", host, "-p", port, "-U", user, "-d", database, "-X", "-A", "-t", "-F", "\t"]);
        psql.args(["-v", "ON_ERROR_STOP=1", "-c", statement]).output()
    } else {
        let mut mariadb = Command::new("mariadb");
        mariadb.args(["--no-defaults", "-h", host, "-P", port, "-u", user, "-N", "-B", "-r"]);
        mariadb.args(["-e", statement, database]).output()
    };
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The URL with another user, and maybe a password and a database.
fn as_user(url: &str, user: &str, database: Option<&str>) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (_, rest) = rest.split_once('@').unwrap();
    let (address, of_url) = rest.split_once('/').unwrap();
    format!("{scheme}://{user}@{address}/{}", database.unwrap_or(of_url))
}

/// What the server's own client sees of messages, and what came of a race to create the tables.
async fn others_read_what_was_published(server: &Running) {
    let url = server.url().to_owned();
    let opened: Vec<_> =
        futures_util::future::join_all((0..6).map(|_| open(&url))).await.into_iter().collect();
    let bus = &opened[0];
    bus.ensure("orders", &TopicOptions { partitions: 2, ..TopicOptions::default() }).await.unwrap();
    let message = Message::new("two lanterns")
        .id("order-1")
        .key("customer-7")
        .header("country", "GB")
        .header("n", "1")
        .partition(1);
    for result in bus.publish("orders", vec![message], &PublishOptions::default()).await {
        result.unwrap();
    }
    let (text, cast) = if url.starts_with("postgres") {
        ("convert_from(payload, 'UTF8'), convert_from(msg_key, 'UTF8')", "headers->>'country'")
    } else {
        ("payload, msg_key", "json_value(headers, '$.country')")
    };
    let sql = format!("SELECT part, pos, id, {text}, {cast} FROM lp_messages WHERE topic = 'orders'");
    assert_eq!(client(&url, &sql), "1\t0\torder-1\ttwo lanterns\tcustomer-7\tGB");
    assert_eq!(client(&url, "SELECT count(*) FROM lp_schema"), "1", "one of six made the tables");
    for bus in opened {
        bus.close().await.unwrap();
    }
}

/// Two buses in one database, apart by their prefix.
async fn prefixes_keep_buses_apart(server: &Running) {
    let (plain, other) = (open(server.url()).await, open(&format!("{}?prefix=eu-", server.url())).await);
    for bus in [&plain, &other] {
        bus.ensure("prefixed", &TopicOptions::default()).await.unwrap();
    }
    other.publish("prefixed", vec![Message::new("x")], &PublishOptions::default()).await.remove(0).unwrap();
    let names: Vec<_> = other.stats(None).await.unwrap().into_iter().map(|t| (t.topic, t.messages)).collect();
    assert_eq!(names, [("prefixed".to_owned(), 1)]);
    assert_eq!(plain.stats(Some("prefixed")).await.unwrap()[0].messages, 0);
    let options = SubscribeOptions { max_attempts: 1, ..SubscribeOptions::group("g") };
    let sub = other.subscribe("prefixed", &options).await.unwrap();
    let got = sub.next(1, Duration::from_secs(5)).await.unwrap();
    let dead = Settle::Dead { reason: "no".into() };
    sub.settle(vec![(got[0].receipt, dead)]).await.remove(0).unwrap();
    assert_eq!(other.stats(Some("prefixed.g.dead")).await.unwrap()[0].messages, 1);
    assert_eq!(plain.stats(Some("prefixed.g.dead")).await.unwrap_err().kind(), Kind::NotFound);
}

/// Nobody listens there.
async fn nobody_answers(scheme: &str) {
    let nobody = linchpin_harness::Port::free().unwrap();
    let free = format!("127.0.0.1:{}", nobody.number());
    let error = refusal(&format!("{scheme}://ada:s3cret@{free}/shop?timeout=2s")).await;
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(matches!(error.retry(), Retry::Safe { .. }), "{error:?}");
}

/// Somebody listens there and says nothing.
async fn silence(scheme: &str) {
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let error =
        refusal(&format!("{scheme}://ada:s3cret@{}/shop?timeout=500ms", mute.local_addr().unwrap())).await;
    assert_eq!(error.kind(), Kind::Timeout, "{error}");
}

fn status<'f>(findings: &'f [Finding], name: &str) -> &'f Finding {
    findings
        .iter()
        .find(|finding| finding.name == name)
        .unwrap_or_else(|| panic!("no {name} in {findings:?}"))
}

async fn examine(url: &str) -> Vec<Finding> {
    sql::examine(url.parse().unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres() {
    let server = start("postgres");
    let url = server.url().to_owned();
    assert!(status(&examine(&url).await, "tables").text.contains("none yet"));
    others_read_what_was_published(&server).await;
    prefixes_keep_buses_apart(&server).await;
    nobody_answers("postgres").await;
    silence("postgres").await;

    assert_eq!(refusal(&as_user(&url, "nobody:s3cret", None)).await.kind(), Kind::Denied);
    assert_eq!(refusal(&as_user(&url, "postgres", Some("nowhere"))).await.kind(), Kind::NotFound);
    client(
        &url,
        "CREATE ROLE guest LOGIN; CREATE ROLE idler LOGIN; ALTER ROLE idler SET default_transaction_read_only = on",
    );
    let guest = as_user(&url, "guest", None);
    let error = refusal(&format!("{guest}?schema=shop")).await;
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    client(&url, "GRANT CREATE ON DATABASE postgres TO idler");
    let error = refusal(&format!("{}?schema=shop", as_user(&url, "idler", None))).await;
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(error.to_string().contains("read-only"), "{error}");

    let report = examine(&url).await;
    for name in ["server", "sync", "role", "connections", "privileges", "clock", "tables"] {
        assert_eq!(status(&report, name).status, Status::Well, "{report:?}");
    }
    client(&url, "ALTER ROLE guest SET synchronous_commit = off");
    let report = examine(&format!("{guest}?schema=shop")).await;
    assert_eq!(status(&report, "sync").status, Status::Look, "{report:?}");
    assert_eq!(status(&report, "privileges").status, Status::Look, "{report:?}");
    client(&url, "UPDATE lp_schema SET version = 99");
    assert_eq!(refusal(&url).await.kind(), Kind::Corrupt);
    assert_eq!(status(&examine(&url).await, "tables").status, Status::Wrong);
    assert_eq!(status(&examine("postgres://127.0.0.1:1/x?timeout=1s").await, "server").status, Status::Wrong);
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql() {
    let server = start("mariadb");
    let url = server.url().to_owned();
    others_read_what_was_published(&server).await;
    prefixes_keep_buses_apart(&server).await;
    nobody_answers("mysql").await;
    silence("mysql").await;

    assert_eq!(refusal(&format!("{url}?tls=true")).await.kind(), Kind::Config);
    client(&url, "CREATE USER ada@'%' IDENTIFIED BY 'right'; CREATE USER guest@'%'");
    let error = refusal(&as_user(&url, "ada:s3cret", None)).await;
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    assert_eq!(refusal(&as_user(&url, "guest", None)).await.kind(), Kind::Denied);
    client(&url, "GRANT SELECT ON linchpin.* TO guest@'%'");
    let report = examine(&as_user(&url, "guest", None)).await;
    assert_eq!(status(&report, "privileges").status, Status::Look, "{report:?}");
    let made = open(&as_user(&url, "root", Some("made_now"))).await;
    made.ensure("t", &TopicOptions::default()).await.unwrap();

    let report = examine(&url).await;
    for name in ["server", "role", "connections", "privileges", "clock", "tables"] {
        assert_eq!(status(&report, name).status, Status::Well, "{report:?}");
    }
    client(&url, "SET GLOBAL innodb_flush_log_at_trx_commit = 2");
    assert_eq!(status(&examine(&url).await, "sync").status, Status::Look);
    client(&url, "SET GLOBAL read_only = 1");
    assert_eq!(status(&examine(&url).await, "role").status, Status::Wrong);
    client(&url, "SET GLOBAL read_only = 0; UPDATE lp_schema SET version = 99");
    assert_eq!(refusal(&url).await.kind(), Kind::Corrupt);
}
