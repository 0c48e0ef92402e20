//! A setting changes, and five processes see it at once. Then somebody writes nonsense: they keep the last good value.
//!
//! ```console
//! $ cargo run -p linchpin-examples --bin live_config [URL]
//! ```

use std::time::Duration;

use linchpin::coord::{Coord, When};
use linchpin::{Error, Kind, Result};
use linchpin_examples::{Meeting, ended};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

const WATCHERS: usize = 5;
/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Limits {
    orders_per_minute: u32,
}

#[tokio::main]
async fn main() -> Result<()> {
    let meeting = Meeting::open().await?;
    let args: Vec<String> = std::env::args().skip(2).collect();
    if let [place, number] = args.as_slice() {
        return follow(meeting.coord, place.clone(), number.clone()).await;
    }
    let place = format!("shop-{}", std::process::id());
    let outcome = lead(&meeting, &place).await;
    for entry in meeting.coord.list(&format!("watchers/{place}/")).await? {
        meeting.coord.delete(&entry.key, When::Always).await?;
    }
    outcome
}

async fn lead(meeting: &Meeting, place: &str) -> Result<()> {
    let (coord, config, key) = (&meeting.coord, meeting.coord.config(), format!("{place}/limits"));
    config.set(&key, &Limits { orders_per_minute: 10 }, When::Absent).await?;
    let watchers: Vec<_> = (0..WATCHERS)
        .map(|n| {
            let number = n.to_string();
            meeting.start(&[place, &number], follow(coord.clone(), place.to_owned(), number.clone()))
        })
        .collect();
    seen_by_all(coord, place, "10").await?;
    for orders_per_minute in [20, 30] {
        let changed = Instant::now();
        config.set(&key, &Limits { orders_per_minute }, When::Always).await?;
        seen_by_all(coord, place, &orders_per_minute.to_string()).await?;
        println!("all {WATCHERS} have seen {orders_per_minute} after {:?}", changed.elapsed());
    }
    // Not by this API: it writes nothing that isn't a value.
    coord.put(&format!("config/{key}"), "no number at all", When::Always).await?;
    seen_by_all(coord, place, "30, and a problem").await?;
    println!("all {WATCHERS} keep 30, and say that what is there now can't be read");
    config.set(&key, &Limits { orders_per_minute: 0 }, When::Always).await?;
    for watcher in watchers {
        ended(watcher).await?;
    }
    config.remove(&key, When::Always).await.map(drop)
}

/// Waits until every watcher has said that it sees this.
async fn seen_by_all(coord: &Coord, place: &str, what: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let watchers = coord.list(&format!("watchers/{place}/")).await?;
        if watchers.iter().filter(|watcher| watcher.value == what).count() == WATCHERS {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            return Err(Error::new(Kind::Timeout, format!("not everybody saw {what}: {watchers:?}")));
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// Says what it sees, until the limit is zero.
async fn follow(coord: Coord, place: String, number: String) -> Result<()> {
    let mut limits = coord.config().watch::<Limits>(&format!("{place}/limits")).await?;
    let mut last = Instant::now();
    while last.elapsed() < PATIENCE {
        let seen = limits.value().map_or(0, |limits| limits.orders_per_minute);
        let said =
            if limits.problem().is_some() { format!("{seen}, and a problem") } else { seen.to_string() };
        coord.put(&format!("watchers/{place}/{number}"), said, When::Always).await?;
        if seen == 0 {
            return Ok(());
        }
        // A problem is no change: it is asked for now and then.
        if timeout(Duration::from_millis(50), limits.changed()).await.is_ok() {
            last = Instant::now();
        }
    }
    Err(Error::new(Kind::Timeout, "the setting doesn't change any more"))
}
