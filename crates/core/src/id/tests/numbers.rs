//! The two segments, over a counter that can be made to fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{advance, sleep, timeout};

use crate::id::{IdEngine, Ids, MemoryIds, Segment};
use crate::{Error, Info, Kind, Result, Retry};

/// The memory engine behind a link that can be cut.
#[derive(Debug)]
struct Behind {
    memory: Arc<MemoryIds>,
    down: AtomicBool,
    /// So many answers get lost on their way, after the numbers were taken.
    lost: AtomicU64,
    /// What is put into the answer's place.
    shift: AtomicI64,
    takes: AtomicU64,
    asked: AtomicU64,
}

#[async_trait]
impl IdEngine for Behind {
    fn info(&self) -> &Info {
        self.memory.info()
    }

    fn name(&self) -> Option<&str> {
        self.memory.name()
    }

    async fn take(&self, name: &str, count: Option<u64>) -> Result<Segment> {
        self.takes.fetch_add(1, Ordering::SeqCst);
        self.asked.store(count.unwrap_or(0), Ordering::SeqCst);
        sleep(Duration::from_millis(1)).await;
        if self.down.load(Ordering::SeqCst) {
            let safe = Retry::Safe { after: Duration::from_millis(100) };
            return Err(Error::new(Kind::Unavailable, "the link is cut").retry_as(safe));
        }
        let segment = self.memory.take(name, count).await?;
        if self.lost.load(Ordering::SeqCst) > 0 {
            self.lost.fetch_sub(1, Ordering::SeqCst);
            return Err(Error::new(Kind::Unavailable, "the answer was lost"));
        }
        let shift = self.shift.load(Ordering::SeqCst);
        Ok(Segment { first: segment.first + shift, last: segment.last + shift, step: segment.step })
    }
}

fn engine(block: u64) -> Arc<Behind> {
    let url = format!("memory://?counter=orders&block={block}");
    Arc::new(Behind {
        memory: MemoryIds::open(&url.parse().unwrap()).unwrap(),
        down: AtomicBool::new(false),
        lost: AtomicU64::new(0),
        shift: AtomicI64::new(0),
        takes: AtomicU64::new(0),
        asked: AtomicU64::new(0),
    })
}

async fn numbers(ids: &Ids, count: usize) -> Vec<i64> {
    ids.next_n(count).await.unwrap().map(|id| id.number().unwrap()).collect()
}

/// Lets what is under way come to its end.
async fn settle() {
    sleep(Duration::from_millis(10)).await;
}

#[tokio::test(start_paused = true)]
async fn numbers_follow_each_other_and_a_fifth_fetches_the_next_segment() {
    let engine = engine(100);
    let ids = Ids::new(engine.clone());
    assert_eq!(numbers(&ids, 19).await, (1..=19).collect::<Vec<_>>());
    settle().await;
    assert_eq!(engine.takes.load(Ordering::SeqCst), 1);
    assert_eq!(ids.next().await.unwrap().number(), Some(20));
    settle().await;
    assert_eq!(engine.takes.load(Ordering::SeqCst), 2);
    assert_eq!(numbers(&ids, 500).await, (21..=520).collect::<Vec<_>>());
    assert_eq!(ids.clone().next().await.unwrap().number(), Some(521));
}

#[tokio::test(start_paused = true)]
async fn the_step_grows_while_segments_are_short_lived_and_shrinks_again() {
    let engine = engine(100);
    let ids = Ids::new(engine.clone());
    let asked = || engine.asked.load(Ordering::SeqCst);
    let use_up = async |minutes: u64, n: usize| {
        advance(Duration::from_secs(60 * minutes)).await;
        numbers(&ids, n).await;
        settle().await;
        asked()
    };
    // What is asked for was decided when a fifth of the segment before was used.
    assert_eq!(use_up(0, 20).await, 200);
    assert_eq!(use_up(1, 80 + 40).await, 400);
    assert_eq!(use_up(20, 160 + 80).await, 400);
    assert_eq!(use_up(30, 320 + 80).await, 200);
    assert_eq!(use_up(31, 320 + 40).await, 100);
    assert_eq!(use_up(600, 160 + 20).await, 100, "the counter's own step is the floor");
    for _ in 0..20 {
        numbers(&ids, 200_000).await;
        settle().await;
    }
    assert_eq!(asked(), 1_000_000);
}

#[tokio::test(start_paused = true)]
async fn with_nothing_at_hand_an_outage_is_told_at_once() {
    let engine = engine(100);
    engine.down.store(true, Ordering::SeqCst);
    let ids = Ids::new(engine.clone());
    let error = timeout(Duration::from_secs(1), ids.next()).await.unwrap().unwrap_err();
    assert!(error.kind() == Kind::Unavailable && error.to_string().contains("the link is cut"), "{error}");
    engine.down.store(false, Ordering::SeqCst);
    sleep(Duration::from_millis(200)).await;
    assert_eq!(ids.next().await.unwrap().number(), Some(1));
}

