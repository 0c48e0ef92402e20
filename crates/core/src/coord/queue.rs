//! Waiting in line: what locks, permits and elections share.
//!
//! Who wants in puts a key of its own under `<kind>/<name>/~`, under the session's lease. The order of the line is
//! the order in which the keys came to be. Revisions rise, so whoever sees its own key in a listing sees everybody who is before
//! it, and nobody gets before it later. Who has to wait watches as few keys as the rule allows, and lists
//! again when one of them changes: it never concludes from a watch that it is its turn.

use std::time::Duration;

use bytes::Bytes;
use metrics::{counter, histogram};
use tokio::time::Instant;
use tracing::Instrument;
use uuid::Uuid;

use super::call::{LIMIT, Pause, answer_within, insist, may_try_again};
use super::{Change, CoordEngine, Entry, Rev, Session, Watched, When};
use crate::telemetry::{ACQUIRE_SECONDS, ACQUIRED};
use crate::{Error, Kind, Result, Retry};

/// How long one look at a watch takes before the next.
const LOOK: Duration = Duration::from_secs(30);

/// Of those before it in the line, whom one waits for: any change of theirs may make it one's turn. None: it is.
pub(super) type Rule<'a> = &'a (dyn Fn(&[Entry]) -> Vec<&Entry> + Send + Sync);

/// A line.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) session: Session,
    /// What its keys begin with.
    pub(super) prefix: String,
    /// For metrics.
    pub(super) kind: &'static str,
}

/// A place in a line, or at its head. Dropping it gives it up, in the background.
#[derive(Debug)]
pub(super) struct Ticket {
    line: Line,
    key: String,
    pub(super) created: Rev,
    /// The last change of the key.
    pub(super) rev: Rev,
    pub(super) value: Bytes,
    /// A write of the key may still be on its way.
    doubtful: bool,
    /// The key is gone.
    gone: bool,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.gone {
            self.line.session.remove_later(std::mem::take(&mut self.key), self.doubtful);
        }
    }
}

/// How the line looks from a ticket.
struct Look {
    before: Vec<Entry>,
    behind: usize,
}

impl Line {
    /// Waits for the turn. The second is how many stand behind.
    pub(super) async fn wait(&self, value: Bytes, rule: Rule<'_>) -> Result<(Ticket, usize)> {
        let begun = Instant::now();
        let wait = async {
            let ticket = self.join(value).await?;
            let behind = ticket.wait(rule).await?;
            Ok((ticket, behind))
        };
        let span = tracing::debug_span!("coord.acquire", kind = self.kind, keys = self.prefix);
        let done = self.unless_lost(wait).instrument(span).await.inspect(|_| self.count(begun));
        done.map_err(|error: Error| error.op("acquire"))
    }

    /// Takes the turn if it is there, or leaves the line again.
    pub(super) async fn try_now(&self, value: Bytes, rule: Rule<'_>) -> Result<Option<(Ticket, usize)>> {
        let begun = Instant::now();
        let attempt = async {
            let ticket = self.join(value).await?;
            let look = ticket.look().await?;
            if rule(&look.before).is_empty() {
                return Ok(Some((ticket, look.behind)));
            }
            ticket.leave().await.map(|()| None)
        };
        let span = tracing::debug_span!("coord.try_acquire", kind = self.kind, keys = self.prefix);
        let taken = self.unless_lost(attempt).instrument(span).await.map_err(|error| error.op("acquire"))?;
        Ok(taken.inspect(|_| self.count(begun)))
    }

    async fn unless_lost<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let done = tokio::select! {
            biased;
            error = self.session.lost() => Err(error),
            done = work => done,
        };
        // Waiting may have taken longer than the lease.
        done.and_then(|done| self.session.check().map(|()| done))
    }

    fn count(&self, begun: Instant) {
        counter!(ACQUIRED, "kind" => self.kind).increment(1);
        histogram!(ACQUIRE_SECONDS, "kind" => self.kind).record(begun.elapsed().as_secs_f64());
    }

    /// Joins the line, in a task of its own: who stops waiting meanwhile leaves a task that removes what it put.
    async fn join(&self, value: Bytes) -> Result<Ticket> {
        let line = self.clone();
        let joined = tokio::spawn(async move {
            let session = line.session.clone();
            tokio::select! {
                biased;
                error = session.lost() => Err(error),
                joined = line.put(value) => joined,
            }
        });
        let died = |error| Error::new(Kind::Unexpected, "joining the line died").source(error);
        joined.await.map_err(died)?
    }

    /// Puts the key until it is known to be there. It is nobody else's: that it is there already means that an
    /// earlier attempt was applied.
    async fn put(self, value: Bytes) -> Result<Ticket> {
        let key = format!("{}{}", self.prefix, Uuid::new_v4().simple());
        let (created, rev) = (Rev::default(), Rev::default());
        let mut ticket = Ticket { line: self, key, created, rev, value, doubtful: false, gone: true };
        let mut pause = Pause::default();
        loop {
            let session = &ticket.line.session;
            ticket.gone = false;
            match session.put(&ticket.key, ticket.value.clone(), When::Absent).await {
                Ok(rev) => (ticket.created, ticket.rev) = (rev, rev),
                Err(error) if error.kind() == Kind::Conflict => {
                    let Some(entry) = insist(|| session.engine().get(&ticket.key)).await? else { continue };
                    (ticket.created, ticket.rev) = (entry.created, entry.rev);
                }
                Err(error) if may_try_again(&error) => {
                    ticket.doubtful |= error.retry() == Retry::Unknown;
                    pause.wait(Some(&error)).await;
                    continue;
                }
                Err(error) => {
                    ticket.gone = !ticket.doubtful;
                    return Err(error);
                }
            }
            return Ok(ticket);
        }
    }
}

