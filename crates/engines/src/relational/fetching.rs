//! A member's fetches: claim, read, put on the shelf.

use std::sync::Arc;
use std::time::{Duration, Instant};

use linchpin_core::Result;
use linchpin_core::bus::Settle;

use super::hand::{Lost, Pack, SHELF};
use super::hub::lock;
use super::member::{Member, State};
use super::store::{Batch, Claim, Fetched, Stored, Want};

impl Member {
    /// Starts a fetch for a caller that wants `max`, if there is room for one.
    pub(crate) fn fetch(self: &Arc<Self>, state: &mut State, max: usize, now: Instant) {
        let room = self.room(state);
        if room == 0 {
            // Settling makes room, and tells.
            state.again_at = now + self.store.at_least();
            state.news = true;
            return;
        }
        state.fetching = true;
        state.news = false;
        state.asked = Some(now);
        if state.partitions.is_some() {
            return self.fetch_ordered(state, max.min(room));
        }
        // A message at its last attempt must not lose it on the shelf.
        let all =
            if self.options.max_attempts > 1 { state.window.size(max, room, now) } else { max.min(room) };
        state.turn = state.turn.wrapping_add(1);
        let want = Want {
            again: max.min(room) as u64,
            all: all as u64,
            only: self.options.partitions.clone(),
            turn: state.turn,
        };
        let member = self.clone();
        self.store.fetch(&self.scope, want, Box::new(move |fetched| member.fetched(fetched, now)));
    }

    fn fetched(self: Arc<Self>, fetched: Result<(Fetched, i64)>, began: Instant) {
        let (fetched, at) = match fetched {
            Ok(fetched) => fetched,
            Err(error) => return self.arrived(Err(error)),
        };
        let wait = fetched
            .next_due
            .map_or(self.store.at_least(), |due| Duration::from_millis((due - at).max(0).unsigned_abs()));
        lock(&self.state).again_at = Instant::now() + wait.min(self.store.at_least());
        self.read(fetched.claims.into_iter().map(|claim| (claim, 0)).collect(), began);
    }

    /// Reads what was claimed, each claim with its partition's fence, and puts it on the shelf.
    pub(crate) fn read(self: Arc<Self>, claims: Vec<(Claim, u64)>, began: Instant) {
        if claims.is_empty() {
            return self.arrived(Ok(Vec::new()));
        }
        // There was something, so there may be more: only an empty fetch says that there isn't.
        lock(&self.state).news = true;
        let (claims, store) = (Arc::new(claims), self.store.clone());
        let mine = claims.clone();
        let done = move |read: Result<Vec<Vec<Stored>>>| match read {
            Ok(read) => self.arrived(Ok(self.packs(&mine, read, began))),
            Err(error) => {
                let all = |(c, _): &(Claim, u64)| Lost {
                    claim: c.id,
                    part: c.part,
                    offsets: c.span.iter().collect(),
                };
                self.unfetch(mine.iter().map(all).collect());
                self.arrived(Err(error.op("next")));
            }
        };
        store.read(claims, Box::new(done));
    }

    fn packs(self: &Arc<Self>, claims: &[(Claim, u64)], read: Vec<Vec<Stored>>, began: Instant) -> Vec<Pack> {
        let filled = Instant::now();
        let mut packs = Vec::with_capacity(claims.len());
        for ((claim, fence), messages) in claims.iter().zip(read) {
            if messages.len() as u64 != claim.span.len() {
                self.forget_missing(claim, &messages);
            }
            packs.push(Pack {
                claim: claim.id,
                part: claim.part,
                partition: self.topic.partition(claim.part),
                attempt: claim.attempt,
                fence: *fence,
                filled,
                until: began + self.options.ack_wait + 2 * SHELF,
                messages: messages.into(),
            });
        }
        packs.retain(|pack| !pack.messages.is_empty());
        packs
    }

    /// Claimed messages that aren't there any more count as settled.
    fn forget_missing(self: &Arc<Self>, claim: &Claim, messages: &[Stored]) {
        let there = |offset: &u64| messages.binary_search_by_key(offset, |stored| stored.offset).is_ok();
        let missing: Vec<u64> = claim.span.iter().filter(|offset| !there(offset)).collect();
        if let Some(partitions) = &mut lock(&self.state).partitions {
            partitions.done(claim.part, missing.iter().copied());
        }
        let asked = missing.into_iter().map(|offset| (offset, Settle::Ack)).collect();
        let batch = Arc::new(Batch { claim: claim.id, asked });
        self.store.settle(&self.scope, vec![batch], Box::new(drop));
    }

    /// A fetch came back.
    pub(crate) fn arrived(&self, packs: Result<Vec<Pack>>) {
        let mut state = lock(&self.state);
        state.fetching = false;
        match packs {
            Ok(packs) => {
                if !packs.is_empty() {
                    state.window.filled(Instant::now());
                }
                packs.into_iter().for_each(|pack| state.hand.put(pack));
            }
            Err(error) => state.failed = Some(error.with("topic", &self.topic.name)),
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Gives back what was fetched and not handed out.
    pub(crate) fn unfetch(self: &Arc<Self>, unused: Vec<Lost>) {
        if unused.is_empty() {
            return;
        }
        let member = self.clone();
        let done = move |back: Result<Vec<Claim>>| {
            if let (Some(partitions), Ok(back)) = (&mut lock(&member.state).partitions, back) {
                partitions.wait(&back);
            }
        };
        self.store.unfetch(&self.scope, unused, Box::new(done));
    }
}
