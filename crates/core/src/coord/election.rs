//! One leader, and who it is.

use bytes::Bytes;

use super::follow::Follow;
use super::lock::{Via, last};
use super::name::own_keys;
use super::queue::{self, Ticket};
use super::{Coord, Entry, Rev, Session};
use crate::{Error, Result};

/// An election by name. Cheap to clone.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # use linchpin_core::coord::{Coord, MemoryCoord};
/// # let coord = Coord::new(MemoryCoord::new());
/// let election = coord.election("invoices");
/// let leadership = election.campaign("10.0.0.7:8080").await?;
/// assert_eq!(election.leader().await?.unwrap().value, "10.0.0.7:8080");
/// leadership.resign().await?;
/// # Ok::<(), linchpin_core::Error>(()) }).unwrap();
/// ```
///
/// # Guarantees
/// Those of [`Lock`](super::Lock): leadership is a lock whose holder says who it is. One leads at a time as far as the engine
/// knows; one that was frozen past its lease may not know that it leads no more, so what it writes carries its token.
#[derive(Debug, Clone)]
pub struct Election {
    via: Via,
    engine: Coord,
    name: String,
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// What it says about itself.
    pub value: Bytes,
    /// Its fencing token: larger than that of every leader before.
    pub token: Rev,
}

/// Leading. Dropping it resigns in the background; the lease is the backstop.
#[derive(Debug)]
pub struct Leadership {
    ticket: Ticket,
}

impl Coord {
    /// The election of this name; campaigns are under a session that everything of this handle and its clones shares.
    pub fn election(&self, name: &str) -> Election {
        Election { via: Via::Coord(self.clone()), engine: self.clone(), name: name.to_owned() }
    }
}

impl Session {
    /// The election of this name; campaigns are under this session.
    pub fn election(&self, name: &str) -> Election {
        let engine = Coord::new(self.engine().clone());
        Election { via: Via::Session(self.clone()), engine, name: name.to_owned() }
    }
}

impl Election {
    /// Waits until it leads, as long as the session lives. `value` is what others see of it. Cancel-safe: dropped, it stands no
    /// more.
    ///
    /// # Errors
    /// Those of [`Lock::acquire`](super::Lock::acquire).
    pub async fn campaign(&self, value: impl Into<Bytes>) -> Result<Leadership> {
        let line = self.via.line("leadership", "election", &self.name).await?;
        let (ticket, _) = line.wait(value.into(), &last).await?;
        Ok(Leadership { ticket })
    }

    /// Who leads now.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn leader(&self) -> Result<Option<Leader>> {
        let candidates = queue::list(self.engine.engine().as_ref(), &self.keys()?).await?;
        Ok(first(candidates.iter()))
    }

    /// Who leads, whenever that or its value changes, beginning with who does now.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn observe(&self) -> Result<Leaders> {
        let follow = Follow::begin(self.engine.engine().clone(), &self.keys()?).await?;
        Ok(Leaders { follow, told: None })
    }

    fn keys(&self) -> Result<String> {
        own_keys("election", &self.name)
    }
}

fn first<'a>(candidates: impl Iterator<Item = &'a Entry>) -> Option<Leader> {
    let first = candidates.min_by_key(|entry| entry.created)?;
    Some(Leader { value: first.value.clone(), token: first.created })
}

impl Leadership {
    /// The fencing token: larger than that of every leader before.
    pub fn token(&self) -> Rev {
        self.ticket.created
    }

    /// Whether it surely still leads, by the monotonic clock. Once false, always false.
    pub fn is_held(&self) -> bool {
        self.ticket.session().is_alive()
    }

    /// Waits until leadership is lost; the answer is why. Told before the engine can give it to another. Cancel-safe.
    pub async fn lost(&self) -> Error {
        self.ticket.session().lost().await
    }

    /// Changes what others see of it. The token stays.
    ///
    /// # Errors
    /// `Fenced` if it leads no more; what the engine says otherwise.
    pub async fn proclaim(&mut self, value: impl Into<Bytes>) -> Result<()> {
        self.ticket.update(value.into()).await.map_err(|error| error.op("proclaim"))
    }

