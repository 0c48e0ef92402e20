//! Blocks by `INCRBY`.

use linchpin_core::Kind;

use crate::place::{Place, numbers, open, race, said};

fn cli(place: &Place, words: &[&str]) -> String {
    let port = place.server.as_ref().unwrap().ports()[0].to_string();
    let mut command = std::process::Command::new(linchpin_harness::locate("redis-cli").unwrap());
    let output = command.args(["-p", &port]).args(words).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn counters() {
    let place = Place::new("redis");
    let all = race(&place.with("counter=orders&block=10&prefix=shop"), 8, 500).await;
    assert_eq!(all.first(), Some(&1));
    let before: i64 = cli(&place, &["GET", "shop:orders"]).parse().unwrap();
    assert!(before >= *all.last().unwrap());
    let theirs: i64 = cli(&place, &["INCR", "shop:orders"]).parse().unwrap();
    let ids = place.open("counter=orders&block=10&prefix=shop").await.unwrap();
    assert_eq!(ids.next().await.unwrap().number(), Some(theirs + 1));
    cli(&place, &["SET", "nearly", "9223372036854775797"]);
    let nearly = place.open("counter=nearly&block=10").await.unwrap();
    assert_eq!(numbers(&nearly, 10).await.last(), Some(&i64::MAX));
    said(&nearly.next().await.unwrap_err(), Kind::Limited, "used up");
    cli(&place, &["SET", "text", "hello"]);
    cli(&place, &["RPUSH", "list", "1"]);
    for name in ["text", "list"] {
        let error = nearly.counter(name).unwrap().next().await.unwrap_err();
        said(&error, Kind::Conflict, "holds something else");
    }
    // The server loses what it had.
    cli(&place, &["DEL", "shop:orders"]);
    said(&ids.next_n(50).await.unwrap_err(), Kind::Corrupt, "went back");
    for (rest, part) in [("block=0", "block=0"), ("counter=", "empty"), ("conter=x", "counter, block")] {
        said(&open(&place.with(rest)).await.unwrap_err(), Kind::Config, part);
    }
}
