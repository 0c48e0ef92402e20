//! The handle.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

use super::engine::{IdEngine, Segment};
use super::layout::{self, Parts};
use super::numbers::Numbers;
use super::one::{Batch, Id};
use super::snowflake::Snowflake;
use super::uuids::Uuids;
use crate::scheme::{self, Scheme};
use crate::time::{SharedClock, SystemClock};
use crate::url::EngineUrl;
use crate::{Error, Info, Kind, Result};

/// The most ids of one call.
pub const MAX_IDS: usize = 1_000_000;

/// Ids that never repeat, of any kind. Cheap to clone; clones share segments, worker number and sequence.
///
/// Opened by URL — `Ids::open` of the facade crate `linchpin`, which holds the table of engines:
///
/// | URL | ids |
/// |---|---|
/// | `uuid://v1`, `v4`, `v7` | UUIDs made here |
/// | `uuid://v3?namespace=dns`, `v5` | the UUID of a name: [`Ids::of_name`] |
/// | `snowflake://?worker=1` | 63 bits of time, worker number and sequence: [`Layout`](super::Layout) |
/// | `postgres://host/shop?biz_type=orders` | numbers in segments, of a row in a table of counters; `mysql:` and `sqlite:` alike |
/// | `redis://host?counter=orders` | numbers in blocks, by `INCRBY` |
///
/// What a `snowflake:` URL takes beside its layout:
///
/// | option | default | meaning |
/// |---|---|---|
/// | `worker` | none | the worker number, which no other process may have at the same time |
/// | `datacenter` | `0`; with `coord` any | the datacenter's number |
/// | `coord` | none | instead of `worker`: the URL (percent-encoded) of the coordination that numbers are leased from |
/// | `name` | `snowflake` | with `coord`: whose numbers they are |
/// | `ttl` | `10s` | with `coord`: how long the lease of a dead process lasts |
/// | `state` | none | with `worker`: a file for the time of the last ids, so that none repeats after a restart |
///
/// # Guarantees
/// An id that was returned isn't returned again, by this handle or another of the same URL. Ids may be lost: those of a
/// process that dies, those of an answer that is lost.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use linchpin_core::id::Ids;
///
/// let ids = Ids::open_with("snowflake://?datacenter=1&worker=7", &[]).await?;
/// let id = ids.next().await?;
/// let parts = ids.parse(&id.to_string())?;
/// assert_eq!((parts.datacenter, parts.worker), (1, 7));
/// assert_eq!(ids.next_n(1000).await?.len(), 1000);
/// # Ok::<(), linchpin_core::Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Ids(Source);

#[derive(Clone)]
enum Source {
    Uuids(Arc<Uuids>),
    Snowflake(Arc<Snowflake>),
    Counters { all: Arc<Counters>, chosen: Option<Arc<Numbers>> },
}

struct Counters {
    engine: Arc<dyn IdEngine>,
    /// One for each name, so that handles share it.
    known: Mutex<HashMap<String, Arc<Numbers>>>,
}

impl Counters {
    fn get(&self, name: &str) -> Arc<Numbers> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let numbers = known.entry(name.to_owned()).or_insert_with(|| Numbers::new(self.engine.clone(), name));
        numbers.clone()
    }
}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ids({})", self.info().url)
    }
}

impl Ids {
    /// Numbers from this engine's counters.
    pub fn new(engine: Arc<dyn IdEngine>) -> Self {
        let name = engine.name().map(str::to_owned);
        let all = Arc::new(Counters { engine, known: Mutex::default() });
        let chosen = name.map(|name| all.get(&name));
        Self(Source::Counters { all, chosen })
    }

    /// Opens `url`: UUIDs and snowflakes, or counters of an engine among `schemes`.
    ///
    /// # Errors
    /// [`Kind::Config`] for a URL that doesn't parse, an unknown scheme (the error lists the known ones and the cargo
    /// feature that is missing), or an unknown option; `Limited` if every worker number is leased; what the engine says
    /// otherwise.
    pub async fn open_with(url: &str, schemes: &[Scheme]) -> Result<Self> {
        Self::open_with_clock(url, schemes, Arc::new(SystemClock)).await
    }

