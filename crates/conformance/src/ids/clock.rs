//! Clocks that stand still and jump.

use std::time::Duration;

use linchpin::Kind;
use tokio::time::{sleep, timeout};

use super::tools::*;
use crate::tools::{MOMENT, SOON, assert_kind};
use crate::world::Issuer;

/// Ids of one millisecond: 12 bits.
const FULL: usize = 4_096;

pub(super) async fn a_full_millisecond_is_waited_for(s: Issuer) {
    let (clock, shared) = clock();
    let (ids, mut seen) = (s.at(&shared, "").await.unwrap(), Seen::default());
    clock.shift(1);
    let all = numbers(&ids, FULL).await;
    assert!(all.windows(2).all(|pair| pair[1] == pair[0] + 1), "all of one millisecond");
    seen.add(&all);
    // The clock stands still: there are no more, and that is said.
    let error = timeout(SOON, ids.next()).await.expect("never a hang").expect_err("it would be a repeat");
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(error.to_string().contains("stands still"), "{error}");
    let waits = tokio::spawn({
        let ids = ids.clone();
        async move { draw(&ids, FULL).await }
    });
    sleep(MOMENT).await;
    assert!(!waits.is_finished());
    clock.shift(1);
    seen.add(timeout(SOON, waits).await.expect("the clock went on").unwrap());
    assert_eq!(seen.len(), 2 * FULL);
}

pub(super) async fn a_clock_a_little_behind_is_waited_for(s: Issuer) {
    let (clock, shared) = clock();
    let (ids, mut seen) = (s.at(&shared, "").await.unwrap(), Seen::default());
    clock.shift(10);
    let before = draw(&ids, 10).await;
    clock.shift(-1);
    let waits = tokio::spawn({
        let ids = ids.clone();
        async move { draw(&ids, 10).await }
    });
    sleep(MOMENT).await;
    assert!(!waits.is_finished(), "the clock is behind what was issued");
    clock.shift(1);
    let after = timeout(SOON, waits).await.expect("the clock has caught up").unwrap();
    assert!(after > before, "{after:?} after {before:?}");
    seen.add(before);
    seen.add(after);
}

pub(super) async fn a_clock_far_behind_is_refused(s: Issuer) {
    let (clock, shared) = clock();
    let (ids, mut seen) = (s.at(&shared, "").await.unwrap(), Seen::default());
    clock.shift(10);
    seen.add(draw(&ids, 100).await);
    for back in [5_000, 3_600_000] {
        clock.shift(-back);
        let error = timeout(SOON, ids.next()).await.expect("never a hang").expect_err("it may be a repeat");
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        assert!(error.to_string().contains("behind the last id"), "{error}");
        assert!(error.remedy().is_some(), "{error}");
        clock.shift(back);
        seen.add(draw(&ids, 100).await);
    }
}

/// The same worker number by all means, and the clock may be before what it issued.
pub(super) async fn a_restart_with_the_clock_set_back_repeats_nothing(s: Issuer) {
    let (clock, shared) = clock();
    let options = one_number();
    let (ids, mut seen) = (s.at(&shared, &options).await.unwrap(), Seen::default());
    clock.shift(10);
    seen.add(draw(&ids, 100).await);
    ids.close().await;
    assert_kind(ids.next().await, Kind::Closed);
    clock.shift(-3_600_000);
    let error = match s.at(&shared, &options).await {
        Err(error) => error,
        Ok(ids) => {
            clock.shift(3_600_000);
            seen.add(draw(&ids, 100).await);
            panic!("issues with the clock an hour behind");
        }
    };
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(error.to_string().contains("behind"), "{error}");
    // By so little that it is waited for: nothing of the last id's millisecond is issued again.
    clock.shift(3_599_999);
    let waits = tokio::spawn(async move {
        let ids = s.at(&shared, &options).await.unwrap();
        draw(&ids, 100).await
    });
    sleep(MOMENT).await;
    assert!(!waits.is_finished(), "the clock is behind what was issued");
    for _ in 0..4 {
        clock.shift(1);
        sleep(Duration::from_millis(20)).await;
    }
    seen.add(timeout(SOON, waits).await.expect("the clock has caught up").unwrap());
}
