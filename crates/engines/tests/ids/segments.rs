//! Segments of a table made here.

use linchpin_core::Kind;

use crate::place::{Place, open, race, said};

/// The columns that other programs expect.
const COLUMNS: &str = "id, max_id, step, biz_type, version, created_at, updated_at, deleted_at";

async fn made_here(place: &Place) {
    let error = place.open("biz_type=invoices").await.unwrap_err();
    let missing = if place.server.is_some() { "no table id_generator" } else { "doesn't exist" };
    said(&error, Kind::NotFound, missing);
    let all = race(&place.with("biz_type=invoices&table=lp_ids&create=true&step=7"), 8, 700).await;
    assert_eq!(all.first(), Some(&1));
    assert_eq!(place.sql("SELECT count(*), min(step) FROM lp_ids"), "1\t7", "one of eight made the row");
    assert_eq!(place.sql(&format!("SELECT count(*) FROM (SELECT {COLUMNS} FROM lp_ids) AS t")), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite() {
    made_here(&Place::new("sqlite")).await;
    let error = open("sqlite::memory:?biz_type=x&crate=true").await.unwrap_err();
    said(&error, Kind::Config, "kind, biz_type, table, step, begin, name, block");
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres() {
    let place = Place::new("postgres");
    made_here(&place).await;
    for (rest, made) in [
        ("biz_type=x&schema=elsewhere&create=true", "elsewhere.id_generator"),
        ("kind=auto&name=tickets&schema=anew&create=true", "anew.tickets"),
    ] {
        let other = place.open(rest).await.unwrap();
        assert_eq!(other.next().await.unwrap().number(), Some(1));
        assert_eq!(place.sql(&format!("SELECT count(*) FROM {made}")), "1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql() {
    made_here(&Place::new("mariadb")).await;
}
