//! Leaving a group: cleanly, or by being dropped.

use std::sync::Arc;

use futures_util::future::join_all;
use linchpin_core::{Kind, Result};

use super::ledger::Fate;
use super::member::{Flight, Member};
use super::roster::Roster;

impl Member {
    /// Leaves the group: what it holds goes to the others at once.
    pub(super) async fn leave(&self) -> Result<()> {
        if std::mem::replace(&mut self.lock().closed, true) {
            return Ok(());
        }
        self.changed.notify_waiters();
        self.nudge.notify_one();
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.lock().taking == 0 {
                break;
            }
            changed.await;
        }
        let (owned, left) = self.empty_hands();
        if self.options.group.is_none() {
            return Ok(());
        }
        let leaving = async {
            self.settle_flights(&left).await?;
            let disowned = owned.iter().filter_map(|n| self.pages.get(*n)).map(|page| {
                let member = self.id;
                page.edit(move |ledger| ledger.disown(member))
            });
            join_all(disowned).await.into_iter().collect::<Result<Vec<_>>>()?;
            self.sign_off().await
        };
        match leaving.await {
            Err(e) if e.kind() != Kind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Lets go of everything, and says what was owned and in hand.
    fn empty_hands(&self) -> (Vec<usize>, Vec<(Flight, Fate)>) {
        let mut state = self.lock();
        let owned =
            state.holds.iter().enumerate().filter(|(_, hold)| hold.is_some()).map(|(n, _)| n).collect();
        state.holds.iter_mut().for_each(|hold| *hold = None);
        let unused: Vec<_> = state.shelf.drain(..).map(|ready| (ready.flight, Fate::Unused)).collect();
        let left = state.flights.drain().map(|(_, flight)| (flight, Fate::Left));
        let left = unused.into_iter().chain(left).collect();
        (owned, left)
    }

    /// Takes this member off the roster, and tells the others.
    async fn sign_off(&self) -> Result<()> {
        let Some(group) = &self.options.group else { return Ok(()) };
        let subject = self.core.names.roster(&self.topic.name, group);
        loop {
            let Some(record) = self.core.store.get(&subject).await? else { return Ok(()) };
            let mut roster = Roster::decode(&record.bytes)?;
            if roster.born != self.born {
                return Ok(());
            }
            roster.leave(self.id);
            if self.core.store.put(&subject, roster.encode()?, record.rev).await?.is_some() {
                self.core.tell(&self.topic.name, group).await;
                return Ok(());
            }
        }
    }

    /// The subscription was dropped: the others need not wait until it counts as dead, but what it held keeps its lease.
    pub(super) fn abandon(self: &Arc<Self>) {
        {
            let mut state = self.lock();
            if std::mem::replace(&mut state.closed, true) {
                return;
            }
            state.holds.iter_mut().for_each(|hold| *hold = None);
        }
        self.nudge.notify_one();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let member = self.clone();
            runtime.spawn(async move {
                if let Err(e) = member.sign_off().await {
                    tracing::debug!(error = %e, "the group wasn't told of a member's end");
                }
            });
        }
    }
}
