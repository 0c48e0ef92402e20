//! Snowflakes under clocks that jump, and under coordination that comes and goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, sleep};

use crate::coord::{Caps, Coord, CoordEngine, Entry, LeaseId, MemoryCoord, Rev, Watched, When};
use crate::id::{Ids, Parts};
use crate::scheme::{Scheme, Ways};
use crate::time::{ManualClock, TokioClock, from_millis};
use crate::{Error, Info, Kind, Result};

/// The memory engine behind a link that can be cut.
#[derive(Debug)]
struct Link {
    memory: Arc<dyn CoordEngine>,
    down: AtomicBool,
    renewals: AtomicU64,
}

static LINKS: Mutex<BTreeMap<String, Arc<Link>>> = Mutex::new(BTreeMap::new());

/// `link://name`.
const SCHEMES: &[Scheme] = &[Scheme {
    name: "link",
    feature: "",
    ways: Some(Ways {
        coord: Some(|url| Box::pin(async move { Ok(link(&url.hosts()[0]) as _) })),
        ..Ways::NONE
    }),
}];

fn link(name: &str) -> Arc<Link> {
    let fresh = || {
        Arc::new(Link {
            memory: MemoryCoord::new(),
            down: AtomicBool::new(false),
            renewals: AtomicU64::new(0),
        })
    };
    LINKS.lock().unwrap().entry(name.to_owned()).or_insert_with(fresh).clone()
}

impl Link {
    fn cut(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    fn up(&self) -> Result<&Arc<dyn CoordEngine>> {
        let down = self.down.load(Ordering::SeqCst);
        if down { Err(Error::new(Kind::Unavailable, "the link is cut")) } else { Ok(&self.memory) }
    }
}

#[async_trait]
impl CoordEngine for Link {
    fn info(&self) -> &Info {
        self.memory.info()
    }
    fn caps(&self) -> Caps {
        self.memory.caps()
    }
    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        self.up()?.get(key).await
    }
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>> {
        self.up()?.list(prefix, after, limit).await
    }
    async fn put(&self, key: &str, value: Bytes, when: When, lease: Option<&LeaseId>) -> Result<Rev> {
        self.up()?.put(key, value, when, lease).await
    }
    async fn delete(&self, key: &str, when: When) -> Result<bool> {
        self.up()?.delete(key, when).await
    }
    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.up()?.grant(ttl).await
    }
    async fn renew(&self, lease: &LeaseId) -> Result<()> {
        self.renewals.fetch_add(1, Ordering::SeqCst);
        self.up()?.renew(lease).await
    }
    async fn revoke(&self, lease: &LeaseId) -> Result<()> {
        self.up()?.revoke(lease).await
    }
    async fn watch(&self, prefix: &str) -> Result<Watched> {
        self.up()?.watch(prefix).await
    }
}

const EPOCH: i64 = 1_525_705_533_000;

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(from_millis(EPOCH + 1_000_000)))
}

async fn open(url: &str, clock: &Arc<ManualClock>) -> Result<Ids> {
    Ids::open_with_clock(url, SCHEMES, clock.clone()).await
}

/// On the time that passes in the test.
async fn leased(url: &str) -> Result<Ids> {
    Ids::open_with_clock(url, SCHEMES, Arc::new(TokioClock::new())).await
}

