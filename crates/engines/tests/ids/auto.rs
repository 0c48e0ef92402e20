//! The database's own auto-increment.

use linchpin_core::Kind;

use crate::place::{Place, numbers, race, said};

/// Also numbers that others draw lie between ours, and none comes again after a kill.
async fn auto(place: &Place, draw: &str, undo: &str) {
    let error = place.open("kind=auto&name=tickets").await.unwrap_err();
    said(&error, Kind::NotFound, "tickets");
    let url = place.with("kind=auto&name=tickets&create=true&block=5");
    let all = race(&url, 4, 500).await;
    assert_eq!(all.first(), Some(&1));
    let theirs: i64 = place.sql(draw).parse().unwrap();
    place.sql(undo);
    assert!(!all.contains(&theirs));
    let ids = place.open("kind=auto&name=tickets").await.unwrap();
    let before = numbers(&ids, 2500).await;
    assert!(before.iter().all(|number| *number > theirs) && before.is_sorted());
    if let Some(server) = &place.server {
        server.kill().unwrap();
        server.restart().unwrap();
    }
    let ids = place.open("kind=auto&name=tickets").await.unwrap();
    let after = numbers(&ids, 10).await;
    assert!(after[0] > *before.last().unwrap(), "{} came again", after[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite() {
    let place = Place::new("sqlite");
    place.sql("CREATE TABLE other(id INTEGER)");
    auto(
        &place,
        "SELECT seq + 1 FROM sqlite_sequence WHERE name = 'tickets'",
        "INSERT INTO tickets DEFAULT VALUES; DELETE FROM tickets",
    )
    .await;
    place.sql("CREATE TABLE plain(id INTEGER PRIMARY KEY)");
    said(&place.open("kind=auto&name=plain").await.unwrap_err(), Kind::Config, "no AUTOINCREMENT");
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres() {
    let place = Place::new("postgres");
    auto(&place, "SELECT nextval('tickets')", "SELECT 1").await;
    place.sql(
        "CREATE TABLE users(id bigserial PRIMARY KEY, name text); INSERT INTO users(name) VALUES ('Ada')",
    );
    let ids = place.open("kind=auto&name=users_id_seq&block=1").await.unwrap();
    assert_eq!(numbers(&ids, 3).await, [2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql() {
    let place = Place::new("mariadb");
    auto(&place, "INSERT INTO tickets() VALUES (); SELECT last_insert_id()", "DELETE FROM tickets").await;
    assert_eq!(place.sql("SELECT count(*) FROM tickets"), "0");
}
