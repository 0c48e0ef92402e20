//! A member under an order: it owns partitions, reads their keys ahead, and writes down what it hands out.
//!
//! One chain of steps at a time, each on the thread that has the right connection: look at the group (writer), read keys
//! (reader), pick from the gates and write it down (writer), read the messages (reader).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use linchpin_core::Result;
use linchpin_core::bus::Settle;
use linchpin_core::time::{from_millis, since};
use rusqlite::Connection;

use super::core::lock;
use super::hand::{Group, Lost};
use super::lease::{self, Marked, View};
use super::member::{AT_LEAST, Member, State};
use super::order::{Chunk, Keys, Picks, SHARE};
use super::settle::Settled;
use super::topic::{offset, place};
use super::tx::{Step, Tx};

/// A member that nobody asked for messages for this long, and that has nothing in hand, leaves its partitions to others.
const IDLE: Duration = Duration::from_secs(1);

impl Member {
    /// Starts the chain: what the gates let out is written down; if they are empty, the group is looked at first.
    pub(super) fn fetch_ordered(self: &Arc<Self>, state: &mut State, want: usize) {
        let now = from_millis(self.core.hub.now());
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
        let (member, scope, mine) = (self.clone(), self.scope.clone(), partitions.mine());
        let work = move |tx: &Tx<'_>| {
            if woken {
                lease::set_active(tx, &scope, true)?;
            }
            lease::look(tx, &scope, &mine)
        };
        self.core.submit("next", false, 1, work, move |view| member.looked(view, want));
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
        let keys = partitions.needs_keys();
        // A look for nobody in particular found something: whoever waits goes on with it.
        state.news |= want == 0 && !chunks.is_empty();
        drop(state);
        if chunks.is_empty() {
            return self.filled(want);
        }
        let core = self.core.clone();
        core.look(move |conn| {
            let read: Step<Vec<Keys>> = chunks.iter().map(|chunk| read_keys(conn, chunk, keys)).collect();
            match read {
                Ok(read) => {
                    if let Some(partitions) = &mut lock(&self.state).partitions {
                        chunks.iter().zip(read).for_each(|(chunk, keys)| partitions.fill(chunk, keys));
                    }
                    self.filled(want);
                }
                Err(error) => {
                    // What wasn't read is missing in the gates: the partitions are taken anew.
                    chunks.iter().for_each(|chunk| lock(&self.state).lose(chunk.part));
                    self.arrived(Err(error.into_error("next")));
                }
            }
        });
    }

    /// The gates are filled: go on, or be done with nothing.
    fn filled(self: Arc<Self>, want: usize) {
        let now = self.core.hub.now();
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
        let wait = partitions.next_due(from_millis(now)).map_or(AT_LEAST, |due| since(due, from_millis(now)));
        state.again_at = Instant::now() + wait.clamp(Duration::from_millis(1), AT_LEAST);
        drop(state);
        self.arrived(Ok(Vec::new()));
    }

    fn mark(self: &Arc<Self>, picks: Vec<Picks>) {
        let picks = Arc::new(picks);
        let (member, scope, mine) = (self.clone(), self.scope.clone(), picks.clone());
        let work = move |tx: &Tx<'_>| {
            mine.iter().map(|p| lease::mark(tx, &scope, p.part, p.fence, &p.picks)).collect::<Step<Vec<_>>>()
        };
        self.core.submit("next", false, 1, work, move |marked| member.marked(&picks, marked));
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
    pub(super) fn settled_ordered(state: &mut State, groups: &[Group], settled: &[Settled]) {
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

    /// What the writer thread looks after: late deliveries, shares, partitions to hand over.
    pub(super) fn tick_ordered(self: &Arc<Self>, state: &mut State, late: Vec<Lost>, now: Instant) {
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
            let (scope, active) = (self.scope.clone(), !partitions.idle);
            let work = move |tx: &Tx<'_>| lease::release(tx, &scope, &over, active);
            self.core.submit("hand over", false, 1, work, |_| ());
        }
        if now >= partitions.look_at && !partitions.idle && !state.fetching {
            state.fetching = true;
            // Nothing is picked for nobody.
            self.look(state, 0);
        }
    }

    fn take_back(self: &Arc<Self>, late: Lost) {
        let (member, scope) = (self.clone(), self.scope.clone());
        let work = move |tx: &Tx<'_>| {
            Ok((late.part, late.offsets.clone(), lease::take_back(tx, &scope, late.claim, &late.offsets)?))
        };
        self.core.submit("take back", false, 1, work, move |back| {
            if let Ok((part, offsets, waiting)) = back {
                if let Some(partitions) = &mut lock(&member.state).partitions {
                    partitions.wait(&waiting);
                    partitions.done(part, offsets);
                }
                member.wake();
            }
        });
    }
}

impl State {
    /// Forgets a partition that went to another, and everything of it.
    pub(super) fn lose(&mut self, part: i64) {
        if let Some(partitions) = &mut self.partitions {
            partitions.forget(part);
        }
        self.hand.unshelve(|pack| pack.part == part);
        self.hand.forget_part(part);
    }
}

/// The keys of a chunk; a message that isn't in the file any more is left in, and found missing when it is read.
fn read_keys(conn: &Connection, chunk: &Chunk, keys: bool) -> Step<Keys> {
    if !keys {
        return Ok(chunk.span.iter().map(|offset| (offset, None)).collect());
    }
    let mut select =
        conn.prepare_cached("SELECT place, key FROM lp_message WHERE place BETWEEN ?1 AND ?2")?;
    let (first, last) = (place(chunk.part, chunk.span.first()), place(chunk.part, chunk.span.last()));
    let mut rows = select.query([first, last])?;
    let mut out = Vec::with_capacity(usize::try_from(chunk.span.len()).unwrap_or(0));
    while let Some(row) = rows.next()? {
        let at = offset(row.get(0)?);
        if chunk.span.contains(at) {
            out.push((at, row.get_ref(1)?.as_blob_or_null()?.map(Bytes::copy_from_slice)));
        }
    }
    Ok(out)
}
