//! The rounds of the task: what came back, whose partitions, what is handed out, and how long to wait.

use std::time::{Duration, Instant};

use linchpin_core::Result;
use linchpin_core::bus::{Message, NO_REPLY};
use linchpin_core::time::from_millis;

use super::super::core::lock;
use super::super::hints::POLL;
use super::super::settle::Act;
use super::super::state::{Grip, Held, Parcel, SHELF, State};
use super::Member;

/// A member that nobody asked for messages for this long, and that has nothing in hand, leaves its partitions to others.
const IDLE: Duration = Duration::from_secs(1);

/// What a round begins with.
struct Round {
    late: Vec<Held>,
    stale: Vec<Parcel>,
    /// Somebody waits in `next`.
    asked: bool,
    /// How many messages they lack.
    wanted: usize,
    idle: bool,
    look: bool,
}

impl Member {
    /// One round of the task under an order, and the wait behind it.
    pub(in super::super) async fn step_ordered(&self) -> Result<()> {
        let Some(round) = self.begin_round() else { return Ok(()) };
        self.take_back(round.late, round.stale).await?;
        if round.idle {
            self.rest().await?;
        }
        if round.look {
            self.look(round.asked || !round.idle).await?;
        }
        if round.wanted > 0 {
            let (wanted, room) = (round.wanted, self.room());
            let mut picks = self.pick(wanted.min(room));
            if picks.is_empty() && room > 0 {
                self.fill(wanted).await?;
                picks = self.pick(wanted.min(room));
            }
            self.mark(picks).await?;
        }
        let until = {
            let mut state = lock(&self.state);
            state.done = state.begun;
            self.until(&mut state)
        };
        self.changed.notify_waiters();
        let _woken = tokio::time::timeout_at(until.into(), self.asked.notified()).await;
        Ok(())
    }

    fn begin_round(&self) -> Option<Round> {
        let now = Instant::now();
        let mut state = lock(&self.state);
        state.begun += 1;
        let (late, stale) = (state.overdue(now), state.take_stale(now));
        let asked = state.waiting > 0;
        let idle = !asked && now >= state.last_next + IDLE;
        let news = std::mem::take(&mut state.news);
        let wanted = if asked && state.shelf.is_empty() { state.wanted } else { 0 };
        let ordered = state.ordered()?;
        if news {
            ordered.owned.values_mut().for_each(|owned| owned.read_at = now);
        }
        let look = now >= ordered.look_at || (asked && ordered.idle);
        Some(Round { late, stale, asked, wanted, idle, look })
    }

    fn room(&self) -> usize {
        let state = lock(&self.state);
        self.options.max_in_flight.saturating_sub(state.held.len() + state.shelf.len())
    }

    /// When to go on without being asked.
    fn until(&self, state: &mut State) -> Instant {
        let now = Instant::now();
        let waits = state.waiting > 0 && state.shelf.is_empty();
        let stale = state.shelf.front().map(|parcel| parcel.filled + SHELF);
        let overdue = state.overdue_at;
        let Some(ordered) = state.ordered() else { return now + POLL };
        let due = ordered.next_due().filter(|_| waits).map(|wait| now + wait.max(Duration::from_millis(1)));
        let poll = waits.then_some(now + POLL);
        let until = [stale, overdue, due, poll, Some(ordered.look_at)].into_iter().flatten().min();
        until.unwrap_or(now + POLL).max(now + Duration::from_millis(1))
    }

    /// What wasn't settled in time, and what nobody asked for after all, waits again; after the last attempt it is buried.
    async fn take_back(&self, late: Vec<Held>, stale: Vec<Parcel>) -> Result<()> {
        let (dead, late): (Vec<_>, Vec<_>) =
            late.into_iter().partition(|held| held.grip.attempt >= self.options.max_attempts);
        let back = late.into_iter().filter_map(|held| Some((held.grip.attempt, held.grip, held.message?)));
        let unused = stale.into_iter().map(|parcel| (parcel.grip.attempt - 1, parcel.grip, parcel.message));
        let back: Vec<(u32, Grip, Message)> = back.chain(unused).collect();
        let acts: Vec<_> = back.iter().map(|(count, grip, _)| (*grip, Act::Back(*count))).collect();
        let took = self.act(&acts, "next").await;
        let mut failed = None;
        for ((attempts, grip, message), took) in back.into_iter().zip(took) {
            let mut state = lock(&self.state);
            match took {
                Ok(Some(now)) => {
                    if let Some(ordered) = state.ordered() {
                        ordered.wait_again(&grip, message, attempts, from_millis(now));
                    }
                }
                Ok(None) => state.lose(grip.partition),
                Err(error) => {
                    // Whether it waits is unknown: the partition is taken anew.
                    state.lose(grip.partition);
                    failed = Some(error);
                }
            }
        }
        let grips: Vec<Grip> = dead.iter().map(|held| held.grip).collect();
        let dead = dead.into_iter().map(|held| (held.grip, NO_REPLY.to_owned())).collect();
        for (grip, buried) in grips.into_iter().zip(self.bury(dead).await) {
            let mut state = lock(&self.state);
            match buried {
                Ok(()) => {
                    if let Some(ordered) = state.ordered() {
                        ordered.done(&grip);
                    }
                }
                Err(_) => state.lose(grip.partition),
            }
        }
        failed.map_or(Ok(()), Err)
    }
}
