//! Fetching without order: members compete for every message.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use futures_util::future::{join_all, maybe_done};
use futures_util::poll;
use linchpin_core::bus::{NO_REPLY, is_for};
use linchpin_core::{Error, Result};
use redis::{Pipeline, Value, from_redis_value};

use super::core::lock;
use super::entry::{Entry, decode};
use super::error::map;
use super::keys::PartKeys;
use super::link::answer;
use super::member::Member;
use super::script::Call;
use super::state::{Grip, Look, Parcel, SHELF};

/// The most messages that are fetched ahead.
const AHEAD: usize = 2048;
/// And the most bytes of them, if the last ones are a measure.
const BYTES: usize = 8 << 20;
/// How many fetches for a quick consumer are under way at once; the window is shared among them.
const UNDER_WAY: usize = 2;
/// The least share of a partition that is read beside the script.
const APART: usize = 32;
/// What a consumer of other programs may hold a message for.
const FOREIGN: Duration = Duration::from_secs(60);

/// Entries of one partition: which one, its epoch, the attempt, the entries.
type Run = (usize, i64, i64, Vec<Entry>);
/// Now, when something is due, runs, the epoch of each partition.
type Fetched = (i64, i64, Vec<Run>, Vec<i64>);
/// Streams with what was read of them.
type Reading = Option<Vec<(Vec<u8>, Vec<Entry>)>>;
/// And the partitions that were asked.
type Answer<'m> = (Vec<&'m (u32, PartKeys)>, Fetched);

/// What a fetch brought.
#[derive(Debug, Default)]
struct Catch {
    parcels: Vec<Parcel>,
    skipped: Vec<Grip>,
    hopeless: Vec<(Grip, String)>,
    /// When something else is due.
    due: Option<Duration>,
    failed: Option<Error>,
}

/// A look that was made, and what the servers answered.
struct Looked<'m> {
    number: u64,
    began: Instant,
    /// How often the group had been moved.
    moved: u64,
    told: bool,
    count: usize,
    answers: Vec<Result<Answer<'m>>>,
}

impl Looked<'_> {
    /// How many messages came; nothing if something failed.
    fn came(&self) -> Option<usize> {
        let entries = |(_, (_, _, runs, _)): &Answer<'_>| runs.iter().map(|run| run.3.len()).sum::<usize>();
        self.answers.iter().map(|answer| answer.as_ref().ok().map(entries)).sum()
    }
}

impl Member {
    /// Fetches up to `count` messages and puts them on the shelf; more of them as long as the consumer is quicker.
    pub(super) async fn fetch(&self, count: usize) -> Result<()> {
        let mut asked = VecDeque::from([Box::pin(maybe_done(self.ask_for(count)))]);
        let mut outcome = Ok(());
        while let Some(mut first) = asked.pop_front() {
            first.as_mut().await;
            let Some(looked) = first.as_mut().take_output() else { continue };
            // The server is at work on the next ones while these are unpacked.
            while outcome.is_ok()
                && asked.len() < UNDER_WAY
                && let Some(count) = self.ahead(&looked, asked.len())
            {
                let mut next = Box::pin(maybe_done(self.ask_for(count)));
                let _begun = poll!(next.as_mut());
                asked.push_back(next);
            }
            tokio::task::yield_now().await;
            outcome = outcome.and(self.sort_all(looked).await);
        }
        outcome
    }

