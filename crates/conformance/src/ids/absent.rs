//! Proof of absence: what is declared absent of ids, isn't there. Each check panics if it is.

use linchpin::Kind;
use linchpin::id::uuid_time;

use super::tools::*;
use crate::case::Need;
use crate::coord;
use crate::tools::assert_kind;
use crate::world::Issuer;

/// Checks that `need` is absent, and says how that showed.
pub(crate) async fn prove(s: Issuer, need: Need) -> &'static str {
    match need {
        Need::Rising => falls(&s).await,
        Need::Durable => forgotten(s).await,
        Need::Shared => shared_by_nobody(&s).await,
        Need::Timed => {
            let (clock, shared) = clock();
            let ids = s.at(&shared, "").await.unwrap();
            let id = ids.next().await.unwrap();
            assert_kind(ids.parse(&id.to_string()), Kind::Unsupported);
            clock.shift(-86_400_000);
            draw(&ids, 10).await;
            "an id isn't taken apart, and a clock set back doesn't matter"
        }
        Need::Leased => {
            assert_kind(s.try_open(0, "coord=memory%3A%2F%2F").await, Kind::Config);
            "coord= is refused"
        }
        Need::Filed => {
            let option = format!("state={}", s.dir().join("another").display());
            assert_kind(s.try_open(0, &option).await, Kind::Config);
            "state= is refused"
        }
        Need::Counted => {
            let ids = s.open(0).await;
            assert_kind(ids.counter("orders"), Kind::Unsupported);
            assert_kind(ids.segment("orders", None).await, Kind::Unsupported);
            "they have no counters"
        }
        Need::Tabled => {
            assert_kind(s.try_open(0, "table=theirs").await, Kind::Config);
            "table= is refused"
        }
        // Worker numbers are kept apart by what is lost.
        Need::Failover => coord::absent::prove(s.into_space(), need).await,
        _ => panic!("{} says nothing about ids", need.name()),
    }
}

async fn forgotten(mut s: Issuer) -> &'static str {
    let (_, shared) = clock();
    let ids = s.at(&shared, "").await.unwrap();
    let before = draw(&ids, 1).await;
    ids.close().await;
    drop((ids, s.coord.take()));
    assert_eq!(draw(&s.at(&shared, "").await.unwrap(), 1).await, before);
    "an id comes again once nobody has the engine open"
}

async fn shared_by_nobody(s: &Issuer) -> &'static str {
    let ids = s.open(0).await;
    let mine = draw(&ids, 1).await[0].to_string();
    let theirs = ask(&mut s.child(0, "").await, 1).await.remove(0);
    if s.source.can.contains(&Need::Leased) {
        let [mine, theirs] = [mine, theirs].map(|id| ids.parse(&id).unwrap());
        assert_eq!((mine.datacenter, mine.worker), (theirs.datacenter, theirs.worker));
        return "another process leases the same number";
    }
    assert_eq!(mine, theirs);
    "another process draws the same number"
}

async fn falls(s: &Issuer) -> &'static str {
    let ids = draw(&s.open(0).await, 1_000).await;
    if !ids.is_sorted() {
        return "of 1,000 ids some are smaller than the one before";
    }
    // What comes first in it comes round every seven minutes: of a later time there is a smaller one.
    let now = ids[999].to_string();
    let middle = u32::from_str_radix(&now[9..13], 16).unwrap();
    let later = format!("00000000-{:04x}{}", middle + 1, &now[13..]);
    assert!(uuid_time(&later).unwrap() > uuid_time(&now).unwrap(), "{later} is later than {now}");
    assert!(later < now);
    "a later one may be smaller: the low bits of the time come first"
}