    /// Leads no more, and waits until that is so. Cancel-safe: dropped midway, it goes on in the background.
    ///
    /// # Errors
    /// Those of [`LockGuard::release`](super::LockGuard::release).
    pub async fn resign(self) -> Result<()> {
        self.ticket.leave().await.map_err(|error| error.op("resign"))
    }
}

/// Leaders, as they come.
#[derive(Debug)]
pub struct Leaders {
    follow: Follow,
    /// What was told last.
    told: Option<Option<Leader>>,
}

impl Leaders {
    /// Who leads, as soon as that is something else than was told before; `None` while nobody does. Of several
    /// changes in a short time the last alone may be told. Outages are sat out. Cancel-safe.
    pub async fn next(&mut self) -> Option<Leader> {
        loop {
            let now = first(self.follow.entries().values());
            if self.told.as_ref() != Some(&now) {
                self.told = Some(now.clone());
                return now;
            }
            if let Err(error) = self.follow.next().await {
                tracing::debug!(%error, "can't see who leads; trying again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::Kind;
    use crate::coord::testing::rigged;
    use crate::coord::{DEFAULT_TTL, MemoryCoord};

    const TICK: Duration = Duration::from_millis(1);

    async fn election(coord: &Coord) -> Election {
        coord.session(DEFAULT_TTL).await.unwrap().election("a")
    }

    #[tokio::test(start_paused = true)]
    async fn one_leads_and_all_see_who() {
        let coord = Coord::new(MemoryCoord::new());
        let mut leaders = coord.election("a").observe().await.unwrap();
        assert_eq!(leaders.next().await, None);
        let mut one = election(&coord).await.campaign("one").await.unwrap();
        let other = election(&coord).await;
        let two = tokio::spawn(async move { other.campaign("two").await.unwrap() });
        assert_eq!(leaders.next().await, Some(Leader { value: "one".into(), token: one.token() }));
        assert!(timeout(TICK, leaders.next()).await.is_err(), "a candidate is no leader");

        let token = one.token();
        one.proclaim("one, elsewhere").await.unwrap();
        assert_eq!(leaders.next().await, Some(Leader { value: "one, elsewhere".into(), token }));
        assert_eq!(coord.election("a").leader().await.unwrap().unwrap().value, "one, elsewhere");
        assert!(!two.is_finished());
        one.resign().await.unwrap();
        let two = two.await.unwrap();
        assert!(two.token() > token);
        assert_eq!(leaders.next().await, Some(Leader { value: "two".into(), token: two.token() }));
        drop(two);
        assert_eq!(leaders.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_leads_no_more_proclaims_nothing() {
        let coord = Coord::new(MemoryCoord::new());
        let session = coord.session(DEFAULT_TTL).await.unwrap();
        let mut old = session.election("a").campaign("old").await.unwrap();
        coord.engine().revoke(session.lease()).await.unwrap();
        let new = coord.election("a").campaign("new").await.unwrap();
        assert_eq!(old.proclaim("still me").await.unwrap_err().kind(), Kind::Fenced);
        assert!(!old.is_held());
        assert_eq!(coord.election("a").leader().await.unwrap().unwrap().token, new.token());
    }

    #[tokio::test(start_paused = true)]
    async fn lost_answers_and_outages_are_sat_out() {
        let (coord, rigged) = rigged();
        let mut leaders = coord.election("a").observe().await.unwrap();
        assert_eq!(leaders.next().await, None);
        let mut leadership = coord.election("a").campaign("one").await.unwrap();
        rigged.mute("put", 2);
        leadership.proclaim("two").await.unwrap();
        assert_eq!(leaders.next().await.unwrap().value, "two");
        rigged.mute("watch", 3);
        leadership.proclaim("three").await.unwrap();
        assert_eq!(leaders.next().await.unwrap().value, "three");
        sleep(DEFAULT_TTL * 2).await;
        assert!(leadership.is_held());
    }
}
