//! Handing out: the server knows of each attempt before anybody has the message.

use std::time::Instant;

use linchpin_core::bus::{NO_REPLY, is_for};
use linchpin_core::{Error, Result};

use super::super::core::lock;
use super::super::entry::EntryId;
use super::super::script::{Call, MARK};
use super::super::state::{Grip, Parcel};
use super::{Member, Picks};

/// What was marked and isn't handed out.
#[derive(Debug, Default)]
struct Aside {
    /// Meant for another group.
    skipped: Vec<Grip>,
    /// Out of attempts.
    dead: Vec<Grip>,
}

impl Member {
    pub(super) fn pick(&self, max: usize) -> Vec<Picks> {
        lock(&self.state).ordered().map(|ordered| ordered.pick(max)).unwrap_or_default()
    }

    pub(super) fn grip(&self, partition: u32, id: EntryId, epoch: i64, fence: u64, attempt: u32) -> Grip {
        // The fence says whether it is still its own: nobody else can have taken it while that holds.
        let until = Instant::now() + self.options.ack_wait;
        Grip { partition, id, attempt, epoch, fence, safe: i64::MAX / 2, until }
    }

    /// Writes down that these are handed out now, and puts them on the shelf.
    pub(super) async fn mark(&self, picks: Vec<Picks>) -> Result<()> {
        let marking = picks.into_iter().map(|picks| async move {
            let marked = self.mark_one(&picks).await;
            (picks, marked)
        });
        let mut failed: Option<Error> = None;
        let mut aside = Aside::default();
        for (picks, marked) in futures_util::future::join_all(marking).await {
            match marked {
                Ok((now, took)) if !took.is_empty() => self.shelve_marked(picks, now, &took, &mut aside),
                Ok(_) => lock(&self.state).lose(picks.partition),
                Err(error) => {
                    lock(&self.state).lose(picks.partition);
                    failed = Some(error);
                }
            }
        }
        self.settle_aside(aside).await?;
        failed.map_or(Ok(()), Err)
    }

    fn shelve_marked(&self, picks: Picks, now: i64, took: &[u8], aside: &mut Aside) {
        let mut state = lock(&self.state);
        if let Some(ordered) = state.ordered() {
            ordered.heard(now);
        }
        for (item, took) in picks.items.into_iter().zip(took) {
            let grip = self.grip(picks.partition, item.id, picks.epoch, picks.fence, item.attempts + 1);
            if *took != b'1' {
                state.ordered().into_iter().for_each(|ordered| ordered.done(&grip));
            } else if !is_for(&item.message, &self.joined.group) {
                aside.skipped.push(grip);
            } else if item.attempts >= self.options.max_attempts {
                aside.dead.push(Grip { attempt: item.attempts, ..grip });
            } else {
                state.shelf.push_back(Parcel { grip, message: item.message, filled: Instant::now() });
            }
        }
    }

    async fn settle_aside(&self, Aside { skipped, dead }: Aside) -> Result<()> {
        let done: Vec<Grip> = skipped.iter().chain(&dead).copied().collect();
        self.ack_all(skipped).await?;
        let dead = dead.into_iter().map(|grip| (grip, NO_REPLY.to_owned())).collect();
        self.bury(dead).await.into_iter().collect::<Result<()>>()?;
        if let Some(ordered) = lock(&self.state).ordered() {
            done.iter().for_each(|grip| ordered.done(grip));
        }
        if !done.is_empty() {
            self.wake();
        }
        Ok(())
    }

    async fn mark_one(&self, picks: &Picks) -> Result<(i64, Vec<u8>)> {
        let Some([stream, record, waiting, _]) = self.keys_of(picks.partition) else {
            return Ok((0, Vec::new()));
        };
        let call = Call::new(&MARK).key(stream.clone()).key(record.clone()).key(waiting.clone());
        let call = call.text(&self.joined.group).text(&self.joined.consumer).number(picks.fence);
        let call = picks.items.iter().fold(call, |call, item| {
            let attempt =
                if item.attempts >= self.options.max_attempts { item.attempts } else { item.attempts + 1 };
            call.number(item.id).number(attempt)
        });
        self.core.link.call(&call, "next").await
    }
}
