//! A worker number, leased through coordination.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::layout::NAME;
use crate::coord::{CoordEngine, LeaseId, Rev, When};
use crate::time::SharedClock;
use crate::{Error, Kind, Result, Retry};

/// Which numbers may be leased, and how.
#[derive(Debug, Clone)]
pub(super) struct Office {
    pub(super) coord: Arc<dyn CoordEngine>,
    pub(super) clock: SharedClock,
    /// Whose numbers they are.
    pub(super) name: String,
    /// The first number and the last.
    pub(super) range: (u64, u64),
    pub(super) ttl: Duration,
}

/// A number that is ours while its lease lasts.
///
/// The key `worker/<name>/<number>` has the lease, so of several processes one has the number. The key
/// `worker-mark/<name>/<number>` stays: it holds the time that ids of the number may have at most, which its next holder
/// starts behind. It is written on condition of its revision, so a process that lost the number can't put it back.
#[derive(Debug)]
pub(super) struct WorkerId {
    office: Office,
    pub(super) number: u64,
    lease: LeaseId,
    /// What tells our marks from others'.
    holder: String,
    mark: Option<Mark>,
}

#[derive(Debug, Clone)]
struct Mark {
    millis: i64,
    holder: String,
    rev: Rev,
}

impl Office {
    fn keys(&self) -> String {
        format!("worker/{}/", self.name)
    }

    fn mark_key(&self, number: u64) -> String {
        format!("worker-mark/{}/{number}", self.name)
    }

    /// How long before the lease can end issuing stops.
    pub(super) fn margin(&self) -> Duration {
        self.ttl / 5
    }

    /// Within the time of a lease, or not at all.
    async fn within<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let late = |_| {
            Error::new(Kind::Timeout, "coordination didn't answer in time")
                .help("check that it can be reached, or raise the ttl option of the URL")
        };
        timeout(self.ttl, call).await.map_err(late)?.map_err(|e| e.with("coord", &self.coord.info().url))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(u64, crate::coord::Entry)>> {
        const PAGE: usize = 1000;
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let page = self.within(self.coord.list(prefix, after.as_deref(), PAGE)).await?;
            let more = page.len() >= PAGE;
            after = page.last().map(|entry| entry.key.clone());
            let numbered = page.into_iter().filter_map(|entry| {
                let number = entry.key.strip_prefix(prefix)?.parse().ok()?;
                Some((number, entry))
            });
            all.extend(numbered);
            if !more {
                return Ok(all);
            }
        }
    }

    /// The numbers that nobody has, the lowest first, each with the mark its last holder left.
    async fn free(&self) -> Result<Vec<(u64, Option<Mark>)>> {
        let taken: BTreeSet<u64> = self.list(&self.keys()).await?.into_iter().map(|(n, _)| n).collect();
        let marks = self.list(&format!("worker-mark/{}/", self.name)).await?;
        let mut marks: BTreeMap<u64, Mark> =
            marks.into_iter().filter_map(|(n, entry)| Some((n, parse(&entry)?))).collect();
        let (first, last) = self.range;
        let free: Vec<_> =
            (first..=last).filter(|n| !taken.contains(n)).map(|n| (n, marks.remove(&n))).collect();
        if free.is_empty() {
            let message = format!("every worker number from {first} to {last} of {:?} is taken", self.name);
            let help = "stop processes that need none, wait until the leases of dead ones end, give datacenters \
                        numbers of their own (datacenter=), or share the bits out differently (worker_bits=)";
            let soon = Retry::Safe { after: self.ttl };
            return Err(Error::new(Kind::Limited, message).retry_as(soon).help(help));
        }
        Ok(free)
    }

    /// Takes the lowest number that is free and whose mark the clock is past. Where the clock is past none, it waits, if
    /// that won't take longer than two leases.
    pub(super) async fn claim(&self) -> Result<(WorkerId, Option<i64>)> {
        let failed = |e: Error| e.engine(NAME).op("lease a worker number");
        let give_up = Instant::now() + self.ttl * 2;
        loop {
            let free = self.free().await.map_err(failed)?;
            let now = self.clock.now().as_millisecond();
            let past = |mark: &Option<Mark>| mark.as_ref().is_none_or(|mark| mark.millis < now);
            let ready = free.iter().filter(|(_, mark)| past(mark)).map(|(number, _)| *number);
            if let Some(claimed) = self.claim_one(ready.collect()).await.map_err(failed)? {
                return Ok(claimed);
            }
            let least = free.iter().filter_map(|(_, mark)| Some(mark.as_ref()?.millis - now)).min();
            let wait = Duration::from_millis(u64::try_from(least.unwrap_or(0)).unwrap_or(0) + 1);
            if Instant::now() + wait > give_up {
                return Err(failed(behind(wait, "the last ids of every free worker number")));
            }
            sleep(wait.max(Duration::from_millis(10))).await;
        }
    }

    async fn claim_one(&self, ready: Vec<u64>) -> Result<Option<(WorkerId, Option<i64>)>> {
        if ready.is_empty() {
            return Ok(None);
        }
        let lease = self.within(self.coord.grant(self.ttl)).await?;
        let mut worker = WorkerId { office: self.clone(), number: 0, lease, holder: holder(), mark: None };
        for number in ready {
            worker.number = number;
            match worker.try_number().await {
                Ok(true) => {
                    let mark = worker.mark.as_ref().map(|mark| mark.millis);
                    return Ok(Some((worker, mark)));
                }
                Ok(false) => {}
                // Whether the key is there or not, it goes with the lease.
                Err(e) => {
                    worker.give_back().await;
                    return Err(e);
                }
            }
        }
        worker.give_back().await;
        Ok(None)
    }
}