#[tokio::test(start_paused = true)]
async fn one_segment_and_two_serve_while_the_engine_is_down() {
    for (before, served) in [(10, 100), (30, 300)] {
        let engine = engine(100);
        let ids = Ids::new(engine.clone());
        numbers(&ids, before).await;
        settle().await;
        engine.down.store(true, Ordering::SeqCst);
        let mut last = numbers(&ids, served - before - 1).await;
        last.push(ids.next().await.unwrap().number().unwrap());
        assert_eq!(last.last(), Some(&i64::try_from(served).unwrap()));
        // A hundred who wait for more: one attempt after another, and each is told.
        let waiting = (0..100).map(|_| timeout(Duration::from_secs(1), ids.next()));
        for outcome in futures_util::future::join_all(waiting).await {
            assert_eq!(outcome.unwrap().unwrap_err().kind(), Kind::Unavailable);
        }
        assert!(engine.takes.load(Ordering::SeqCst) < 20);
        engine.down.store(false, Ordering::SeqCst);
        // Without anybody asking.
        sleep(Duration::from_secs(6)).await;
        let takes = engine.takes.load(Ordering::SeqCst);
        let next = numbers(&ids, 1).await;
        assert_eq!(next[0], last.last().unwrap() + 1);
        assert_eq!(engine.takes.load(Ordering::SeqCst), takes);
    }
}

#[tokio::test(start_paused = true)]
async fn a_segment_whose_answer_was_lost_is_thrown_away() {
    let engine = engine(100);
    let ids = Ids::new(engine.clone());
    engine.lost.store(1, Ordering::SeqCst);
    assert_eq!(ids.next().await.unwrap().number(), Some(101));
    engine.lost.store(1, Ordering::SeqCst);
    let more = numbers(&ids, 150).await;
    assert_eq!((more[0], more[98], more[99]), (102, 200, 401), "201 to 400 may have been taken");
}

#[tokio::test(start_paused = true)]
async fn a_counter_that_went_back_is_refused() {
    let engine = engine(100);
    let ids = Ids::new(engine.clone());
    numbers(&ids, 10).await;
    engine.shift.store(-50, Ordering::SeqCst);
    let error = ids.next_n(200).await.unwrap_err();
    assert!(error.kind() == Kind::Corrupt && error.to_string().contains("\"orders\" went back"), "{error}");
    assert!(error.to_string().contains("100 at least"), "{error}");
    engine.shift.store(0, Ordering::SeqCst);
    sleep(Duration::from_secs(1)).await;
    assert!(ids.next().await.unwrap().number().unwrap() > 100);
}

#[tokio::test(start_paused = true)]
async fn a_counter_ends_where_numbers_end() {
    let engine = engine(100);
    let ids = Ids::new(engine.clone());
    engine.memory.take("orders", Some(i64::MAX as u64 - 150)).await.unwrap();
    let all = numbers(&ids, 150).await;
    assert_eq!(all.last(), Some(&i64::MAX));
    let error = ids.next().await.unwrap_err();
    assert!(error.kind() == Kind::Limited && error.to_string().contains("used up"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn wrong_counts_and_names_are_refused() {
    let ids = Ids::new(engine(100));
    for count in [0, 1_000_001] {
        let error = ids.next_n(count).await.unwrap_err();
        assert!(error.kind() == Kind::Invalid && error.to_string().contains("1 to 1000000"), "{error}");
    }
    let open = |url: &'static str| Ids::open_with(url, &[crate::MEMORY]);
    assert_eq!(open("memory://").await.unwrap().next().await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(open("memory://?block=0").await.unwrap_err().kind(), Kind::Config);
    let error = open("nothing://").await.unwrap_err().to_string();
    assert!(error.contains("memory:") && error.contains("snowflake:"), "{error}");
    let uuids = open("uuid://v4").await.unwrap();
    assert_eq!(uuids.counter("x").unwrap_err().kind(), Kind::Unsupported);
    assert_eq!(uuids.parse("1").unwrap_err().kind(), Kind::Unsupported);
    assert_eq!(uuids.next_n(7).await.unwrap().len(), 7);
    let other = ids.counter("invoices").unwrap();
    assert_eq!((other.next().await.unwrap().number(), numbers(&ids, 1).await), (Some(1), vec![1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_get_numbers_of_their_own() {
    let ids = Ids::new(engine(50));
    let takers = (0..16).map(|n| {
        let ids = ids.clone();
        tokio::spawn(async move {
            let mut all = Vec::new();
            for _ in 0..200 {
                all.extend(numbers(&ids, 1 + n * 7).await);
            }
            all
        })
    });
    let mut all: Vec<_> = Vec::new();
    for taker in takers.collect::<Vec<_>>() {
        all.extend(taker.await.unwrap());
    }
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!((all.len(), all[0]), (count, 1));
}