impl Ticket {
    pub(super) fn session(&self) -> &Session {
        &self.line.session
    }

    fn engine(&self) -> &dyn CoordEngine {
        self.line.session.engine().as_ref()
    }

    async fn wait(&self, rule: Rule<'_>) -> Result<usize> {
        let mut pause = Pause::default();
        loop {
            let look = self.look().await?;
            let blockers = rule(&look.before);
            if blockers.is_empty() {
                return Ok(look.behind);
            }
            match self.until_one_changes(&blockers).await {
                Ok(()) => pause = Pause::default(),
                Err(error) if may_try_again(&error) => pause.wait(Some(&error)).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// # Errors
    /// `Fenced` if its own key is gone.
    async fn look(&self) -> Result<Look> {
        let mut line = insist(|| list(self.engine(), &self.line.prefix)).await?;
        line.sort_by_key(|entry| entry.created);
        let there = line.iter().position(|entry| entry.key == self.key && entry.created == self.created);
        let Some(at) = there else {
            return Err(Error::new(Kind::Fenced, "the place in the line is gone")
                .with("key", &self.key)
                .help("its key was removed by hand, or its lease ended"));
        };
        let behind = line.len() - at - 1;
        line.truncate(at);
        Ok(Look { before: line, behind })
    }

    async fn until_one_changes(&self, blockers: &[&Entry]) -> Result<()> {
        let prefix = match blockers {
            [one] => one.key.as_str(),
            _ => self.line.prefix.as_str(),
        };
        let Watched { snapshot, mut changes } = answer_within(LIMIT, self.engine().watch(prefix)).await?;
        let unchanged = |blocker: &&Entry| {
            snapshot.iter().any(|entry| entry.key == blocker.key && entry.rev == blocker.rev)
        };
        if !blockers.iter().all(unchanged) {
            return Ok(());
        }
        let matters = |change: &Change| {
            let mut blockers = blockers.iter().filter(|blocker| blocker.key == change.key());
            blockers.any(|blocker| blocker.rev < change.rev() || matches!(change, Change::Delete { .. }))
        };
        loop {
            let news = answer_within(LOOK + LIMIT, changes.next(LOOK)).await;
            // Whatever became of the watch, listing tells what is so.
            let news = news.map_err(|error| error.retry_as(Retry::Safe { after: Duration::ZERO }))?;
            if news.iter().any(matters) {
                return Ok(());
            }
        }
    }

    /// Changes what is under the key, at the same place in the line.
    ///
    /// # Errors
    /// `Fenced` if the key is gone.
    pub(super) async fn update(&mut self, value: Bytes) -> Result<()> {
        let session = self.line.session.clone();
        let work = async {
            let mut pause = Pause::default();
            loop {
                match session.put(&self.key, value.clone(), When::Is(self.rev)).await {
                    Ok(rev) => return Ok(rev),
                    Err(error) if error.kind() == Kind::Conflict => {
                        let entry = insist(|| session.engine().get(&self.key)).await?;
                        let own = entry.filter(|entry| entry.created == self.created && entry.value == value);
                        return own.map(|entry| entry.rev).ok_or_else(|| removed(&self.key));
                    }
                    Err(error) if may_try_again(&error) => pause.wait(Some(&error)).await,
                    Err(error) => return Err(error),
                }
            }
        };
        self.rev = self.line.unless_lost(work).await?;
        self.value = value;
        Ok(())
    }

    /// Gives up the place now. Cancel-safe: dropped midway, it goes on in the background.
    ///
    /// # Errors
    /// `Fenced` if it was gone already. What the engine says: then it goes on in the background.
    pub(super) async fn leave(mut self) -> Result<()> {
        self.session().check()?;
        let delete = self.engine().delete(&self.key, When::Always);
        let was_there = answer_within(LIMIT, delete).await?;
        self.gone = !self.doubtful;
        if was_there { Ok(()) } else { Err(removed(&self.key)) }
    }
}

fn removed(key: &str) -> Error {
    Error::new(Kind::Fenced, "it wasn't held any more")
        .with("key", key)
        .help("what was done under it may have met another holder's work: check its fencing token")
}

/// Everything under the prefix, in the order of keys.
pub(super) async fn list(engine: &dyn CoordEngine, prefix: &str) -> Result<Vec<Entry>> {
    const PAGE: usize = 1000;
    let mut all: Vec<Entry> = Vec::new();
    loop {
        let after = all.last().map(|entry| entry.key.clone());
        let page = answer_within(LIMIT, engine.list(prefix, after.as_deref(), PAGE)).await?;
        let full = page.len() >= PAGE;
        all.extend(page);
        if !full {
            return Ok(all);
        }
    }
}
