//! A member's fetches: claim on the writer thread, read on the reader thread, put on the shelf.

use std::sync::Arc;
use std::time::{Duration, Instant};

use linchpin_core::Result;
use linchpin_core::bus::Settle;
use rusqlite::Connection;

use super::claim::Claim;
use super::core::lock;
use super::fetch::{Fetched, Want, fetch};
use super::group;
use super::hand::{Lost, Pack, SHELF};
use super::member::{AT_LEAST, Member, State, unfetch};
use super::message::{Stored, read_places};
use super::settle::{Batch, settle};
use super::tx::{Step, Tx};

impl Member {
    /// Starts a fetch for a caller that wants `max`, if there is room for one.
    pub(super) fn fetch(self: &Arc<Self>, state: &mut State, max: usize, now: Instant) {
        let room = self.room(state);
        if room == 0 {
            // Settling makes room, and tells.
            state.again_at = now + AT_LEAST;
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
            only: group::only(&self.options),
            turn: state.turn,
        };
        let (member, scope) = (self.clone(), self.scope.clone());
        let work = move |tx: &Tx<'_>| {
            let fetched = fetch(tx, &scope, &want)?;
            Ok((fetched, tx.now()))
        };
        self.core.submit("next", false, 1, work, move |fetched| member.fetched(fetched, now));
    }

    fn fetched(self: Arc<Self>, fetched: Result<(Fetched, i64)>, began: Instant) {
        let (fetched, at) = match fetched {
            Ok(fetched) => fetched,
            Err(error) => return self.arrived(Err(error)),
        };
        let wait =
            fetched.next_due.map_or(AT_LEAST, |due| Duration::from_millis((due - at).max(0).unsigned_abs()));
        lock(&self.state).again_at = Instant::now() + wait.min(AT_LEAST);
        self.read(fetched.claims.into_iter().map(|claim| (claim, 0)).collect(), began);
    }

    /// Reads what was claimed, each claim with its partition's fence, and puts it on the shelf.
    pub(super) fn read(self: Arc<Self>, claims: Vec<(Claim, u64)>, began: Instant) {
        if claims.is_empty() {
            return self.arrived(Ok(Vec::new()));
        }
        // There was something, so there may be more: only an empty fetch says that there isn't.
        lock(&self.state).news = true;
        let core = self.core.clone();
        core.look(move |conn| match read_all(conn, &claims) {
            Ok(read) => self.arrived(Ok(self.packs(claims, read, began))),
            Err(error) => {
                let all = |(c, _): &(Claim, u64)| Lost {
                    claim: c.id,
                    part: c.part,
                    offsets: c.span.iter().collect(),
                };
                self.unfetch(claims.iter().map(all).collect());
                self.arrived(Err(error.into_error("next")));
            }
        });
    }

    fn packs(
        self: &Arc<Self>,
        claims: Vec<(Claim, u64)>,
        read: Vec<Vec<Stored>>,
        began: Instant,
    ) -> Vec<Pack> {
        let filled = Instant::now();
        let mut packs = Vec::with_capacity(claims.len());
        for ((claim, fence), messages) in claims.into_iter().zip(read) {
            if messages.len() as u64 != claim.span.len() {
                self.forget_missing(&claim, &messages);
            }
            packs.push(Pack {
                claim: claim.id,
                part: claim.part,
                partition: self.topic.partition(claim.part),
                attempt: claim.attempt,
                fence,
                filled,
                until: began + self.options.ack_wait + 2 * SHELF,
                messages: messages.into(),
            });
        }
        packs.retain(|pack| !pack.messages.is_empty());
        packs
    }

    /// Claimed messages that aren't in the file any more count as settled.
    fn forget_missing(self: &Arc<Self>, claim: &Claim, messages: &[Stored]) {
        let there = |offset: &u64| messages.binary_search_by_key(offset, |stored| stored.offset).is_ok();
        let missing: Vec<u64> = claim.span.iter().filter(|offset| !there(offset)).collect();
        if let Some(partitions) = &mut lock(&self.state).partitions {
            partitions.done(claim.part, missing.iter().copied());
        }
        let asked = missing.into_iter().map(|offset| (offset, Settle::Ack)).collect();
        let (scope, batch) = (self.scope.clone(), Batch { claim: claim.id, asked });
        self.core.submit("next", false, 1, move |tx| settle(tx, &scope, &batch), |_| ());
    }

    /// A fetch came back.
    pub(super) fn arrived(&self, packs: Result<Vec<Pack>>) {
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
    pub(super) fn unfetch(self: &Arc<Self>, unused: Vec<Lost>) {
        if unused.is_empty() {
            return;
        }
        let (member, scope) = (self.clone(), self.scope.clone());
        self.core.submit(
            "give back",
            false,
            1,
            move |tx| unfetch(tx, &scope, &unused),
            move |back| {
                if let (Some(partitions), Ok(back)) = (&mut lock(&member.state).partitions, back) {
                    partitions.wait(&back);
                }
            },
        );
    }
}

fn read_all(conn: &Connection, claims: &[(Claim, u64)]) -> Step<Vec<Vec<Stored>>> {
    claims.iter().map(|(claim, _)| read_places(conn, claim.part, &claim.span)).collect()
}
