//! Coordination on SQLite, PostgreSQL and MariaDB as they run: what the suite, which sees one engine through its contract,
//! doesn't look at.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use linchpin_core::Kind;
use linchpin_core::coord::{Change, CoordEngine, Entry, LeaseId, Rev, Watched, When};
use linchpin_engines::{relational::coord::KEPT, sql, sqlite};
use linchpin_harness::{Link, Running, find};
use tokio::time::sleep;

type Engine = Arc<dyn CoordEngine>;

const SECOND: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(10);

async fn open(url: &str) -> Engine {
    let parsed = url.parse().unwrap();
    match url.starts_with("sqlite") {
        true => sqlite::open_coord(&parsed).await.unwrap(),
        false => sql::open_coord(&parsed).await.unwrap(),
    }
}

async fn put(coord: &Engine, key: &str, value: &str) -> Rev {
    coord.put(key, Bytes::copy_from_slice(value.as_bytes()), When::Always, None).await.unwrap()
}

async fn lend(coord: &Engine, key: &str, lease: &LeaseId) -> Rev {
    coord.put(key, Bytes::new(), When::Always, Some(lease)).await.unwrap()
}

async fn keys(coord: &Engine, prefix: &str) -> Vec<String> {
    coord.list(prefix, None, usize::MAX).await.unwrap().into_iter().map(|entry| entry.key).collect()
}

/// What comes until it is as many changes.
async fn told(watched: &mut Watched, count: usize) -> Vec<Change> {
    let (began, mut all) = (Instant::now(), Vec::new());
    while all.len() < count {
        assert!(began.elapsed() < SOON, "{} of {count} changes", all.len());
        all.extend(watched.changes.next(SECOND).await.unwrap());
    }
    all
}

/// Races of eight tasks over two handles; the tables are made by both at once.
async fn no_increment_is_lost(url: &str) {
    let (one, two) = tokio::join!(open(url), open(url));
    let tasks = (0..8).map(|n| {
        let coord = if n % 2 == 0 { one.clone() } else { two.clone() };
        tokio::spawn(async move {
            let mut revs = Vec::new();
            while revs.len() < 25 {
                let there: Option<Entry> = coord.get("count").await.unwrap();
                let when = there.as_ref().map_or(When::Absent, |entry| When::Is(entry.rev));
                let number: u64 =
                    there.map_or(0, |entry| std::str::from_utf8(&entry.value).unwrap().parse().unwrap());
                match coord.put("count", (number + 1).to_string().into(), when, None).await {
                    Ok(rev) => revs.push(rev),
                    Err(error) => assert_eq!(error.kind(), Kind::Conflict, "{error}"),
                }
            }
            revs
        })
    });
    let mut revs: Vec<Rev> =
        futures_util::future::join_all(tasks).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(one.get("count").await.unwrap().unwrap().value, "200");
    revs.sort();
    revs.dedup();
    assert_eq!(revs.len(), 200, "no revision twice");
}

/// A watch that nobody looked at for longer than deletions are kept.
async fn a_watch_catches_up_when_deletions_are_forgotten(url: &str) {
    let (coord, other) = (open(url).await, open(url).await);
    let (a, gone) = (put(&coord, "w/a", "1").await, put(&coord, "w/gone", "1").await);
    let mut watched = coord.watch("w/").await.unwrap();
    assert_eq!(watched.snapshot.len(), 2);
    other.delete("w/gone", When::Is(gone)).await.unwrap();
    put(&other, "w/new", "1").await;
    let ballast = (0..64).map(|n| {
        let other = other.clone();
        tokio::spawn(async move {
            for round in 0..=KEPT / 64 + 20 {
                put(&other, &format!("ballast/{n}"), &round.to_string()).await;
            }
        })
    });
    futures_util::future::join_all(ballast).await.into_iter().for_each(Result::unwrap);
    let last = put(&other, "w/a", "2").await;
    assert!(last.0 > a.0 + KEPT);
    let changes = told(&mut watched, 3).await;
    let seen: Vec<_> = changes.iter().map(|c| (c.key(), matches!(c, Change::Put(_)))).collect();
    assert!(seen.contains(&("w/gone", false)) && seen.contains(&("w/new", true)), "{seen:?}");
    assert!(seen.contains(&("w/a", true)) && seen.len() == 3, "{seen:?}");
    put(&other, "w/b", "1").await;
    assert_eq!(told(&mut watched, 1).await[0].key(), "w/b");
}

