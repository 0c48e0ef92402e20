//! Worker numbers that are leased, lost, and leased again.

use std::time::Duration;

use linchpin::Kind;
use linchpin::coord::When;
use linchpin::id::Ids;
use tokio::time::{Instant, sleep, timeout};

use super::tools::*;
use crate::tools::{LONG, MOMENT, SOON, assert_kind, lease};
use crate::world::Issuer;

pub(super) async fn worker_numbers_run_out_and_come_back(s: Issuer) {
    let options = "worker_bits=1&datacenter_bits=0&name=shop";
    let (one, other) = (s.try_open(0, options).await.unwrap(), s.try_open(0, options).await.unwrap());
    let error = assert_kind(s.try_open(0, options).await, Kind::Limited);
    assert!(error.to_string().contains("from 0 to 1 of \"shop\""), "{error} names the range");
    assert!(error.remedy().is_some(), "{error}");
    let mut seen = Seen::default();
    seen.add(draw(&one, 1_000).await);
    seen.add(draw(&other, 1_000).await);
    // Another name has numbers of its own.
    let apart = s.try_open(0, "worker_bits=1&datacenter_bits=0&name=stock").await.unwrap();
    draw(&apart, 1).await;
    one.close().await;
    let next = timeout(lease(), s.try_open(0, options)).await.expect("at once").expect("it was given back");
    seen.add(draw(&next, 1_000).await);
    assert_kind(s.try_open(0, options).await, Kind::Limited);
}

/// As if its key had been removed by hand: another has the number before the holder hears of that.
pub(super) async fn a_number_taken_away_is_its_new_holders_alone(s: Issuer) {
    let (clock, shared) = clock();
    let options = format!("worker_bits=0&datacenter_bits=0&ttl={}s", 4 * lease().as_secs());
    let coord = s.coord.as_ref().expect("numbers are leased from it");
    let (old, mut seen) = (s.at(&shared, &options).await.unwrap(), Seen::default());
    seen.add(draw(&old, 100).await);
    assert!(coord.delete("worker/snowflake/0", When::Always).await.unwrap(), "it has the only number");
    // Past the time that its ids may have, so that the next holder needn't wait.
    clock.shift(60_000);
    let new = s.at(&shared, &options).await.unwrap();
    let started = Instant::now();
    while started.elapsed() < lease() {
        // Both begin with the same millisecond, and one of them has the right to.
        clock.shift(1);
        if let Ok(batch) = old.next_n(5).await {
            seen.add(batch);
            panic!("the old holder issues {:?} after its number was given to another", started.elapsed());
        }
        seen.add(draw(&new, 5).await);
        sleep(MOMENT / 4).await;
    }
    new.close().await;
    clock.shift(1);
    let again = until_issued(&old);
    seen.add(timeout(LONG, again).await.expect("it leases the number again"));
}

async fn until_issued(ids: &Ids) -> Vec<linchpin::id::Id> {
    loop {
        match ids.next_n(10).await {
            Ok(batch) => return batch.collect(),
            Err(error) => assert_ne!(error.kind(), Kind::Closed, "{error}"),
        }
        sleep(MOMENT / 2).await;
    }
}

pub(super) async fn ids_stop_before_a_silent_server_leases_their_number_again(s: Issuer) {
    let ttl = lease() * 2;
    let ids = s.try_open(0, &short_lease()).await.unwrap();
    let mut seen = Seen::default();
    seen.add(draw(&ids, 100).await);
    s.server().freeze().await;
    let (frozen, mut stopped) = (Instant::now(), None);
    while frozen.elapsed() < ttl + MOMENT * 2 {
        match timeout(SOON, ids.next()).await.expect("never a hang") {
            Ok(id) => {
                assert!(
                    stopped.is_none(),
                    "issued again {:?} after the server fell silent",
                    frozen.elapsed()
                );
                seen.add([id]);
            }
            Err(error) => {
                assert_eq!(error.kind(), Kind::Unavailable, "{error}");
                assert!(error.remedy().is_some(), "{error}");
                stopped.get_or_insert(frozen.elapsed());
            }
        }
        sleep(Duration::from_millis(10)).await;
    }
    let stopped = stopped.expect("it stops");
    assert!(stopped < ttl, "stopped only after {stopped:?}, with a lease of {ttl:?}");
    s.server().thaw().await;
    seen.add(timeout(LONG, until_issued(&ids)).await.expect("it goes on once the server does"));
}