    /// The same with a clock of one's own, for tests of clocks that jump. Snowflakes alone look at it.
    ///
    /// # Errors
    /// Those of [`Ids::open_with`].
    pub async fn open_with_clock(url: &str, schemes: &[Scheme], clock: SharedClock) -> Result<Self> {
        let url: EngineUrl = url.parse()?;
        Ok(match url.scheme() {
            "uuid" => Self(Source::Uuids(Arc::new(Uuids::open(&url)?))),
            layout::NAME => Self(Source::Snowflake(Arc::new(Snowflake::open(&url, schemes, clock).await?))),
            _ => {
                let open = scheme::find(&url, schemes, "ids", |ways| ways.ids);
                let open = open.map_err(|e| {
                    let known = e.remedy().unwrap_or_default().to_owned();
                    e.help(format!("{known}; uuid: and snowflake: are always there"))
                })?;
                Self::new(open(url).await?)
            }
        })
    }

    /// Name, URL and durability.
    pub fn info(&self) -> &Info {
        match &self.0 {
            Source::Uuids(uuids) => &uuids.info,
            Source::Snowflake(snowflake) => &snowflake.info,
            Source::Counters { all, .. } => all.engine.info(),
        }
    }

    /// The ids of another counter of the same engine.
    ///
    /// # Errors
    /// `Unsupported` for UUIDs and snowflakes, which have no counters.
    pub fn counter(&self, name: &str) -> Result<Self> {
        let Source::Counters { all, .. } = &self.0 else { return Err(self.no_counters()) };
        Ok(Self(Source::Counters { all: all.clone(), chosen: Some(all.get(name)) }))
    }

    /// The next id. Cancel-safe: an id that was drawn for a dropped call is lost.
    ///
    /// # Errors
    /// `Unavailable` for snowflakes while the clock is behind the last id by more than 5 ms or the worker number's lease may
    /// have ended; for counters once both segments are used and the engine doesn't answer; `Limited` when the numbers are
    /// used up; `Corrupt` when a counter went back; `Invalid` where a name is missing.
    pub async fn next(&self) -> Result<Id> {
        let run = match &self.0 {
            Source::Uuids(uuids) => return uuids.next(),
            Source::Snowflake(snowflake) => match snowflake.take_now(1) {
                Some(run) => run,
                None => snowflake.take(1).await?,
            },
            Source::Counters { chosen, .. } => {
                let numbers = self.chosen(chosen.as_ref())?;
                match numbers.take_now(1) {
                    Some(run) => run,
                    None => numbers.take(1).await?,
                }
            }
        };
        Ok(Id::Number(run.first))
    }

    /// The next `count` ids, 1 to [`MAX_IDS`]. Cancel-safe like [`Ids::next`].
    ///
    /// # Errors
    /// `Invalid` for a count out of range; those of [`Ids::next`], and then what was drawn already is lost.
    pub async fn next_n(&self, count: usize) -> Result<Batch> {
        let wrong = |_| self.wrong_count(count);
        let left = u64::try_from(count).map_err(wrong)?;
        if !(1..=MAX_IDS).contains(&count) {
            return Err(self.wrong_count(count));
        }
        let first = match &self.0 {
            Source::Uuids(uuids) => return uuids.many(count),
            Source::Snowflake(snowflake) => snowflake.take_now(left),
            Source::Counters { chosen, .. } => self.chosen(chosen.as_ref())?.take_now(left),
        };
        match first {
            Some(run) if run.count == left => Ok(Batch::one(run)),
            first => {
                let mut runs: Vec<_> = first.into_iter().collect();
                let mut left = left - runs.iter().map(|run| run.count).sum::<u64>();
                while left > 0 {
                    let run = match &self.0 {
                        Source::Snowflake(snowflake) => snowflake.take(left).await?,
                        Source::Counters { chosen, .. } => self.chosen(chosen.as_ref())?.take(left).await?,
                        Source::Uuids(uuids) => return uuids.many(count),
                    };
                    left -= run.count;
                    runs.push(run);
                }
                Ok(Batch::runs(runs))
            }
        }
    }

