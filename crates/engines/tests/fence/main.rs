//! The rule of [`linchpin_core::coord::fence`], with a holder that is really frozen: another process takes a lock, stops past its
//! lease, and writes when it goes on. The lock went to another meanwhile, who wrote: what is fenced stays as that left it.
//!
//! `cargo test -p linchpin-engines --features postgres,mysql,redis,zookeeper,live --test fence`

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod holder;
mod store;

use std::time::Duration;

use linchpin_core::Kind;
use linchpin_harness::{Running, find};

use crate::holder::{Holder, open};
use crate::store::Store;

fn start(engine: &str) -> Running {
    find(engine).unwrap().start().unwrap()
}

/// `lock` is where the lock is, `store` where what it protects is.
async fn the_frozen_one_is_refused(lock: &str, store: &str) {
    let protected = Store::open(store).await;
    protected.make().await;
    let mut frozen = Holder::start(lock, store).await;
    let first = frozen.acquire().await;
    assert_eq!(frozen.write("first").await, Ok(()));
    assert_eq!(protected.read().await, ("first".to_owned(), "first".to_owned(), first.0));

    frozen.freeze();
    // It is in its pipe: the first thing it does when it goes on, without another look at the lock.
    frozen.ask("write late").await;
    let coord = open(lock).await;
    let guard = coord.lock("stock").acquire_within(Duration::from_secs(60)).await.unwrap();
    assert!(guard.token() > first, "{} after {first}", guard.token());
    protected.write("second", guard.token()).await.unwrap();

    frozen.thaw();
    // The lock alone wouldn't have kept it out: what isn't fenced is overwritten.
    assert_eq!(frozen.answer().await, "Fenced");
    assert_eq!(protected.read().await, ("second".to_owned(), "late".to_owned(), guard.token().0));
    // The holder goes on, and so does a later one.
    protected.write("third", guard.token()).await.unwrap();
    guard.release().await.unwrap();
    let third = coord.lock("stock").acquire_within(Duration::from_secs(60)).await.unwrap();
    protected.write("fourth", third.token()).await.unwrap();
    let error = protected.write("again", first).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Fenced, "{error}");
    assert!(error.remedy().is_some(), "{error}");
    assert_eq!(protected.read().await.0, "fourth");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_postgres() {
    let server = start("postgres");
    the_frozen_one_is_refused(server.url(), server.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_mariadb() {
    let server = start("mariadb");
    the_frozen_one_is_refused(server.url(), server.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_redis_under_a_lock_of_zookeeper() {
    let (servers, redis) = (start("zookeeper-3"), start("redis"));
    the_frozen_one_is_refused(servers.url(), redis.url()).await;
}