    async fn ask_for(&self, count: usize) -> Looked<'_> {
        let began = Instant::now();
        let (turn, moved, told, number) = {
            let mut state = lock(&self.state);
            state.begun += 1;
            let told = std::mem::take(&mut state.news) || state.expected.is_some_and(|at| at <= began);
            state.turn = state.turn.wrapping_add(1);
            (state.turn, state.moved, told, state.begun)
        };
        let mut parts: Vec<&(u32, PartKeys)> = self.parts.iter().collect();
        let first = turn.checked_rem(parts.len()).unwrap_or(0);
        parts.rotate_left(first);
        let answers = self.ask_all(&parts, count).await;
        Looked { number, began, moved, told, count, answers }
    }

    /// How many to look for beside so many fetches that are under way: nothing, unless there was plenty of what came, a quick
    /// consumer has taken all there was before, and no chore waits.
    fn ahead(&self, looked: &Looked<'_>, under_way: usize) -> Option<usize> {
        let came = looked.came().filter(|came| *came >= looked.count - looked.count / 8)?;
        let (state, now) = (lock(&self.state), Instant::now());
        let share = state.window / UNDER_WAY;
        let quick = now < state.last_next + SHELF / 5 && state.shelf.len() < state.window;
        let free = !state.closed && now < state.beat_at && state.overdue_at.is_none_or(|at| now < at);
        let held = state.held.len() + state.shelf.len() + came + under_way * share;
        let fits = held + share <= self.options.max_in_flight;
        (quick && free && fits && share > 0).then_some(share)
    }

    /// Puts what came on the shelf, and settles at once what isn't to be handed out.
    async fn sort_all(&self, looked: Looked<'_>) -> Result<()> {
        let Looked { number, began, moved, told, count, answers } = looked;
        let mut catch = Catch::default();
        for answer in answers {
            match answer {
                Ok(answer) => self.sort(answer, began, &mut catch),
                Err(error) => catch.failed = Some(error),
            }
        }
        let Catch { parcels, skipped, hopeless, due, failed } = catch;
        let came = !parcels.is_empty() || !skipped.is_empty() || !hopeless.is_empty();
        // A look that failed ends with its failure, so that nobody finds it ended and nothing there.
        let (heard, ended) = (self.core.hints.is_heard(&self.channel), failed.is_none().then_some(number));
        self.shelve(parcels, count, moved, Look { due, came, told, heard, ended });
        if !skipped.is_empty() {
            self.ack_all(skipped).await?;
        }
        self.bury(hopeless).await.into_iter().collect::<Result<()>>()?;
        failed.map_or(Ok(()), |error| Err(self.gone(error)))
    }

    /// What is for the consumer, what is for another group, and what has no attempt left.
    fn sort(&self, (slot, (now, at, runs, _)): Answer<'_>, began: Instant, catch: &mut Catch) {
        if at >= 0 {
            let wait = Duration::from_millis((at - now).max(0).unsigned_abs());
            catch.due = Some(catch.due.map_or(wait, |due| due.min(wait)));
        }
        let filled = Instant::now();
        for (index, epoch, attempt, entries) in runs {
            let Some((partition, keys)) = slot.get(index) else { continue };
            let attempts = u32::try_from(attempt.unsigned_abs()).unwrap_or(u32::MAX);
            let until = began + self.options.ack_wait + 2 * SHELF;
            let safe = self.safe_from(now);
            for Entry { id, fields } in entries {
                let grip =
                    Grip { partition: *partition, id, attempt: attempts, epoch, fence: 0, safe, until };
                let message = decode(&keys[0], id, fields);
                if attempt < 0 {
                    catch.hopeless.push((grip, NO_REPLY.to_owned()));
                } else if is_for(&message, &self.joined.group) {
                    catch.parcels.push(Parcel { grip, message, filled });
                } else {
                    catch.skipped.push(grip);
                }
            }
        }
    }

    /// One answer of a server, or of each slot of a cluster: together they fetch no more than asked, and what is asked for
    /// is looked for everywhere before there is less of it.
    async fn ask_all<'m>(&self, parts: &[&'m (u32, PartKeys)], count: usize) -> Vec<Result<Answer<'m>>> {
        if let Some(answer) = self.ask_apart(parts, count).await {
            return vec![answer.map(|fetched| (parts.to_vec(), fetched))];
        }
        let fetching = &Call::new(self.core.form.scripts.fetch);
        let mut left = count;
        let mut answers = Vec::new();
        let mut slots: VecDeque<&[&'m (u32, PartKeys)]> =
            if self.core.link.is_cluster() { parts.chunks(1).collect() } else { VecDeque::from([parts]) };
        while left > 0 && !slots.is_empty() {
            let now: Vec<_> = slots.drain(..slots.len().min(left)).collect();
            let (share, more) = (left / now.len(), left % now.len());
            let asking = now.into_iter().enumerate().map(|(n, slot)| async move {
                let call = slot.iter().fold(fetching.clone(), |call, (_, keys)| call.keys(keys));
                let call = self.ask(call, share + usize::from(n < more)).text("");
                Ok((slot.to_vec(), self.core.link.call::<Fetched>(&call, "next").await?))
            });
            for answer in join_all(asking).await {
                let came = answer
                    .as_ref()
                    .map_or(0, |(_, (_, _, runs, _))| runs.iter().map(|run| run.3.len()).sum());
                left = left.saturating_sub(came);
                answers.push(answer);
            }
        }
        answers
    }

    /// Large batches from one server: partitions that had plenty at the last look are read beside the script, in one
    /// transaction with it, and all else is left to the script. `None` if that isn't worth it, or was refused.
    async fn ask_apart(&self, parts: &[&(u32, PartKeys)], count: usize) -> Option<Result<Fetched>> {
        let is_full: Vec<bool> = {
            let state = lock(&self.state);
            parts.iter().map(|(partition, _)| state.full.contains(partition)).collect()
        };
        let full = is_full.iter().filter(|full| **full).count();
        let share = (count - count / 8) / full.max(1);
        if self.core.form.lists || self.core.link.is_cluster() || full == 0 || share < APART {
            return None;
        }
        let call =
            parts.iter().fold(Call::new(self.core.form.scripts.fetch), |call, (_, keys)| call.keys(keys));
        let flags: String = is_full.iter().map(|full| if *full { '1' } else { '0' }).collect();
        let script = self.ask(call, count - share * full).text(&flags).command(true);
        let mut pipeline = Pipeline::new();
        pipeline.atomic().add_command(script);
        let read: Vec<_> =
            (0..).zip(parts).zip(&is_full).filter(|(_, full)| **full).map(|(p, _)| p).collect();
        for (_, (_, [stream, ..])) in &read {
            let read =
                pipeline.cmd("XREADGROUP").arg("GROUP").arg(&self.joined.group).arg(&self.joined.consumer);
            read.arg("COUNT").arg(share).arg("STREAMS").arg(stream).arg(">");
        }
        match self.core.link.transact(&pipeline, "next").await {
            Ok(answers) => Some(put_together(answers?, read.into_iter().map(|(index, _)| index))),
            Err(error) => Some(Err(error)),
        }
    }

    fn ask(&self, call: Call, count: usize) -> Call {
        let call = call.text(&self.joined.group).text(&self.joined.consumer).text(&self.joined.born);
        call.number(count).number(self.options.max_attempts).number(FOREIGN.as_millis()).text(&self.channel)
    }

    /// Puts fetched messages on the shelf, and says when to look again.
    fn shelve(&self, parcels: Vec<Parcel>, count: usize, moved: u64, look: Look) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        state.looked(look, now);
        let mut counts = BTreeMap::<u32, usize>::new();
        parcels.iter().for_each(|parcel| *counts.entry(parcel.grip.partition).or_default() += 1);
        state.full = counts.into_iter().filter(|(_, count)| *count >= APART).map(|(n, _)| n).collect();
        let size: usize = parcels.iter().map(|parcel| parcel.message.size()).sum();
        let most = (BYTES / (size / parcels.len().max(1)).max(1)).clamp(1, AHEAD);
        if parcels.len() >= count - count / 8 && now < state.last_next + SHELF / 5 {
            // It came back for more at once.
            state.window = (state.window.max(count) * 2).min(most).min(self.options.max_in_flight / 2);
        } else {
            state.window = state.window.min(most);
        }
        if state.moved == moved {
            state.shelf.extend(parcels);
        }
        drop(state);
        self.changed.notify_waiters();
    }
}

/// What the script answered, and what was read beside it from the partitions of these places.
fn put_together(answers: Vec<Value>, read: impl Iterator<Item = usize>) -> Result<Fetched> {
    let mut answers = answers.into_iter();
    let said = |e: redis::RedisError| map(e, "next");
    let script = answer(answers.next().unwrap_or_default()).map_err(said)?;
    let (now, due, mut runs, epochs): Fetched = from_redis_value(script).map_err(|e| said(e.into()))?;
    for (index, read) in read.zip(answers) {
        let streams: Reading = from_redis_value(answer(read).map_err(said)?).map_err(|e| said(e.into()))?;
        let epoch = epochs.get(index).copied().unwrap_or_default();
        runs.extend(streams.unwrap_or_default().into_iter().map(|(_, entries)| (index, epoch, 1, entries)));
    }
    Ok((now, due, runs, epochs))
}