    /// The UUID of a name, by `uuid://v3` and `uuid://v5`. The same name has the same.
    ///
    /// # Errors
    /// `Unsupported` for other ids.
    pub fn of_name(&self, name: &str) -> Result<Id> {
        match &self.0 {
            Source::Uuids(uuids) => uuids.of_name(name),
            _ => Err(self
                .error(Kind::Unsupported, "these ids aren't made of a name")
                .help("use uuid://v5?namespace=dns, or v3")),
        }
    }

    /// Takes a segment past the two that are kept here, for others to use: `count` numbers, or the counter's own step.
    ///
    /// # Errors
    /// `Unsupported` for UUIDs and snowflakes, `NotFound` for a counter that isn't there, `Invalid` for a count of 0 or over
    /// [`MAX_IDS`]; what the engine says otherwise.
    pub async fn segment(&self, counter: &str, count: Option<u64>) -> Result<Segment> {
        let Source::Counters { all, .. } = &self.0 else { return Err(self.no_counters()) };
        let wrong = count.and_then(|n| usize::try_from(n).ok()).filter(|n| !(1..=MAX_IDS).contains(n));
        if let Some(count) = wrong {
            return Err(self.wrong_count(count));
        }
        all.engine.take(counter, count).await
    }

    /// What a snowflake, as it prints, is made of.
    ///
    /// # Errors
    /// `Invalid` for what isn't a snowflake of this layout, `Unsupported` for other ids.
    pub fn parse(&self, id: &str) -> Result<Parts> {
        let Source::Snowflake(snowflake) = &self.0 else {
            return Err(self
                .error(Kind::Unsupported, "these ids aren't made of parts")
                .help("use snowflake://"));
        };
        let number = id.trim().parse().map_err(|e: std::num::ParseIntError| {
            let error = self.error(Kind::Invalid, format!("{id:?} isn't a number"));
            error.source(e).help("give a snowflake as it prints: digits alone")
        })?;
        snowflake.layout.parse(number)
    }

    /// Lets go of what is held: a worker number may be leased by another at once. Without it that takes as long as its
    /// lease. Dropping the last handle does the same in the background.
    pub async fn close(&self) {
        if let Source::Snowflake(snowflake) = &self.0 {
            snowflake.close().await;
        }
    }

    fn chosen<'a>(&self, chosen: Option<&'a Arc<Numbers>>) -> Result<&'a Arc<Numbers>> {
        chosen.ok_or_else(|| {
            self.error(Kind::Invalid, "the URL names no counter").help(
                "add biz_type= (segments), counter= (Redis) or name= (kind=auto), or ask by `Ids::counter`",
            )
        })
    }

    fn error(&self, kind: Kind, message: impl Into<String>) -> Error {
        Error::new(kind, message).engine(self.info().engine)
    }

    fn no_counters(&self) -> Error {
        self.error(Kind::Unsupported, "these ids have no counters")
            .help("segments are there with sqlite:, mysql: and postgres:, blocks with redis:")
    }

    fn wrong_count(&self, count: usize) -> Error {
        self.error(Kind::Invalid, format!("{count} ids at a time")).help(format!("ask for 1 to {MAX_IDS}"))
    }
}

/// When a UUID of version 1 or 7 was made; `None` for others.
///
/// # Errors
/// `Invalid` for what isn't a UUID.
pub fn uuid_time(text: &str) -> Result<Option<crate::Timestamp>> {
    let uuid = Uuid::parse_str(text.trim())
        .map_err(|e| Error::new(Kind::Invalid, format!("{text:?} isn't a UUID")).engine("uuid").source(e))?;
    Ok(super::uuids::time_of(uuid))
}