async fn next(ids: &Ids) -> Parts {
    let id = ids.next().await.unwrap();
    ids.parse(&id.to_string()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_full_millisecond_is_waited_for_and_the_sequence_never_wraps() {
    let clock = clock();
    let ids = open("snowflake://?datacenter=31&worker=0", &clock).await.unwrap();
    let first: Vec<_> = ids.next_n(4096).await.unwrap().map(|id| id.number().unwrap()).collect();
    assert!(first.windows(2).all(|pair| pair[1] == pair[0] + 1));
    let waits = tokio::spawn({
        let ids = ids.clone();
        async move { next(&ids).await }
    });
    sleep(Duration::from_millis(50)).await;
    assert!(!waits.is_finished());
    clock.shift(1);
    let parts = waits.await.unwrap();
    assert_eq!((parts.time.as_millisecond(), parts.sequence), (EPOCH + 1_000_001, 0));
    assert_eq!((parts.datacenter, parts.worker), (31, 0));
    ids.next_n(4095).await.unwrap();
    let error = ids.next().await.unwrap_err();
    assert!(error.to_string().contains("stands still"), "{error}");
}

/// At the layout's limit, somebody may be late every time.
#[tokio::test(start_paused = true)]
async fn others_that_are_quicker_are_no_clock_that_stands_still() {
    let clock = clock();
    let ids = open("snowflake://?worker=1", &clock).await.unwrap();
    ids.next_n(4096).await.unwrap();
    let waits = tokio::spawn({
        let ids = ids.clone();
        async move { next(&ids).await }
    });
    for _ in 0..30 {
        sleep(Duration::from_millis(100)).await;
        clock.shift(1);
        ids.next_n(4096).await.unwrap();
    }
    assert!(!waits.is_finished());
    clock.shift(1);
    assert_eq!(waits.await.unwrap().sequence, 0);
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_back_is_waited_for_if_it_is_little_and_refused_if_it_is_much() {
    let clock = clock();
    let ids = open("snowflake://?worker=1", &clock).await.unwrap();
    let before = next(&ids).await;
    clock.shift(-1);
    let waits = tokio::spawn({
        let ids = ids.clone();
        async move { next(&ids).await }
    });
    sleep(Duration::from_millis(3)).await;
    assert!(!waits.is_finished());
    clock.shift(1);
    let after = waits.await.unwrap();
    assert_eq!((after.time, after.sequence), (before.time, before.sequence + 1));
    clock.shift(-5_000);
    let error = ids.next().await.unwrap_err();
    assert!(error.kind() == Kind::Unavailable && error.to_string().contains("5s behind"), "{error}");
    assert!(error.remedy().unwrap().contains("wait 5s"), "{error}");
    clock.shift(5_001);
    assert!(next(&ids).await.time > before.time);
}

#[tokio::test(start_paused = true)]
async fn a_jump_forward_is_harmless() {
    let clock = clock();
    let ids = open("snowflake://?worker=1", &clock).await.unwrap();
    let mut all = BTreeSet::new();
    for jump in [0, 3_600_000, -3_600_000, 0, 3_600_001] {
        clock.shift(jump);
        if let Ok(batch) = ids.next_n(100).await {
            all.extend(batch);
        }
    }
    assert_eq!(all.len(), 300, "all distinct, and none while the clock was an hour behind");
    clock.shift(-2_000_000_000);
    let error = ids.next().await.unwrap_err();
    assert!(error.kind() == Kind::Config && error.to_string().contains("start time"), "{error}");
    clock.shift(i64::from(u32::MAX) * 1000);
    assert_eq!(ids.next().await.unwrap_err().kind(), Kind::Limited);
}

#[tokio::test]
async fn a_restart_with_the_clock_set_back_repeats_nothing() {
    let folder = std::env::temp_dir().join(format!("linchpin-ids-{:x}", fastrand::u64(..)));
    std::fs::create_dir(&folder).unwrap();
    let url = format!("snowflake://?worker=1&state={}", folder.join("state").display());
    let clock = clock();
    let ids = open(&url, &clock).await.unwrap();
    let before = next(&ids).await;
    assert_eq!(open(&url, &clock).await.unwrap_err().kind(), Kind::Conflict);
    // Past what was stored ahead: it is stored anew, before an id has that time.
    clock.shift(60_000);
    let later = next(&ids).await.time;
    assert!(later > before.time);
    let before = later;
    let stored = std::fs::read_to_string(folder.join("state")).unwrap();
    let stored: i64 = stored.split_whitespace().nth(2).unwrap().parse().unwrap();
    assert!(stored >= before.as_millisecond(), "a crash now would leave {stored} behind");
    ids.close().await;
    assert_eq!(ids.next().await.unwrap_err().kind(), Kind::Closed);
    clock.shift(-5_000);
    let error = open(&url, &clock).await.unwrap_err();
    assert!(error.to_string().contains("5s behind"), "{error}");
    clock.shift(4_999);
    let ids = open(&url, &clock).await.unwrap();
    clock.shift(1);
    let waits = ids.next();
    tokio::pin!(waits);
    let early = tokio::time::timeout(Duration::from_millis(20), &mut waits).await;
    assert!(early.is_err(), "the time of the last id isn't used again");
    clock.shift(1);
    let after = ids.parse(&waits.await.unwrap().to_string()).unwrap();
    assert!(after.time > before);
    ids.close().await;
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test(start_paused = true)]
async fn worker_numbers_are_leased_lowest_first_and_run_out() {
    let url = "snowflake://?coord=link%3A%2F%2Fout&datacenter=3&worker_bits=1&name=shop";
    let (one, other) = (leased(url).await.unwrap(), leased(url).await.unwrap());
    let (a, b) = (next(&one).await, next(&other).await);
    assert_eq!([(a.datacenter, a.worker), (b.datacenter, b.worker)], [(3, 0), (3, 1)]);
    let error = leased(url).await.unwrap_err();
    assert!(
        error.kind() == Kind::Limited && error.to_string().contains("from 6 to 7 of \"shop\""),
        "{error}"
    );
    one.close().await;
    sleep(Duration::from_millis(2)).await;
    let next_one = leased(url).await.unwrap();
    let c = next(&next_one).await;
    assert!(c.worker == 0 && c.time > a.time);
    // Kept for longer than any lease lasts.
    sleep(Duration::from_secs(120)).await;
    assert_eq!((next(&other).await.worker, next(&next_one).await.worker), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_short_lease_is_renewed_three_times_in_its_length() {
    let ids = leased("snowflake://?coord=link%3A%2F%2Fshort&ttl=1s").await.unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(30) {
        next(&ids).await;
        sleep(Duration::from_millis(3)).await;
    }
    let renewals = link("short").renewals.load(Ordering::SeqCst);
    assert!((80..=100).contains(&renewals), "{renewals}");
}

#[tokio::test(start_paused = true)]
async fn issuing_stops_before_the_lease_can_end_and_goes_on_with_a_new_number() {
    let (url, link) = ("snowflake://?coord=link%3A%2F%2Flost&ttl=10s", link("lost"));
    let ids = leased(url).await.unwrap();
    let before = next(&ids).await;
    link.cut(true);
    let (cut, coord) = (Instant::now(), Coord::new(link.memory.clone()));
    let mut stopped = None;
    while !coord.list("worker/").await.unwrap().is_empty() {
        match ids.next().await {
            Ok(_) => assert!(stopped.is_none(), "issued again after {:?}", cut.elapsed()),
            Err(error) => {
                assert!(error.kind() == Kind::Unavailable && error.to_string().contains("lease"), "{error}");
                stopped.get_or_insert(cut.elapsed());
            }
        }
        sleep(Duration::from_millis(10)).await;
    }
    let (stopped, ended) = (stopped.expect("it stops while the lease lasts"), cut.elapsed());
    assert!(stopped + Duration::from_secs(1) < ended, "stopped after {stopped:?}, ended after {ended:?}");
    // Another takes the number as soon as it may; this one gets the next.
    link.cut(false);
    let other = leased(url).await.unwrap();
    sleep(Duration::from_secs(25)).await;
    let (a, b) = (next(&other).await, next(&ids).await);
    assert_ne!(a.worker, b.worker);
    assert!(a.time > before.time && b.time > before.time);
}

#[tokio::test(start_paused = true)]
async fn a_number_is_used_again_only_past_its_last_holders_mark() {
    let (url, coord) = ("snowflake://?coord=link%3A%2F%2Fmark&worker_bits=0&datacenter_bits=1", link("mark"));
    let coord = Coord::new(coord.memory.clone());
    let now = TokioClock::new();
    let soon = crate::time::Clock::now(&now).as_millisecond() + 4_000;
    coord.put("worker-mark/snowflake/0", format!("{soon} somebody"), When::Absent).await.unwrap();
    let first = leased(url).await.unwrap();
    assert_eq!(next(&first).await.datacenter, 1, "number 0 isn't past its mark");
    let begun = Instant::now();
    let second = leased(url).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(3));
    let parts = next(&second).await;
    assert!(parts.datacenter == 0 && parts.time.as_millisecond() > soon);
    // Marks far ahead are a clock that was set back.
    for ids in [first, second] {
        ids.close().await;
    }
    for number in 0..2 {
        let value = format!("{} somebody", soon + 3_600_000);
        coord.put(&format!("worker-mark/snowflake/{number}"), value, When::Always).await.unwrap();
    }
    let error = leased(url).await.unwrap_err();
    assert!(error.kind() == Kind::Unavailable && error.to_string().contains("behind"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_lost_its_number_cannot_put_its_mark_back() {
    let (url, link) =
        ("snowflake://?coord=link%3A%2F%2Fzombie&worker_bits=0&datacenter_bits=0", link("zombie"));
    let ids = leased(url).await.unwrap();
    next(&ids).await;
    let coord = Coord::new(link.memory.clone());
    coord.put("worker-mark/snowflake/0", "9999999999999 another", When::Always).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    let error = ids.next().await.unwrap_err();
    assert!(error.to_string().contains("lost to another"), "{error}");
    let mark = coord.get("worker-mark/snowflake/0").await.unwrap().unwrap();
    assert_eq!(mark.value, "9999999999999 another");
}

#[tokio::test]
async fn wrong_numbers_say_the_range() {
    for (rest, part) in [
        ("worker=32", "use 0 to 31"),
        ("worker=1&datacenter=40", "datacenter=40"),
        ("worker=-1", "worker=-1"),
        ("datacenter=1", "no worker number"),
        ("worker=1&coord=memory%3A%2F%2F", "don't go together"),
        ("coord=memory%3A%2F%2F&state=x", "don't go together"),
        ("coord=nothing%3A%2F%2F", "unknown scheme"),
        ("worker=1&ttl=1ms", "ttl"),
        ("worker=1&wroker=2", "\"wroker\""),
    ] {
        let error = open(&format!("snowflake://?{rest}"), &clock()).await.unwrap_err();
        assert!(error.kind() == Kind::Config && error.to_string().contains(part), "{error}");
    }
    assert!(open("snowflake://host?worker=1", &clock()).await.unwrap_err().to_string().contains("address"));
    let ids = open("snowflake://?worker=1", &clock()).await.unwrap();
    assert_eq!(ids.parse("x").unwrap_err().kind(), Kind::Invalid);
    assert_eq!(ids.parse("-5").unwrap_err().kind(), Kind::Invalid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_share_one_worker_number() {
    let ids = Ids::open_with("snowflake://?worker=1", &[]).await.unwrap();
    let takers = (0..8).map(|n| {
        let ids = ids.clone();
        tokio::spawn(async move {
            let mut all = Vec::new();
            for _ in 0..2_000 {
                all.extend(ids.next_n(1 + n).await.unwrap());
            }
            assert!(all.is_sorted());
            all
        })
    });
    let takers: Vec<_> = takers.collect();
    let mut all = BTreeSet::new();
    for taker in takers {
        all.extend(taker.await.unwrap());
    }
    assert_eq!(all.len(), 2_000 * 36);
}
