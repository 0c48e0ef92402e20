//! A member under an order: it owns partitions, reads their keys ahead, and writes down what it hands out.
//!
//! One chain of steps at a time: look at the group, read keys, pick from the gates and write it down, read the messages.

use std::sync::Arc;
use std::time::{Duration, Instant};

use linchpin_core::Result;
use linchpin_core::bus::Settle;
use linchpin_core::time::{from_millis, since};

use super::hand::{Group, Lost};
use super::hub::lock;
use super::member::{Member, State};
use super::order::SHARE;
use super::store::{Keys, Marked, Picks, Settled, View};

/// A member that nobody asked for messages for this long, and that has nothing in hand, leaves its partitions to others.
const IDLE: Duration = Duration::from_secs(1);

impl Member {
    /// Starts the chain: what the gates let out is written down; if they are empty, the group is looked at first.
    pub(crate) fn fetch_ordered(self: &Arc<Self>, state: &mut State, want: usize) {
        let now = from_millis(self.store.now());
        let Some(partitions) = &mut state.partitions else { return };
        let picks = if partitions.idle { Vec::new() } else { partitions.pick(want, now) };
        if picks.is_empty() {
            self.look(state, want);
        } else {
            self.mark(picks);
        }
    }

    fn look(self: &Arc<Self>, state: &mut State, want: usize) {
        let Some(partitions) = &mut state.partitions else { return };
        partitions.look_at = Instant::now() + SHARE;
        let woken = std::mem::take(&mut partitions.idle);
        let (member, mine) = (self.clone(), partitions.mine());
        self.store.look(&self.scope, mine, woken, Box::new(move |view| member.looked(view, want)));
    }

    fn looked(self: Arc<Self>, view: Result<View>, want: usize) {
        let mut view = match view {
            Ok(view) => view,
            Err(error) => return self.arrived(Err(error)),
        };
        let mut state = lock(&self.state);
        std::mem::take(&mut view.lost).into_iter().for_each(|part| state.lose(part));
        let Some(partitions) = &mut state.partitions else { return };
        let chunks = partitions.learn(view);
        let needs_keys = partitions.needs_keys();
        // A look for nobody in particular found something: whoever waits goes on with it.
        state.news |= want == 0 && !chunks.is_empty();
        drop(state);
        if chunks.is_empty() {
            return self.filled(want);
        }
        let (chunks, store) = (Arc::new(chunks), self.store.clone());
        let mine = chunks.clone();
        let done = move |read: Result<Vec<Keys>>| match read {
            Ok(read) => {
                if let Some(partitions) = &mut lock(&self.state).partitions {
                    mine.iter().zip(read).for_each(|(chunk, keys)| partitions.fill(chunk, keys));
                }
                self.filled(want);
            }
            Err(error) => {
                // What wasn't read is missing in the gates: the partitions are taken anew.
                mine.iter().for_each(|chunk| lock(&self.state).lose(chunk.part));
                self.arrived(Err(error.op("next")));
            }
        };
        if needs_keys {
            store.keys(chunks, Box::new(done));
        } else {
            done(Ok(chunks
                .iter()
                .map(|chunk| chunk.span.iter().map(|offset| (offset, None)).collect())
                .collect()));
        }
    }

    /// The gates are filled: go on, or be done with nothing.
    fn filled(self: Arc<Self>, want: usize) {
        let now = self.store.now();
        let mut state = lock(&self.state);
        let closed = state.closed;
        let Some(partitions) = &mut state.partitions else { return };
        let picks = if closed { Vec::new() } else { partitions.pick(want, from_millis(now)) };
        if !picks.is_empty() {
            drop(state);
            return self.mark(picks);
        }
        if want == 0 {
            drop(state);
            return self.arrived(Ok(Vec::new()));
        }
        let wait = partitions
            .next_due(from_millis(now))
            .map_or(self.store.at_least(), |due| since(due, from_millis(now)));
        state.again_at = Instant::now() + wait.clamp(Duration::from_millis(1), self.store.at_least());
        drop(state);
        self.arrived(Ok(Vec::new()));
    }

