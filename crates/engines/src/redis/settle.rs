//! Settling: what becomes of deliveries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use linchpin_core::bus::{
    Message, Origin, Partitioner, Receipt, Settle, TopicOptions, dead_letter, dead_topic,
};
use linchpin_core::time::{from_millis, plus};
use linchpin_core::{Error, Kind, Result};

use super::core::lock;
use super::entry::{Entry, decode};
use super::error::fenced;
use super::member::Member;
use super::script::Call;
use super::state::{Grip, SHELF};

/// The most settles of one script.
const CHUNK: usize = 1_000;
/// Acks that come this long before a lease ends aren't likely to meet its end on the server.
const MARGIN: Duration = Duration::from_secs(1);

/// What is done with a pending entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Ack,
    Extend,
    Nack(Duration),
    /// Waits again at once, counted as handed out so often.
    Back(u32),
    /// The same, and nobody saw it this time.
    Unread(u32),
}

/// One act, and what it was asked for.
#[derive(Debug)]
struct Task {
    at: usize,
    receipt: u64,
    grip: Grip,
    act: Act,
    /// Why it is to be buried, if it is.
    reason: Option<String>,
}

impl Member {
    pub(super) async fn settle(self: &Arc<Self>, batch: Vec<(Receipt, Settle)>) -> Vec<Result<()>> {
        let count = batch.len();
        if let Err(error) = self.core.check_open() {
            return vec![Err(error.op("settle")); count];
        }
        let member = self.clone();
        // Runs to its end even if the caller doesn't wait for it: what is known here stays true.
        let settling = tokio::spawn(async move { member.settle_all(batch).await });
        settling.await.unwrap_or_else(|_| vec![Err(super::error::closed().op("settle")); count])
    }

