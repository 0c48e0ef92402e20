//! Snowflakes: time, worker number, sequence.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::keeper::{self, Keeper};
use super::layout::{Layout, NAME, largest};
use super::mint::{Mint, Step};
use super::one::Run;
use super::worker::{Office, behind};
use crate::coord::Coord;
use crate::scheme::Scheme;
use crate::time::SharedClock;
use crate::url::{EngineUrl, Options};
use crate::{Error, Info, Kind, Result, Retry};

/// A clock that is so many milliseconds behind is waited for.
const SMALL_STEP: u64 = 5;
/// How long one call may wait for the clock.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a full millisecond is waited for without sleeping: a timer's shortest sleep is longer than that.
const SPINS: u32 = 20_000;

/// What a `snowflake:` URL says beside its [`Layout`].
#[derive(Debug)]
struct Config {
    layout: Layout,
    datacenter: Option<u64>,
    worker: Option<u64>,
    coord: Option<String>,
    name: String,
    ttl: Duration,
    state: Option<PathBuf>,
}

/// Issues snowflakes.
#[derive(Debug)]
pub(super) struct Snowflake {
    pub(super) info: Info,
    pub(super) layout: Layout,
    board: Arc<Board>,
    /// Ends the keeper, by its drop at the latest.
    stop: Option<mpsc::Sender<oneshot::Sender<()>>>,
}

/// What those who issue and the keeper of the limit have in common.
#[derive(Debug)]
pub(super) struct Board {
    pub(super) mint: ArcSwap<Mint>,
    /// Asks for a later limit.
    pub(super) wanted: Notify,
    /// What came of the last time the limit was moved.
    pub(super) news: watch::Sender<Option<Error>>,
}

fn error(kind: Kind, message: impl Into<String>) -> Error {
    Error::new(kind, message).engine(NAME)
}

impl Config {
    fn read(url: &EngineUrl) -> Result<Self> {
        let mut options = url.options(&[]);
        let layout = Layout::read(&mut options)?;
        let config = Self {
            layout,
            datacenter: number(&mut options, "datacenter", layout.datacenter_bits)?,
            worker: number(&mut options, "worker", layout.worker_bits)?,
            coord: options.text("coord").map(str::to_owned),
            name: options.text("name").unwrap_or("snowflake").to_owned(),
            ttl: options.duration("ttl", Duration::from_secs(10))?,
            state: options.text("state").map(PathBuf::from),
        };
        options.finish()?;
        let path = url.file_path();
        let wrong = |message: &str, help: &str| Err(error(Kind::Config, message).with("url", url).help(help));
        match (&config.worker, &config.coord) {
            (None, None) => wrong(
                "the URL says no worker number",
                "add worker=N, different in every process, or lease one: coord=URL (percent-encoded)",
            ),
            (Some(_), Some(_)) => wrong("worker= and coord= don't go together", "name one of them"),
            (None, Some(_)) if config.state.is_some() => {
                wrong("state= and coord= don't go together", "leave state= out: coord keeps the mark")
            }
            _ if config.ttl < Duration::from_secs(1) => wrong("the ttl is too short", "use 1s or more"),
            _ if !path.is_empty() => wrong("a snowflake has no address", "write snowflake://?worker=1"),
            _ => Ok(config),
        }
    }

    /// The first number and the last that may be leased.
    fn range(&self) -> (u64, u64) {
        let bits = self.layout.worker_bits;
        match self.datacenter {
            Some(datacenter) => (datacenter << bits, (datacenter << bits) | largest(bits)),
            None => (0, largest(self.layout.node_bits())),
        }
    }
}

/// A number that fits into so many bits.
fn number(options: &mut Options<'_>, key: &'static str, bits: u32) -> Result<Option<u64>> {
    if options.text(key).is_none() {
        return Ok(None);
    }
    let number = options.number(key, 0)?;
    if number <= largest(bits) {
        return Ok(Some(number));
    }
    let help = format!("use 0 to {}, or give it more bits: {key}_bits=", largest(bits));
    Err(error(Kind::Config, format!("{key}={number} doesn't fit into {bits} bits")).help(help))
}

impl Snowflake {
    pub(super) async fn open(url: &EngineUrl, schemes: &[Scheme], clock: SharedClock) -> Result<Self> {
        let config = Config::read(url)?;
        let durability = match (&config.coord, &config.state) {
            (Some(_), _) => "the time of the last ids, in coordination, ahead of every id",
            (_, Some(_)) => "the time of the last ids, in the state file, ahead of every id",
            _ => "nothing: after a restart ids may repeat if the clock was set back meanwhile",
        };
        let info = Info { engine: NAME, url: url.to_string(), durability };
        let keeper = config.keeper(schemes, &clock).await?;
        let (keeper, mint) = keeper.start(config.layout, &clock).await?;
        let board = Arc::new(Board {
            mint: ArcSwap::from_pointee(mint),
            wanted: Notify::new(),
            news: watch::channel(None).0,
        });
        let stop = keeper.map(|keeper| keeper::keep(keeper, board.clone()));
        Ok(Self { info, layout: config.layout, board, stop })
    }

