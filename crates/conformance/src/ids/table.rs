//! A table of counters that other programs made and use, too.

use linchpin::Kind;
use linchpin::id::Ids;
use tokio::time::sleep;

use super::other::sql;
use super::tools::*;
use crate::tools::{MOMENT, assert_kind};
use crate::world::Issuer;

/// As other programs make it: 32-bit columns, and no defaults.
const THEIRS: &str = "CREATE TABLE theirs(
    id {id} PRIMARY KEY, max_id BIGINT NOT NULL, step INT NOT NULL, biz_type VARCHAR(64) NOT NULL,
    version INT NOT NULL, created_at TIMESTAMP NULL, updated_at TIMESTAMP NULL, deleted_at TIMESTAMP NULL);
    INSERT INTO theirs(id, max_id, step, biz_type, version) VALUES
        (1, 1000, 10, 'orders', 7), (2, 0, 0, 'broken', 0), (3, 5, 10, 'twice', 0), (4, 6, 10, 'twice', 0),
        (5, 9223372036854775800, 10, 'nearly', 0);
    INSERT INTO theirs(id, max_id, step, biz_type, version, deleted_at) VALUES
        (6, 50, 10, 'gone', 0, '2026-01-01 00:00:00')";

/// Their table, where ours would be.
async fn theirs(s: &Issuer) -> String {
    // The database or schema is made on the way.
    s.open(0).await;
    let url = s.url(0, "");
    let id = match url.split_once(':').unwrap().0 {
        "sqlite" => "INTEGER",
        "postgres" => "serial",
        _ => "INT AUTO_INCREMENT",
    };
    sql(&url, &THEIRS.replace("{id}", id));
    if id == "serial" {
        sql(&url, "SELECT setval('theirs_id_seq', 6)");
    }
    url
}

/// What is opened by somebody who uses the table as it is.
async fn on_theirs(s: &Issuer, rest: &str) -> linchpin::Result<Ids> {
    let url = s.url(0, "").replace("biz_type=orders&create=true&step=100", &format!("table=theirs&{rest}"));
    <Ids as linchpin::Open>::open(&url).await
}

pub(super) async fn other_programs_take_segments_of_the_same_row(s: Issuer) {
    let url = theirs(&s).await;
    let ids = on_theirs(&s, "biz_type=orders").await.unwrap();
    assert_eq!(number(&ids).await, 1001);
    assert_eq!(sql(&url, "SELECT max_id, version FROM theirs WHERE id = 1"), "1010\t8");
    // Another program takes a segment its own way.
    sql(&url, "UPDATE theirs SET max_id = max_id + step, version = version + 1 WHERE id = 1 AND version = 8");
    let more = numbers(&ids, 29).await;
    assert_eq!((more[8], more[9]), (1010, 1021), "1011 to 1020 are the other's");
    // Somebody changes the row's step.
    sql(&url, "UPDATE theirs SET step = 500, version = version + 1 WHERE id = 1");
    let segment = ids.segment("orders", None).await.unwrap();
    assert_eq!((segment.last - segment.first + 1, segment.step), (500, 500));
    let others = "SELECT count(*) FROM theirs WHERE id BETWEEN 2 AND 6 AND version = 0";
    assert_eq!(sql(&url, others), "5", "nobody else's row was touched");
    // Tables that count from max_id itself.
    let leaf = on_theirs(&s, "biz_type=leaf&create=true&begin=at").await.unwrap();
    assert_eq!(number(&leaf).await, 0);
}

pub(super) async fn soft_deleted_rows_are_not_there(s: Issuer) {
    let url = theirs(&s).await;
    let ids = on_theirs(&s, "biz_type=gone").await.unwrap();
    assert_kind(ids.next().await, Kind::NotFound);
    // Its numbers were used: one made anew goes on behind them.
    let again = on_theirs(&s, "biz_type=gone&create=true&step=20").await.unwrap();
    assert_eq!(number(&again).await, 51);
    let untouched = "SELECT max_id, version FROM theirs WHERE id = 6";
    assert_eq!(sql(&url, untouched), "50\t0");
    sql(&url, "UPDATE theirs SET deleted_at = '2026-01-02 00:00:00' WHERE biz_type = 'orders'");
    let orders = on_theirs(&s, "biz_type=orders").await.unwrap();
    assert_kind(orders.next().await, Kind::NotFound);
}

pub(super) async fn wrong_rows_are_named(s: Issuer) {
    theirs(&s).await;
    let ids = on_theirs(&s, "biz_type=orders").await.unwrap();
    for (name, kind, part) in [
        ("orderz", Kind::NotFound, "broken, nearly, orders, twice"),
        ("broken", Kind::Config, "step of \"broken\" is 0"),
        ("twice", Kind::Config, "several rows"),
    ] {
        let error = assert_kind(ids.counter(name).unwrap().next().await, kind);
        let said = format!("{error} {}", error.remedy().expect("a remedy"));
        assert!(said.contains(part), "{said}");
    }
    let nearly = ids.counter("nearly").unwrap();
    assert_eq!(numbers(&nearly, 7).await.last(), Some(&i64::MAX));
    let error = assert_kind(nearly.next().await, Kind::Limited);
    assert!(error.to_string().contains("used up"), "{error}");
    assert_eq!(number(&ids).await, 1001);
    let error = assert_kind(on_theirs(&s, "table=nobodys").await, Kind::NotFound);
    assert!(error.to_string().contains("nobodys"), "{error}");
    assert!(error.remedy().unwrap().contains("create=true"), "{error}");
}

/// A backup of the database is restored while ids are drawn.
pub(super) async fn an_older_state_is_refused(s: Issuer) {
    let (ids, mut seen) = (s.open(0).await, Seen::default());
    seen.add(draw(&ids, 150).await);
    sleep(MOMENT).await;
    let url = s.url(0, "");
    sql(&url, "UPDATE id_generator SET max_id = 3, version = version + 1");
    // What is at hand is still ours.
    let error = loop {
        match ids.next_n(50).await {
            Ok(batch) => seen.add(batch),
            Err(error) => break error,
        }
        assert!(seen.len() < 5_000, "nobody noticed");
    };
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(error.to_string().contains("went back"), "{error}");
    assert!(error.remedy().is_some(), "{error}");
    sql(&url, "UPDATE id_generator SET max_id = 1000000, version = version + 1");
    sleep(MOMENT).await;
    assert!(number(&ids).await > 1_000_000);
}