    async fn settle_all(&self, batch: Vec<(Receipt, Settle)>) -> Vec<Result<()>> {
        // One that isn't told of by the end was lost before.
        let mut answers: Vec<Option<Result<()>>> = batch.iter().map(|_| None).collect();
        let tasks = self.tasks(batch);
        let acts: Vec<(Grip, Act)> = tasks.iter().map(|task| (task.grip, task.act)).collect();
        let took = self.act(&acts, "settle").await;
        let mut graves = Vec::new();
        for (task, took) in tasks.into_iter().zip(took) {
            let answer = match (took, task.reason.clone()) {
                (Ok(Some(now)), Some(reason)) => {
                    graves.push((task, reason, now));
                    continue;
                }
                (Ok(Some(now)), None) => {
                    self.settled(&task, now);
                    Ok(())
                }
                (Ok(None), _) => {
                    self.lost(task.receipt, &task.grip);
                    Err(fenced())
                }
                (Err(error), _) => {
                    self.unsettled(task.receipt);
                    Err(error)
                }
            };
            put(&mut answers, task.at, Some(answer));
        }
        for (at, answer) in self.bury_all(graves).await {
            put(&mut answers, at, Some(answer));
        }
        self.asked.notify_one();
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(fenced()))).collect()
    }

    /// Buries deliveries, each with its reason and the server's time: the answer for each place in the batch.
    async fn bury_all(&self, graves: Vec<(Task, String, i64)>) -> Vec<(usize, Result<()>)> {
        let hopeless = graves.iter().map(|(task, reason, now)| {
            (Grip { safe: task.grip.safe.max(self.safe_from(*now)), ..task.grip }, reason.clone())
        });
        let buried = self.bury(hopeless.collect()).await;
        let told = graves.into_iter().zip(buried).map(|((task, ..), answer)| {
            match &answer {
                Ok(()) => self.lost(task.receipt, &task.grip),
                Err(_) => self.unsettled(task.receipt),
            }
            (task.at, answer)
        });
        told.collect()
    }

    /// What is to be done with those that are in hand.
    fn tasks(&self, batch: Vec<(Receipt, Settle)>) -> Vec<Task> {
        let mut state = lock(&self.state);
        let now = Instant::now();
        let overdue = state.overdue_at.is_some_and(|at| now >= at);
        let mut tasks = Vec::with_capacity(batch.len());
        for (at, (Receipt(receipt), settle)) in batch.into_iter().enumerate() {
            let Some(held) = state.held.get_mut(&receipt).filter(|held| !held.settling) else { continue };
            if overdue && held.grip.until <= now {
                continue;
            }
            held.settling = true;
            let grip = held.grip;
            let last = grip.attempt >= self.options.max_attempts;
            let (act, reason) = match settle {
                Settle::Ack => (Act::Ack, None),
                Settle::Extend => (Act::Extend, None),
                Settle::Nack { delay, .. } if !last => (Act::Nack(delay), None),
                // Its own for long enough to be buried.
                Settle::Nack { reason, .. } | Settle::Dead { reason } => (Act::Extend, Some(reason)),
            };
            tasks.push(Task { at, receipt, grip, act, reason });
        }
        tasks
    }

    pub(super) fn safe_from(&self, now: i64) -> i64 {
        now + i64::try_from((self.options.ack_wait + 2 * SHELF).as_millis()).unwrap_or(i64::MAX / 2)
    }

    fn settled(&self, task: &Task, now: i64) {
        let mut state = lock(&self.state);
        if task.act == Act::Extend {
            let until = Instant::now() + self.options.ack_wait;
            if let Some(held) = state.held.get_mut(&task.receipt) {
                held.settling = false;
                held.grip.safe = held.grip.safe.max(self.safe_from(now));
                held.grip.until = until;
            }
            state.overdue_at = Some(state.overdue_at.map_or(until, |at| at.min(until)));
            return;
        }
        let message = state.held.remove(&task.receipt).and_then(|held| held.message);
        if let Some(ordered) = &mut state.ordered {
            match (task.act, message) {
                (Act::Nack(delay), Some(message)) => {
                    // Rounded up, as on the server.
                    let due = plus(from_millis(now), delay + Duration::from_millis(1));
                    ordered.wait_again(&task.grip, message, task.grip.attempt, due);
                }
                _ => ordered.done(&task.grip),
            }
            state.news = true;
        }
    }

    fn lost(&self, receipt: u64, grip: &Grip) {
        let mut state = lock(&self.state);
        state.held.remove(&receipt);
        if let Some(ordered) = &mut state.ordered {
            ordered.done(grip);
        }
    }

    fn unsettled(&self, receipt: u64) {
        let mut state = lock(&self.state);
        // A member that left forgot it meanwhile; it comes back when its lease ends.
        if state.closed {
            state.held.remove(&receipt);
        } else if let Some(held) = state.held.get_mut(&receipt) {
            held.settling = false;
        }
    }

    /// Acts on pending entries: the server's time for each that took effect, nothing for one that was lost.
    pub(super) async fn act(&self, acts: &[(Grip, Act)], op: &'static str) -> Vec<Result<Option<i64>>> {
        let mut groups: BTreeMap<(u32, i64, u64), Vec<usize>> = BTreeMap::new();
        for (n, (grip, _)) in acts.iter().enumerate() {
            groups.entry((grip.partition, grip.epoch, grip.fence)).or_default().push(n);
        }
        let chunks: Vec<&[usize]> = groups.values().flat_map(|group| group.chunks(CHUNK)).collect();
        let acting = chunks.iter().map(|chunk| self.act_on(acts, chunk, op));
        let mut answers: Vec<Result<Option<i64>>> = acts.iter().map(|_| Ok(None)).collect();
        for answered in join_all(acting).await {
            for (n, answer) in answered {
                put(&mut answers, n, answer);
            }
        }
        answers
    }

    async fn act_on(
        &self,
        acts: &[(Grip, Act)],
        chunk: &[usize],
        op: &'static str,
    ) -> Vec<(usize, Result<Option<i64>>)> {
        let of = |n: &usize| acts.get(*n).map(|(grip, act)| (*n, grip, act));
        let (acks, others): (Vec<_>, Vec<_>) =
            chunk.iter().filter_map(of).partition(|(.., act)| **act == Act::Ack);
        let Some((_, first, _)) = acks.first().or(others.first()) else { return Vec::new() };
        let soon = Instant::now() + MARGIN;
        // A list has nothing else to tell by who holds a message.
        let late = self.core.form.lists || acks.iter().any(|(_, grip, _)| grip.until <= soon);
        let mut answer = self.ask_to_settle(first, &acks, &others, late, op).await;
        if answer.as_ref().is_ok_and(|(_, took)| took == b"?") {
            answer = self.ask_to_settle(first, &acks, &others, true, op).await;
        }
        let order = acks.into_iter().chain(others).map(|(n, ..)| n);
        match answer {
            Ok((now, took)) => {
                let mut took = took.into_iter();
                order.map(|n| (n, Ok((took.next() == Some(b'1')).then_some(now)))).collect()
            }
            Err(error) => order.map(|n| (n, Err(error.clone()))).collect(),
        }
    }

    /// Settles acks and others that have partition, epoch and fence in common with `first`. Well before anybody else can
    /// have them, how often they were handed out needn't be `compared`; the server says if it must be all the same.
    async fn ask_to_settle(
        &self,
        first: &Grip,
        acks: &[(usize, &Grip, &Act)],
        others: &[(usize, &Grip, &Act)],
        compared: bool,
        op: &'static str,
    ) -> Result<(i64, Vec<u8>)> {
        let nothing = || Err(super::error::closed().op(op));
        let Some([stream, record, waiting, _]) = self.keys_of(first.partition) else { return nothing() };
        let safe = acks.iter().map(|(_, grip, _)| grip.safe).min().unwrap_or(0);
        let call = Call::new(self.core.form.scripts.settle)
            .key(stream.clone())
            .key(record.clone())
            .key(waiting.clone());
        let call = call.text(&self.joined.group).text(&self.joined.consumer).text(&self.joined.born);
        let call =
            call.number(first.epoch).number(first.fence).number(safe).text(&self.channel).number(acks.len());
        let call = acks.iter().fold(call, |call, (_, grip, _)| call.number(grip.id));
        let attempts = acks.iter().filter(|_| compared);
        let call =
            attempts.fold(call.number(u8::from(compared)), |call, (_, grip, _)| call.number(grip.attempt));
        let call = others.iter().fold(call, |call, (_, grip, act)| {
            let (what, number) = match act {
                // Rounded up: never sooner than asked.
                Act::Nack(delay) => ("nack", delay.as_micros().div_ceil(1_000)),
                // One that nobody ever saw goes back into the list.
                Act::Unread(0) if self.core.form.lists => ("unread", 0),
                Act::Back(attempts) | Act::Unread(attempts) => ("back", u128::from(*attempts)),
                Act::Ack | Act::Extend => ("extend", 0),
            };
            call.text(what).number(grip.id).number(grip.attempt).number(number)
        });
        self.core.link.call(&call, op).await
    }

    pub(super) fn keys_of(&self, partition: u32) -> Option<&super::keys::PartKeys> {
        self.parts.iter().find(|(n, _)| *n == partition).map(|(_, keys)| keys)
    }

    pub(super) async fn ack_all(&self, grips: Vec<Grip>) -> Result<()> {
        let acts: Vec<_> = grips.into_iter().map(|grip| (grip, Act::Ack)).collect();
        self.act(&acts, "next").await.into_iter().try_for_each(|answer| answer.map(drop))
    }

    /// Gives back what was fetched and never handed out: that was no attempt.
    pub(super) async fn give_back(&self, grips: Vec<Grip>) -> Result<()> {
        self.put_back(grips.into_iter().map(|grip| (grip, Act::Unread(grip.attempt - 1))).collect()).await
    }

    /// Gives back, each counted as it says.
    pub(super) async fn put_back(&self, acts: Vec<(Grip, Act)>) -> Result<()> {
        self.act(&acts, "close").await.into_iter().try_for_each(|answer| answer.map(drop))
    }

    /// Moves messages to the dead letters: stored there first, settled here then. Broadcast subscribers leave none.
    pub(super) async fn bury(&self, hopeless: Vec<(Grip, String)>) -> Vec<Result<()>> {
        if hopeless.is_empty() {
            return Vec::new();
        }
        let stored = match &self.options.group {
            Some(group) => self.store_letters(group, &hopeless).await,
            None => hopeless.iter().map(|_| Ok(())).collect(),
        };
        let acts: Vec<_> = hopeless.into_iter().map(|(grip, _)| (grip, Act::Ack)).collect();
        let ready: Vec<_> =
            acts.into_iter().zip(&stored).filter(|(_, stored)| stored.is_ok()).map(|(act, _)| act).collect();
        let mut acked = self.act(&ready, "settle").await.into_iter();
        let answer = |stored: Result<()>| {
            stored.and_then(|()| {
                acked.next().unwrap_or(Ok(None)).and_then(|took| took.map(drop).ok_or_else(fenced))
            })
        };
        stored.into_iter().map(answer).collect()
    }

    async fn store_letters(&self, group: &str, hopeless: &[(Grip, String)]) -> Vec<Result<()>> {
        let grave = dead_topic(&self.topic.name, group);
        let partitions = match self.dead_partitions(&grave).await {
            Ok(partitions) => partitions,
            Err(error) => return hopeless.iter().map(|_| Err(error.clone())).collect(),
        };
        let now = self.core.link.now("settle").await;
        let now = match now {
            Ok(now) => from_millis(now),
            Err(error) => return hopeless.iter().map(|_| Err(error.clone())).collect(),
        };
        let (mut letters, mut answers) = (Vec::with_capacity(hopeless.len()), Vec::new());
        for (grip, reason) in hopeless {
            let position = grip.id.position(grip.partition);
            let origin = Origin { topic: &self.topic.name, group, position, attempts: grip.attempt };
            answers.push(self.body(grip).await.map(|message| {
                let metadata = self.core.form.caps.metadata;
                let letter = if metadata { dead_letter(message, origin, reason, now) } else { message };
                letters.push(letter.partition(grip.partition % partitions.max(1)));
            }));
        }
        let stored = self.core.store_all(&grave, letters, Partitioner::default()).await;
        for (answer, stored) in answers.iter_mut().filter(|answer| answer.is_ok()).zip(stored) {
            *answer = stored.map(drop);
        }
        answers
    }

    /// The partitions of a dead-letter topic, which is made if need be.
    async fn dead_partitions(&self, grave: &str) -> Result<u32> {
        let known = match self.core.known(grave, "settle").await {
            Err(e) if e.kind() == Kind::NotFound => {
                let options = TopicOptions {
                    retention_age: None,
                    retention_length: None,
                    // A letter is larger than its message by its headers.
                    max_message: 1 << 30,
                    ..self.topic.options.clone()
                };
                self.core.ensure(grave, &options).await?;
                self.core.known(grave, "settle").await
            }
            known => known,
        };
        Ok(known?.options.partitions)
    }

    /// The message again: its body isn't kept while it is in hand.
    async fn body(&self, grip: &Grip) -> Result<Message> {
        if self.core.form.lists {
            return self.payload_of(grip).await;
        }
        let mut cmd = redis::cmd("XRANGE");
        let stream = self.core.keys.stream(&self.topic.name, grip.partition);
        cmd.arg(&stream).arg(grip.id.to_string()).arg(grip.id.to_string());
        let answer = self.core.link.command(&cmd, "settle").await?;
        let entries: Vec<Entry> =
            redis::from_redis_value(answer).map_err(|e| super::error::map(e.into(), "settle"))?;
        let missing =
            || Error::new(Kind::Corrupt, "the message is missing in its stream").engine(super::NAME);
        let entry = entries.into_iter().next().ok_or_else(missing)?;
        Ok(decode(&stream, entry.id, entry.fields))
    }
}

fn put<T>(answers: &mut [T], at: usize, answer: T) {
    if let Some(slot) = answers.get_mut(at) {
        *slot = answer;
    }
}