    fn mark(self: &Arc<Self>, picks: Vec<Picks>) {
        let picks = Arc::new(picks);
        let (member, mine) = (self.clone(), picks.clone());
        self.store.mark(&self.scope, picks, Box::new(move |marked| member.marked(&mine, marked)));
    }

    fn marked(self: Arc<Self>, picks: &[Picks], marked: Result<Vec<Option<Marked>>>) {
        let mut state = lock(&self.state);
        let marked = match marked {
            Ok(marked) => marked,
            Err(error) => {
                if let Some(partitions) = &mut state.partitions {
                    picks.iter().for_each(|picks| partitions.unpick(picks));
                }
                drop(state);
                return self.arrived(Err(error));
            }
        };
        let mut claims = Vec::new();
        for (picks, marked) in picks.iter().zip(marked) {
            match marked {
                Some(marked) => {
                    if let Some(partitions) = &mut state.partitions {
                        partitions.passed(marked.passed);
                    }
                    claims.extend(marked.held.into_iter().map(|claim| (claim, picks.fence)));
                }
                None => state.lose(picks.part),
            }
        }
        drop(state);
        self.read(claims, Instant::now());
    }

    /// Brings the gates up to date with what was settled.
    pub(crate) fn settled_ordered(state: &mut State, groups: &[Group], settled: &[Settled]) {
        let Some(partitions) = &mut state.partitions else { return };
        for (group, settled) in groups.iter().zip(settled) {
            partitions.wait(&settled.waiting);
            // What was taken back meanwhile may be out again: only what took effect is done with.
            let asked = group.batch.asked.iter().zip(&settled.took);
            let done =
                asked.filter(|((_, how), took)| **took && *how != Settle::Extend).map(|((o, _), _)| *o);
            partitions.done(group.part, done);
        }
    }

    /// What the engine looks after: late deliveries, shares, partitions to hand over.
    pub(crate) fn tick_ordered(self: &Arc<Self>, state: &mut State, late: Vec<Lost>, now: Instant) {
        late.into_iter().for_each(|late| self.take_back(late));
        let asked = state.waiting > 0 || now.duration_since(state.last_next) < IDLE;
        let busy = state.fetching || state.hand.handed() + state.hand.shelved() > 0;
        let Some(partitions) = &mut state.partitions else { return };
        let idle = !asked && !busy && !partitions.alone && !partitions.idle;
        let over = if state.fetching { Vec::new() } else { partitions.hand_over(idle) };
        if idle {
            partitions.idle = partitions.is_empty();
        }
        if !over.is_empty() {
            self.store.release(&self.scope, over, !partitions.idle);
        }
        if now >= partitions.look_at && !partitions.idle && !state.fetching {
            state.fetching = true;
            // Nothing is picked for nobody.
            self.look(state, 0);
        }
    }

    fn take_back(self: &Arc<Self>, late: Lost) {
        let (member, late) = (self.clone(), Arc::new(late));
        let mine = late.clone();
        let done = move |waiting: Result<Vec<_>>| {
            if let Ok(waiting) = waiting {
                if let Some(partitions) = &mut lock(&member.state).partitions {
                    partitions.wait(&waiting);
                    partitions.done(mine.part, mine.offsets.iter().copied());
                }
                member.wake();
            }
        };
        self.store.take_back(&self.scope, late, Box::new(done));
    }
}

impl State {
    /// Forgets a partition that went to another, and everything of it.
    pub(crate) fn lose(&mut self, part: i64) {
        if let Some(partitions) = &mut self.partitions {
            partitions.forget(part);
        }
        self.hand.unshelve(|pack| pack.part == part);
        self.hand.forget_part(part);
    }
}