/// More keys under one lease, and more leases, than one transaction ends.
async fn many_keys_and_leases_end(url: &str) {
    let (coord, other) = (open(url).await, open(url).await);
    let lease = coord.grant(SECOND * 60).await.unwrap();
    let filling = (0..1200).map(|n| {
        let (coord, lease) = (coord.clone(), lease.clone());
        tokio::spawn(async move { lend(&coord, &format!("m/{n}"), &lease).await })
    });
    futures_util::future::join_all(filling).await;
    let mut watched = other.watch("m/").await.unwrap();
    assert_eq!(watched.snapshot.len(), 1200);
    let began = Instant::now();
    coord.revoke(&lease).await.unwrap();
    assert!(keys(&other, "m/").await.is_empty(), "all of them vanish at once");
    assert_eq!(coord.renew(&lease).await.unwrap_err().kind(), Kind::NotFound);
    let changes = told(&mut watched, 1200).await;
    assert!(changes.is_sorted_by(|a, b| a.rev() < b.rev()), "a revision for each");
    assert!(began.elapsed() < 3 * SECOND, "{:?}", began.elapsed());

    let granting = (0..150).map(|n| {
        let coord = coord.clone();
        tokio::spawn(async move {
            let lease = coord.grant(SECOND).await.unwrap();
            lend(&coord, &format!("m/{n}"), &lease).await;
        })
    });
    futures_util::future::join_all(granting).await.into_iter().for_each(Result::unwrap);
    let began = Instant::now();
    told(&mut watched, 300).await;
    // One second to live, one of slack.
    assert!(began.elapsed() < 2 * SECOND, "{:?}", began.elapsed());
}

/// A holder in another handle that stops renewing: who waits is told by itself, and takes the key.
async fn the_end_of_a_lease_is_told_between_handles(url: &str) {
    let (holder, waiter) = (open(url).await, open(url).await);
    let lease = holder.grant(SECOND).await.unwrap();
    let held = lend(&holder, "held/a", &lease).await;
    let mut watched = waiter.watch("held/").await.unwrap();
    assert_eq!(watched.snapshot[0].lease, Some(lease.clone()));
    // It runs anew from somewhere between the question and the answer.
    let (mut asked, mut renewed) = (Instant::now(), Instant::now());
    for _ in 0..6 {
        assert_eq!(watched.changes.next(SECOND / 4).await.unwrap(), []);
        asked = Instant::now();
        holder.renew(&lease).await.unwrap();
        renewed = Instant::now();
    }
    let changes = told(&mut watched, 1).await;
    let (least, most) = (renewed.elapsed(), asked.elapsed());
    assert!(most > SECOND * 9 / 10 && least < 2 * SECOND, "{least:?} to {most:?}");
    assert!(matches!(&changes[0], Change::Delete { rev, .. } if *rev > held), "{changes:?}");
    let mine = waiter.put("held/a", Bytes::new(), When::Absent, None).await.unwrap();
    assert!(mine > held);
    assert_eq!(holder.renew(&lease).await.unwrap_err().kind(), Kind::NotFound);
}

/// How long it takes from a change in one handle until a watch in another has it: the best of some.
async fn news_travels(url: &str, within: Duration) {
    let (here, there) = (open(url).await, open(url).await);
    let mut watched = here.watch("n/").await.unwrap();
    let mut took = Vec::new();
    for n in 0..8 {
        let there = there.clone();
        let writing = tokio::spawn(async move {
            sleep(SECOND / 5).await;
            put(&there, &format!("n/{n}"), "x").await;
            Instant::now()
        });
        told(&mut watched, 1).await;
        took.push(writing.await.unwrap().elapsed());
    }
    took.sort();
    println!("{}: news came after {took:?}", url.split(':').next().unwrap());
    assert!(took[4] < within, "{took:?}");
}