impl WorkerId {
    /// Whether the number is ours now, and free of its past.
    async fn try_number(&mut self) -> Result<bool> {
        let coord = self.office.coord.clone();
        let key = format!("{}{}", self.office.keys(), self.number);
        let value = self.holder.clone().into();
        let put = coord.put(&key, value, When::Absent, Some(&self.lease));
        match self.office.within(put).await {
            Ok(_) => {}
            Err(e) if e.kind() == Kind::Conflict => return Ok(false),
            Err(e) => return Err(e),
        }
        // Its last holder may have moved the mark on since it was listed.
        let mark = self.office.within(coord.get(&self.office.mark_key(self.number))).await?;
        self.mark = mark.as_ref().and_then(parse);
        let now = self.office.clock.now().as_millisecond();
        if self.mark.as_ref().is_none_or(|mark| mark.millis < now) {
            return Ok(true);
        }
        self.office.within(coord.delete(&key, When::Always)).await?;
        Ok(false)
    }

    /// Keeps the number for another lease, and moves its mark on: ids may have times up to it. Until when both holds,
    /// less the margin.
    ///
    /// # Errors
    /// As [`is_lost`] tells: the number is another's, or may be soon; or nothing is known.
    pub(super) async fn renew(&mut self, mark: i64) -> Result<Instant> {
        let begun = Instant::now();
        let coord = self.office.coord.clone();
        self.office.within(coord.renew(&self.lease)).await?;
        self.set_mark(mark).await?;
        Ok(begun + self.office.ttl - self.office.margin())
    }

    async fn set_mark(&mut self, millis: i64) -> Result<()> {
        let (coord, key) = (self.office.coord.clone(), self.office.mark_key(self.number));
        let value = format!("{millis} {}", self.holder);
        loop {
            let when = self.mark.as_ref().map_or(When::Absent, |mark| When::Is(mark.rev));
            match self.office.within(coord.put(&key, value.clone().into(), when, None)).await {
                Ok(rev) => {
                    self.mark = Some(Mark { millis, holder: self.holder.clone(), rev });
                    return Ok(());
                }
                Err(e) if e.kind() == Kind::Conflict => {
                    // A write of ours whose answer was lost is ours all the same.
                    let there = self.office.within(coord.get(&key)).await?.as_ref().and_then(parse);
                    let ours = there.filter(|mark| mark.holder == self.holder);
                    self.mark = Some(ours.ok_or(e)?);
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Leaves the time of the last id behind and lets others have the number at once.
    pub(super) async fn release(mut self, last: Option<i64>) {
        if let Some(last) = last
            && let Err(error) = self.set_mark(last).await
        {
            tracing::warn!(%error, number = self.number, "the worker number's mark stays ahead of its last id");
        }
        self.give_back().await;
    }

    async fn give_back(&self) {
        // The lease ends by itself.
        if let Err(error) = self.office.within(self.office.coord.revoke(&self.lease)).await {
            tracing::debug!(%error, number = self.number, "the lease of a worker number wasn't revoked");
        }
    }
}

/// Whether a failed renewal means that the number is lost for good.
pub(super) fn is_lost(error: &Error) -> bool {
    matches!(error.kind(), Kind::NotFound | Kind::Conflict)
}

/// The clock is behind what was issued before.
pub(super) fn behind(by: Duration, what: &str) -> Error {
    let by =
        humantime::format_duration(Duration::from_millis(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)));
    Error::new(Kind::Unavailable, format!("the clock is {by} behind {what}"))
        .engine(NAME)
        .retry_as(Retry::Safe { after: Duration::from_millis(100) })
        .help(format!(
            "set it right, or wait {by}: ids would repeat; let NTP slew the clock instead of stepping it"
        ))
}

fn parse(entry: &crate::coord::Entry) -> Option<Mark> {
    let text = std::str::from_utf8(&entry.value).ok()?;
    let (millis, holder) = text.split_once(' ')?;
    Some(Mark { millis: millis.parse().ok()?, holder: holder.to_owned(), rev: entry.rev })
}

/// For people who look at the keys, and unlike any other.
fn holder() -> String {
    format!("pid-{} {:016x}", std::process::id(), fastrand::u64(..))
}
