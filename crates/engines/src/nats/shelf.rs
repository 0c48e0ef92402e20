//! What was taken and isn't handed out goes back.

use std::collections::BTreeSet;

use linchpin_core::Result;
use linchpin_core::bus::Order;
use tokio::time::Instant;

use super::ledger::Fate;
use super::member::{Flight, Member};

impl Member {
    /// What nobody fetched in half its lease goes back, and what was taken ahead for one that has stopped; true if
    /// something of that is still to be done.
    pub(super) async fn unshelve(&self, active: bool) -> Result<bool> {
        let stale = Instant::now() + self.options.ack_wait / 2;
        if self.options.order != Order::None {
            return self.unshelve_ordered(stale).await;
        }
        if !active {
            self.lock().window = 0;
        }
        self.give_back(|flight| !active || flight.due < stale).await?;
        Ok(false)
    }

    /// Under an order a partition goes back whole, and not while more of it is being taken: what stayed would overtake
    /// what went.
    async fn unshelve_ordered(&self, stale: Instant) -> Result<bool> {
        let late: BTreeSet<u32> = {
            let state = self.lock();
            let late = state.shelf.iter().filter(|ready| ready.flight.due < stale);
            late.map(|ready| ready.flight.partition).collect()
        };
        let mut unsettled = false;
        for partition in late {
            let Some((left, taking)) = self.lock().hold(partition).map(|hold| {
                let left = std::mem::replace(&mut hold.leaving, true);
                (left, hold.taking)
            }) else {
                continue;
            };
            unsettled |= taking;
            if taking {
                continue;
            }
            let gone = self.give_back(|flight| flight.partition == partition).await;
            if let Some(hold) = self.lock().hold(partition) {
                hold.leaving = left;
            }
            gone?;
        }
        Ok(unsettled)
    }

    /// Gives back what was taken and never handed out.
    pub(super) async fn give_back(&self, which: impl Fn(&Flight) -> bool) -> Result<()> {
        let mut items = Vec::new();
        {
            let mut state = self.lock();
            state.shelf.retain(|ready| {
                let back = which(&ready.flight);
                if back {
                    items.push((ready.flight.clone(), Fate::Unused));
                }
                !back
            });
        }
        if !items.is_empty() {
            self.settle_flights(&items).await?;
        }
        Ok(())
    }
}