async fn all(url: &str, news: Duration) {
    no_increment_is_lost(url).await;
    the_end_of_a_lease_is_told_between_handles(url).await;
    news_travels(url, news).await;
    many_keys_and_leases_end(url).await;
    a_watch_catches_up_when_deletions_are_forgotten(url).await;
}

/// The server's own client: what it prints, a line per row, columns separated by tabs.
fn client(url: &str, statement: &str) -> String {
    let (_, rest) = url.split_once("://").unwrap();
    let (user, rest) = rest.split_once('@').unwrap();
    let (address, database) = rest.split_once('/').unwrap();
    let (host, port) = address.split_once(':').unwrap();
    let output = if url.starts_with("postgres") {
        let mut psql = Command::new("psql");
        psql.args(["-h", host, "-p", port, "-U", user, "-d", database, "-X", "-A", "-t", "-F", "\t"]);
        psql.args(["-v", "ON_ERROR_STOP=1", "-c", statement]).output()
    } else {
        let mut mariadb = Command::new("mariadb");
        mariadb.args(["--no-defaults", "-h", host, "-P", port, "-u", user, "-N", "-B", "-r"]);
        mariadb.args(["-e", statement, database]).output()
    };
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Two in one database, apart by their prefix; and what other programs see of it.
async fn prefixes_keep_keys_apart(url: &str) {
    let (plain, other) = (open(url).await, open(&format!("{url}?prefix=eu-")).await);
    let lower = put(&plain, "shop/limits", "10").await;
    assert!(put(&other, "shop/limits", "20").await > lower);
    assert_eq!(keys(&other, "").await, ["shop/limits"]);
    assert_eq!(other.watch("shop").await.unwrap().snapshot[0].value, "20");
    assert_eq!(plain.get("shop/limits").await.unwrap().unwrap().value, "10");
    assert_eq!(other.get("eu-shop/limits").await.unwrap(), None);
    let sql = "SELECT rev FROM lp_keys WHERE name = 'shop/limits'";
    assert_eq!(client(url, sql), lower.to_string());
}

async fn report(url: &str) -> String {
    let findings = sql::examine(url.parse().unwrap()).await;
    findings.into_iter().find(|finding| finding.name == "tables").unwrap().text
}

async fn other_versions_are_refused(url: &str) {
    assert_eq!(report(url).await, "coordination version 1");
    client(url, "UPDATE lp_rev SET version = 99");
    let error = sql::open_coord(&url.parse().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(report(url).await.contains("version 99"));
    client(url, "UPDATE lp_rev SET version = 1");
}

/// What a handle with one waiting watch asks of the server in five quiet seconds.
async fn waiting_costs_little(url: &str, most: u64) {
    let coord = open(url).await;
    let mut watched = coord.watch("quiet/").await.unwrap();
    let waiting = tokio::spawn(async move { watched.changes.next(SECOND * 8).await.unwrap() });
    sleep(SECOND * 2).await;
    let count = || -> u64 {
        let sql = match url.starts_with("postgres") {
            true => "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()",
            false => {
                "SELECT variable_value FROM information_schema.global_status WHERE variable_name = 'QUESTIONS'"
            }
        };
        client(url, sql).parse().unwrap()
    };
    let before = count();
    sleep(SECOND * 5).await;
    let asked = count() - before;
    println!("{}: {asked} statements in five quiet seconds", url.split(':').next().unwrap());
    assert!(asked <= most, "{asked}");
    assert_eq!(waiting.await.unwrap(), []);
}

/// A value is as large as a packet allows; and a whole round of the longest keys fits into a small one.
async fn packets_are_kept_to(url: &str) {
    client(url, "SET GLOBAL max_allowed_packet = 1048576");
    let coord = open(url).await;
    let most = coord.caps().max_value;
    assert!(most > 1_000_000 && most < 1 << 20, "{most}");
    let big = |size| coord.put("big", Bytes::from(vec![0; size]), When::Always, None);
    assert_eq!(big(most + 1).await.unwrap_err().kind(), Kind::Invalid);
    big(most).await.unwrap();
    assert_eq!(coord.get("big").await.unwrap().unwrap().value.len(), most);
    let lease = coord.grant(SECOND * 60).await.unwrap();
    let long = "x".repeat(500);
    let puts = (0..600).map(|n| {
        let (coord, lease, key) = (coord.clone(), lease.clone(), format!("{long}{n}"));
        let value = Bytes::from(vec![0; 256]);
        tokio::spawn(async move { coord.put(&key, value, When::Absent, Some(&lease)).await.unwrap() })
    });
    futures_util::future::join_all(puts).await.into_iter().for_each(|put| assert!(put.is_ok()));
    let mut watched = coord.watch(&long).await.unwrap();
    coord.revoke(&lease).await.unwrap();
    told(&mut watched, 600).await;
    client(url, "SET GLOBAL max_allowed_packet = DEFAULT");
}

async fn revisions_survive_a_restart(server: &Running) {
    let coord = open(server.url()).await;
    let first = put(&coord, "r/a", "1").await;
    assert!(coord.delete("r/a", When::Is(first)).await.unwrap());
    server.kill().unwrap();
    server.restart().unwrap();
    let began = Instant::now();
    let again = loop {
        match coord.put("r/a", Bytes::new(), When::Absent, None).await {
            Ok(rev) => break rev,
            Err(error) => assert!(began.elapsed() < SOON, "{error}"),
        }
        sleep(SECOND / 10).await;
    };
    assert!(again.0 > first.0 + 1);
    assert_eq!(coord.get("r/a").await.unwrap().unwrap().created, again);
}

async fn server(engine: &str, news: Duration, most: u64) {
    let server = find(engine).unwrap().start().unwrap();
    let url = server.url().to_owned();
    all(&url, news).await;
    prefixes_keep_keys_apart(&url).await;
    other_versions_are_refused(&url).await;
    waiting_costs_little(&url, most).await;
    revisions_survive_a_restart(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres() {
    server("postgres", SECOND / 10, 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql() {
    server("mariadb", SECOND / 5, 150).await;
}

/// A large value comes slowly, for longer than a client may be silent in a transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_link_takes_a_large_value() {
    for engine in ["postgres", "mariadb"] {
        let server = find(engine).unwrap().start().unwrap();
        let port = server.ports()[0];
        let link = Link::to(port).unwrap();
        let coord = open(&server.url().replace(&format!(":{port}"), &format!(":{}", link.port()))).await;
        put(&coord, "a", "small").await;
        link.slow_down(2 << 20);
        let began = Instant::now();
        coord.put("a", vec![7; 5 << 20].into(), When::Always, None).await.unwrap();
        assert!(began.elapsed() > SECOND * 2, "{engine}: {:?} isn't slow", began.elapsed());
        assert_eq!(coord.get("a").await.unwrap().unwrap().value.len(), 5 << 20, "{engine}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_settings() {
    let server = find("mariadb").unwrap().start().unwrap();
    let here = open(server.url()).await;
    // What the server takes for local time is none of our business.
    client(server.url(), "SET GLOBAL time_zone = '-11:00'");
    let there = open(server.url()).await;
    let lease = here.grant(SECOND * 60).await.unwrap();
    lend(&here, "a", &lease).await;
    assert!(there.get("a").await.unwrap().is_some());
    let lease = there.grant(SECOND).await.unwrap();
    lend(&there, "b", &lease).await;
    assert!(here.get("b").await.unwrap().is_some());
    sleep(SECOND * 5 / 4).await;
    assert_eq!(keys(&here, "").await, ["a"]);
    packets_are_kept_to(server.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_file() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/coord.db", folder.path().display());
    all(&url, SECOND / 10).await;
    let findings = sqlite::examine(url.parse().unwrap()).await;
    let file = findings.iter().find(|finding| finding.name == "file").unwrap();
    assert!(file.text.ends_with("coordination version 1"), "{findings:?}");
}

/// A bus and coordination in one file, each with tables of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_bus_is_beside_it_in_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/shop.db", folder.path().display());
    let bus = sqlite::open(&url.parse().unwrap()).await.unwrap();
    let coord = open(&url).await;
    bus.ensure("orders", &Default::default()).await.unwrap();
    let rev = put(&coord, "a", "1").await;
    drop(coord);
    assert_eq!(open(&url).await.get("a").await.unwrap().unwrap().rev, rev);
    bus.close().await.unwrap();
}
