//! Deliberately broken ids: counters, coordination and snowflakes with one fault. Each must turn a named case red.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use linchpin::coord::{Caps, CoordEngine, Entry, LeaseId, Rev, Watched, When};
use linchpin::id::{IdEngine, Segment};
use linchpin::time::{Clock, SystemClock};
use linchpin::url::EngineUrl;
use linchpin::{Kind, Result, Scheme};
use linchpin_core::{Info, MEMORY, Ways};

use crate::broken::{Broken, Wrap};
use crate::world::Tamper;

macro_rules! broken {
    ($($name:ident: $case:ident on $on:literal <= $schemes:expr, $url:expr;)*) => {
        &[$(Broken {
            name: stringify!($name),
            caught_by: stringify!($case),
            on: $on,
            wrap: Wrap::Ids(&Tamper { schemes: $schemes, url: $url }),
        }),*]
    };
}

pub(crate) const BROKEN: &[Broken] = broken! {
    hands_a_block_twice: many_handles_draw_and_none_comes_twice on "memory"
        <= &[counters(|url| Box::pin(faulty(url, Fault::HandsTwice)))], |url| url;
    ignores_the_version_of_the_row: many_handles_draw_and_none_comes_twice on "memory"
        <= &[counters(|url| Box::pin(faulty(url, Fault::IgnoresVersion)))], |url| url;
    begins_one_too_early: many_handles_draw_and_none_comes_twice on "memory"
        <= &[counters(|url| Box::pin(faulty(url, Fault::Overlaps)))], |url| url;
    shares_one_counter_for_all: another_counter_is_apart on "memory"
        <= &[counters(|url| Box::pin(faulty(url, Fault::OneForAll)))], |url| url;
    forgets_the_high_water_mark: a_restart_with_the_clock_set_back_repeats_nothing on "snowflake-memory"
        <= &[coordination(|url| Box::pin(leasing(url, Lapse::ForgetsMarks)))], |url| url;
    keeps_no_file_of_the_time: a_restart_with_the_clock_set_back_repeats_nothing on "snowflake"
        <= &[], without_state;
    keeps_issuing_after_the_lease: a_number_taken_away_is_its_new_holders_alone on "snowflake-memory"
        <= &[coordination(|url| Box::pin(leasing(url, Lapse::RenewsTheDead)))], |url| url;
    wraps_the_sequence: a_full_millisecond_is_waited_for on "snowflake"
        <= &[CARELESS], |_| "careless://wraps?".to_owned();
    spills_into_the_workers_bits: a_full_millisecond_is_waited_for on "snowflake"
        <= &[CARELESS], |_| "careless://spills?".to_owned();
};

fn without_state(url: String) -> String {
    let (rest, _) = url.split_once("&state=").unwrap();
    let options = url.split('&').skip_while(|option| !option.starts_with("state=")).skip(1);
    options.fold(rest.to_owned(), |url, option| format!("{url}&{option}"))
}

const fn counters(open: linchpin_core::scheme::Open<dyn IdEngine>) -> Scheme {
    Scheme { name: "memory", feature: "", ways: Some(Ways { ids: Some(open), ..Ways::NONE }) }
}

const fn coordination(open: linchpin_core::scheme::Open<dyn CoordEngine>) -> Scheme {
    Scheme { name: "memory", feature: "", ways: Some(Ways { coord: Some(open), ..Ways::NONE }) }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    HandsTwice,
    IgnoresVersion,
    Overlaps,
    OneForAll,
}

#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn IdEngine>,
    fault: Fault,
    /// Which of the handles it is.
    handle: u64,
}

async fn faulty(url: EngineUrl, fault: Fault) -> Result<Arc<dyn IdEngine>> {
    let open = MEMORY.ways.unwrap().ids.unwrap();
    let inner = open(url).await?;
    Ok(Arc::new(Faulty { inner, fault, handle: HANDLES.fetch_add(1, Ordering::SeqCst) }))
}

static HANDLES: AtomicU64 = AtomicU64::new(0);

/// Who got which block last, by counter.
static LAST: Mutex<BTreeMap<String, (u64, Segment)>> = Mutex::new(BTreeMap::new());

/// What is in the row, as somebody sees it who reads it and writes it in two steps.
static ROWS: Mutex<BTreeMap<String, i64>> = Mutex::new(BTreeMap::new());

#[async_trait]
impl IdEngine for Faulty {
    fn info(&self) -> &Info {
        self.inner.info()
    }

    fn name(&self) -> Option<&str> {
        self.inner.name()
    }