    /// Up to `count` ids that follow each other, if nothing stands in the way.
    pub(super) fn take_now(&self, count: u64) -> Option<Run> {
        match self.board.mint.load().take(count) {
            Step::Ids(run, near) => {
                if near {
                    self.board.wanted.notify_one();
                }
                Some(run)
            }
            _ => None,
        }
    }

    /// Up to `count` ids that follow each other. Waits for the clock where that is short.
    pub(super) async fn take(&self, count: u64) -> Result<Run> {
        let deadline = Instant::now() + PATIENCE;
        let (mut spins, mut full) = (0, (0, deadline));
        loop {
            let step = self.board.mint.load().take(count);
            match step {
                Step::Ids(run, _) => return Ok(run),
                // Others were quicker: as long as the clock goes on there will be more.
                Step::Full(at) if at > full.0 => full = (at, Instant::now() + PATIENCE),
                Step::Full(_) if spins < SPINS => {
                    spins += 1;
                    tokio::task::yield_now().await;
                }
                Step::Full(_) if Instant::now() < full.1 => sleep(Duration::from_millis(1)).await,
                Step::Full(_) => return Err(stands()),
                Step::Behind(by) if by <= SMALL_STEP && Instant::now() < deadline => {
                    sleep(Duration::from_millis(by)).await;
                }
                Step::Behind(by) => {
                    return Err(behind(Duration::from_millis(by), "the last id").op("next"));
                }
                Step::Limit => self.ask_for_more().await?,
                Step::Late | Step::Ended => return Err(self.why(step)),
                Step::Early | Step::Over => return Err(self.out_of_time(step)),
            }
        }
    }

    /// Waits until the keeper has moved the limit.
    async fn ask_for_more(&self) -> Result<()> {
        let Some(stop) = &self.stop else { return Err(closed()) };
        let mut news = self.board.news.subscribe();
        self.board.wanted.notify_one();
        let heard = timeout_at(Instant::now() + 5 * PATIENCE, news.changed());
        let heard = heard.await.map_err(|_| {
            error(Kind::Timeout, "the mark of what was issued couldn't be stored in time").op("next")
        })?;
        let failure = news.borrow().clone();
        match (heard, failure) {
            (Ok(()), None) if !stop.is_closed() => Ok(()),
            (Ok(()), Some(failure)) => Err(failure.op("next")),
            _ => Err(closed()),
        }
    }

    /// Why nothing is issued.
    fn why(&self, step: Step) -> Error {
        if self.stop.as_ref().is_none_or(mpsc::Sender::is_closed) {
            return closed();
        }
        let message = match step {
            Step::Late => {
                "the lease of the worker number couldn't be renewed in time, so another may have it soon"
            }
            _ => "the worker number was lost to another",
        };
        let failure = self.board.news.borrow().clone();
        let lost = error(Kind::Unavailable, message)
            .op("next")
            .retry_as(Retry::Safe { after: Duration::from_millis(500) })
            .help("ids are issued again once coordination answers and a number is leased");
        match failure {
            Some(failure) => lost.source(failure),
            None => lost,
        }
    }

    fn out_of_time(&self, step: Step) -> Error {
        let (epoch, bits) = (self.layout.epoch, self.layout.time_bits);
        if step == Step::Early {
            let message = format!("the clock is before the start time, {epoch} ms after 1970");
            return error(Kind::Config, message).op("next").help("set the clock right, or epoch= earlier");
        }
        error(Kind::Limited, format!("the {bits} bits of the time are used up"))
            .op("next")
            .help("set the clock right, or begin again with another layout and a later epoch")
    }

    /// Lets go of the worker number.
    pub(super) async fn close(&self) {
        let Some(stop) = &self.stop else {
            self.board.mint.load().end();
            return;
        };
        let (answer, done) = oneshot::channel();
        if stop.send(answer).await.is_ok() {
            let _gone = done.await;
        }
    }
}

impl Config {
    async fn keeper(&self, schemes: &[Scheme], clock: &SharedClock) -> Result<Keeper> {
        if let Some(url) = &self.coord {
            let coord = Coord::open_with(url, schemes).await.map_err(|e| e.with("option", "coord"))?;
            let (name, range) = (self.name.clone(), self.range());
            let coord = coord.engine().clone();
            crate::coord::check_key(&name)?;
            crate::coord::check_ttl(self.ttl, coord.caps().min_ttl)?;
            return Ok(Keeper::Lease(Office { coord, clock: clock.clone(), name, range, ttl: self.ttl }));
        }
        let datacenter = self.datacenter.unwrap_or(0) << self.layout.worker_bits;
        let number = datacenter | self.worker.unwrap_or(0);
        Ok(match &self.state {
            Some(path) => Keeper::File(path.clone(), number),
            None => Keeper::Nobody(number),
        })
    }
}

fn stands() -> Error {
    error(Kind::Unavailable, "the clock stands still, and this millisecond has no more ids")
        .op("next")
        .retry_as(Retry::Safe { after: Duration::from_millis(1) })
        .help("set the clock going")
}

fn closed() -> Error {
    error(Kind::Closed, "the ids are closed").op("next")
}
