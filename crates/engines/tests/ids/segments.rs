//! Segments of a table.

use linchpin_core::Kind;

use crate::place::{Place, numbers, open, race, said};

/// The table as other programs make it: 32-bit columns, and no defaults.
const THEIRS: &str = "CREATE TABLE id_generator(
    id {id} PRIMARY KEY, max_id BIGINT NOT NULL, step INT NOT NULL, biz_type VARCHAR(64) NOT NULL,
    version INT NOT NULL, created_at TIMESTAMP NULL, updated_at TIMESTAMP NULL, deleted_at TIMESTAMP NULL);
    INSERT INTO id_generator(id, max_id, step, biz_type, version) VALUES
        (1, 1000, 10, 'orders', 7), (2, 0, 0, 'broken', 0), (3, 5, 10, 'twice', 0), (4, 6, 10, 'twice', 0),
        (5, 9223372036854775800, 10, 'nearly', 0);
    INSERT INTO id_generator(id, max_id, step, biz_type, version, deleted_at) VALUES
        (6, 50, 10, 'gone', 0, '2026-01-01 00:00:00')";

async fn beside_others(place: &Place) {
    let error = place.open("biz_type=orders").await.unwrap_err();
    said(
        &error,
        Kind::NotFound,
        if place.server.is_some() { "no table id_generator" } else { "doesn't exist" },
    );
    let id = ["INTEGER", "serial", "INT AUTO_INCREMENT"][place.kind()];
    place.sql(&THEIRS.replace("{id}", id));
    if place.kind() == 1 {
        place.sql("SELECT setval('id_generator_id_seq', 6)");
    }
    let ids = place.open("biz_type=orders").await.unwrap();
    assert_eq!(ids.next().await.unwrap().number(), Some(1001));
    assert_eq!(place.sql("SELECT max_id, version FROM id_generator WHERE id = 1"), "1010\t8");
    // Another program takes a segment its own way.
    place.sql(
        "UPDATE id_generator SET max_id = max_id + step, version = version + 1 WHERE id = 1 AND version = 8",
    );
    let more = numbers(&ids, 29).await;
    assert_eq!((more[8], more[9]), (1010, 1021), "1011 to 1020 are the other's");
    for (name, kind, part) in [
        ("orderz", Kind::NotFound, "broken, nearly, orders, twice"),
        ("gone", Kind::NotFound, "no row"),
        ("broken", Kind::Config, "step of \"broken\" is 0"),
        ("twice", Kind::Config, "several rows"),
    ] {
        said(&ids.counter(name).unwrap().next().await.unwrap_err(), kind, part);
    }
    let nearly = ids.counter("nearly").unwrap();
    assert_eq!(numbers(&nearly, 7).await.last(), Some(&i64::MAX));
    said(&nearly.next().await.unwrap_err(), Kind::Limited, "used up");
    // A soft-deleted row isn't there, but its numbers were used.
    let again = place.open("biz_type=gone&create=true&step=20").await.unwrap();
    assert_eq!(again.next().await.unwrap().number(), Some(51));
    let leaf = place.open("biz_type=leaf&create=true&begin=at").await.unwrap();
    assert_eq!(leaf.next().await.unwrap().number(), Some(0));
}

async fn made_here(place: &Place) {
    let url = place.with("biz_type=invoices&table=lp_ids&create=true&step=7");
    let all = race(&url, 8, 700).await;
    assert_eq!(all.first(), Some(&1));
    assert_eq!(place.sql("SELECT count(*), min(step) FROM lp_ids"), "1\t7", "one of eight made the row");
    let columns = "id, max_id, step, biz_type, version, created_at, updated_at, deleted_at";
    assert_eq!(place.sql(&format!("SELECT count(*) FROM (SELECT {columns} FROM lp_ids) AS t")), "1");
    let ids = open(&url).await.unwrap();
    // Somebody changes the row's step.
    place.sql("UPDATE lp_ids SET step = 50, version = version + 1");
    let segment = ids.segment("invoices", None).await.unwrap();
    assert_eq!((segment.last - segment.first + 1, segment.step), (50, 50));
    // Somebody restores an older state.
    let last = *numbers(&ids, 100).await.last().unwrap();
    place.sql("UPDATE lp_ids SET max_id = 3, version = version + 1");
    let error = ids.next_n(100_000).await.unwrap_err();
    said(&error, Kind::Corrupt, "went back");
    place.sql(&format!("UPDATE lp_ids SET max_id = {}, version = version + 1", last + 1_000_000));
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(ids.next().await.unwrap().number().unwrap() > last);
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite() {
    beside_others(&Place::new("sqlite")).await;
    made_here(&Place::new("sqlite")).await;
    let error = open("sqlite::memory:?biz_type=x&crate=true").await.unwrap_err();
    said(&error, Kind::Config, "kind, biz_type, table, step, begin, name, block");
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres() {
    let place = Place::new("postgres");
    beside_others(&place).await;
    made_here(&place).await;
    let other = place.open("biz_type=x&schema=elsewhere&create=true").await.unwrap();
    assert_eq!(other.next().await.unwrap().number(), Some(1));
    assert_eq!(place.sql("SELECT count(*) FROM elsewhere.id_generator"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql() {
    let place = Place::new("mariadb");
    beside_others(&place).await;
    made_here(&place).await;
}