    async fn take(&self, name: &str, count: Option<u64>) -> Result<Segment> {
        let row = format!("{} {name}", self.info().url);
        match self.fault {
            Fault::OneForAll => self.inner.take("all", count).await,
            Fault::Overlaps => {
                let segment = self.inner.take(name, count).await?;
                Ok(Segment { first: segment.first - 1, ..segment })
            }
            // What another has just got.
            Fault::HandsTwice => {
                let last = LAST.lock().unwrap().remove(&row);
                if let Some((_, segment)) = last.filter(|(handle, _)| *handle != self.handle) {
                    return Ok(segment);
                }
                let segment = self.inner.take(name, count).await?;
                LAST.lock().unwrap().insert(row, (self.handle, segment));
                Ok(segment)
            }
            Fault::IgnoresVersion => {
                let max = ROWS.lock().unwrap().get(&row).copied().unwrap_or(0);
                tokio::time::sleep(Duration::from_millis(1)).await;
                let last = max.saturating_add_unsigned(count.unwrap_or(100));
                ROWS.lock().unwrap().insert(row, last);
                Ok(Segment { first: max + 1, last, step: 100 })
            }
        }
    }
}

/// A snowflake that goes on when a millisecond is full: with sequence 0, or with what comes next as a number. Its clock
/// stands still.
const CARELESS: Scheme = Scheme {
    name: "careless",
    feature: "",
    ways: Some(Ways {
        ids: Some(|url| {
            Box::pin(async move {
                let info = Info { engine: "careless", url: url.to_string(), durability: "none" };
                let wraps = url.hosts().concat() == "wraps";
                let time = SystemClock.now().as_millisecond();
                Ok(Arc::new(Careless { info, time, wraps, issued: AtomicU64::new(0) }) as _)
            })
        }),
        ..Ways::NONE
    }),
};

#[derive(Debug)]
struct Careless {
    info: Info,
    time: i64,
    wraps: bool,
    issued: AtomicU64,
}

#[async_trait]
impl IdEngine for Careless {
    fn info(&self) -> &Info {
        &self.info
    }

    fn name(&self) -> Option<&str> {
        Some("ids")
    }

    async fn take(&self, _: &str, count: Option<u64>) -> Result<Segment> {
        let issued = self.issued.load(Ordering::SeqCst);
        let sequence = if self.wraps { issued % 4_096 } else { issued };
        let count = count.unwrap_or(4_096).min(4_096 - sequence % 4_096);
        self.issued.fetch_add(count, Ordering::SeqCst);
        let first = (self.time << 22).saturating_add_unsigned(sequence);
        Ok(Segment { first, last: first.saturating_add_unsigned(count - 1), step: 4_096 })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lapse {
    ForgetsMarks,
    RenewsTheDead,
}

/// Coordination that doesn't keep what keeps worker numbers apart.
#[derive(Debug)]
struct Leasing {
    inner: Arc<dyn CoordEngine>,
    lapse: Lapse,
}

async fn leasing(url: EngineUrl, lapse: Lapse) -> Result<Arc<dyn CoordEngine>> {
    let open = MEMORY.ways.unwrap().coord.unwrap();
    Ok(Arc::new(Leasing { inner: open(url).await?, lapse }))
}

impl Leasing {
    fn has(&self, lapse: Lapse) -> bool {
        self.lapse == lapse
    }
}

#[async_trait]
impl CoordEngine for Leasing {
    fn info(&self) -> &Info {
        self.inner.info()
    }

    fn caps(&self) -> Caps {
        self.inner.caps()
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>> {
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<Entry>> {
        self.inner.list(prefix, after, limit).await
    }

    async fn put(&self, key: &str, value: Bytes, when: When, lease: Option<&LeaseId>) -> Result<Rev> {
        let is_mark = key.starts_with("worker-mark/");
        if is_mark && self.has(Lapse::ForgetsMarks) {
            return Ok(Rev(1));
        }
        let when = if is_mark && self.has(Lapse::RenewsTheDead) { When::Always } else { when };
        self.inner.put(key, value, when, lease).await
    }

    async fn delete(&self, key: &str, when: When) -> Result<bool> {
        self.inner.delete(key, when).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.inner.grant(ttl).await
    }

    async fn renew(&self, lease: &LeaseId) -> Result<()> {
        match self.inner.renew(lease).await {
            Err(e) if e.kind() == Kind::NotFound && self.has(Lapse::RenewsTheDead) => Ok(()),
            other => other,
        }
    }

    async fn revoke(&self, lease: &LeaseId) -> Result<()> {
        self.inner.revoke(lease).await
    }

    async fn watch(&self, prefix: &str) -> Result<Watched> {
        self.inner.watch(prefix).await
    }
}
