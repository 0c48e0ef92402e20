//! The thread of a member of a Kafka group: it polls, takes partitions over and gives them away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use linchpin_core::{Kind, Result};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::oneshot;

use super::client::{count_partitions, list, native};
use super::error::{map, of_code, passing};
use super::hub::{Hub, Mode};
use super::member::{Event, Member, spawn, unassign};
use super::part::Part;
use super::start;
use super::tracker::Tracker;

/// How long a poll waits at most.
const TICK: Duration = Duration::from_millis(100);
/// How long a partition that goes to another process waits for what is in hand.
const DRAIN: Duration = Duration::from_secs(3);
/// The pause before something that failed is tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// Starts the thread; answers when the first partitions came, or it is known why none will.
pub(super) async fn start(hub: &Arc<Hub>, begin: linchpin_core::bus::Start) -> Result<()> {
    let (told, answer) = oneshot::channel();
    let member = Member::join(hub)?;
    hub.set_member(Some(member.clone()));
    let pump = Pump { hub: hub.clone(), member, told: Some(told), going: None };
    spawn("linchpin-kafka", move || pump.run(begin))?;
    let patience = hub.scope.ack_wait.min(hub.core.config.timeout) + Duration::from_millis(500);
    match tokio::time::timeout(patience, answer).await {
        Ok(Ok(result)) => result,
        // Others hold all partitions, or the brokers are slow: they come later.
        _ => Ok(()),
    }
}

struct Pump {
    hub: Arc<Hub>,
    member: Arc<Member>,
    told: Option<oneshot::Sender<Result<()>>>,
    going: Option<Going>,
}

/// Partitions that are given away.
struct Going {
    partitions: Vec<u32>,
    until: Instant,
    /// The commit that hands them over, once nothing is in hand.
    version: Option<u64>,
}

impl Pump {
    fn run(mut self, begin: linchpin_core::bus::Start) {
        match self.begin(begin) {
            Ok(()) => self.serve(),
            Err(error) => {
                self.hub.end(error.clone());
                self.tell(Err(error));
            }
        }
        self.close();
    }

    fn tell(&mut self, result: Result<()>) {
        if let Some(told) = self.told.take() {
            let _ = told.send(result);
        }
    }

    fn begin(&mut self, begin: linchpin_core::bus::Start) -> Result<()> {
        let consumer = &self.member.consumer;
        let scope = &self.hub.scope;
        let all: Vec<u32> = (0..scope.partitions).collect();
        match &scope.mode {
            Mode::Broadcast => {
                let starts =
                    start::resolve(consumer, &scope.kafka, &all, begin, self.hub.core.config.timeout)?;
                let trackers = starts.into_iter().map(|(n, offset)| (n, Tracker::at(offset))).collect();
                self.take_over(trackers, false)?;
                self.tell(Ok(()));
            }
            Mode::Chosen(partitions) => {
                start::begin_group(consumer, scope, begin, self.hub.core.config.timeout)?;
                let trackers = self.load(partitions)?;
                self.take_over(trackers, false)?;
                self.tell(Ok(()));
            }
            Mode::Shared => {
                start::begin_group(consumer, scope, begin, self.hub.core.config.timeout)?;
                consumer.subscribe(&[&scope.kafka]).map_err(|e| map(e, "subscribe"))?;
            }
        }
        Ok(())
    }

    fn serve(&mut self) {
        while !self.hub.is_over() {
            let wait = if self.going.is_some() { TICK / 10 } else { TICK };
            if let Some(Err(error)) = self.member.consumer.poll(wait) {
                self.troubled(&error);
            }
            for event in self.member.events() {
                self.rebalance(event);
            }
            self.give_away();
            self.hub.tick();
        }
    }

    fn rebalance(&mut self, event: Event) {
        tracing::debug!(?event, group = self.hub.scope.kafka_group, "rebalance");
        match event {
            Event::Assign(partitions) => {
                let assigned = self.load(&partitions).and_then(|trackers| self.take_over(trackers, true));
                match assigned {
                    Ok(()) => self.tell(Ok(())),
                    Err(error) => {
                        tracing::warn!(%error, "the partitions can't be taken over");
                        self.hub.end(error);
                    }
                }
                self.hub.news.notify_waiters();
            }
            Event::Revoke { partitions, lost: true } => {
                let mut state = self.hub.lock();
                self.hub.lose(&mut state);
                drop(state);
                self.release(&partitions);
            }
            Event::Revoke { partitions, lost: false } => {
                let mut state = self.hub.lock();
                for n in &partitions {
                    if let Some(part) = state.parts.get_mut(n) {
                        part.resting = true;
                        part.unstage();
                    }
                }
                drop(state);
                let until = Instant::now() + DRAIN.min(self.hub.scope.ack_wait / 2);
                self.going = Some(Going { partitions, until, version: None });
            }
        }
    }

    /// Hands partitions over once nothing of them is in hand, or it took too long.
    fn give_away(&mut self) {
        let Some(going) = &mut self.going else { return };
        let mut state = self.hub.lock();
        let late = Instant::now() >= going.until;
        let busy = going.partitions.iter().any(|n| state.parts.get(n).is_some_and(|part| part.flying > 0));
        let version = match going.version {
            None if busy && !late => return,
            None => {
                let version = state.version();
                self.hub.commit(&mut state);
                going.version = Some(version);
                going.until = Instant::now() + DRAIN.min(self.hub.scope.ack_wait / 2);
                version
            }
            Some(version) => version,
        };
        let open = state.commits.outcome(version) == super::commits::Outcome::Open;
        if open && !late {
            return;
        }
        let partitions = std::mem::take(&mut going.partitions);
        for n in &partitions {
            state.ground(*n);
            state.parts.remove(n);
        }
        drop(state);
        self.going = None;
        self.release(&partitions);
    }

    fn release(&self, partitions: &[u32]) {
        let tpl = list(&self.hub.scope.kafka, partitions.iter().copied());
        if let Err(error) = unassign(&self.member.consumer, &tpl) {
            tracing::debug!(%error, "librdkafka has let go of the partitions already");
        }
    }

    /// What the group's commits say of partitions; tried again until the brokers answer.
    fn load(&self, partitions: &[u32]) -> Result<Vec<(u32, Tracker)>> {
        let timeout = self.hub.core.config.timeout;
        let scope = &self.hub.scope;
        loop {
            if partitions.is_empty() {
                return Ok(Vec::new());
            }
            let asked = list(&scope.kafka, partitions.iter().copied());
            let loaded = start::committed(&self.member.consumer, asked, timeout);
            match loaded {
                Err(error) if passing(&error) && !self.hub.is_over() => std::thread::sleep(AGAIN),
                Err(error) => return Err(error),
                Ok(found) => {
                    let known =
                        |n: u32| found.iter().find(|(m, _)| *m == n).map(|(_, tracker)| tracker.clone());
                    return Ok(partitions.iter().map(|n| (*n, known(*n).unwrap_or_default())).collect());
                }
            }
        }
    }

    /// Begins to fetch where the trackers say.
    fn take_over(&self, trackers: Vec<(u32, Tracker)>, more: bool) -> Result<()> {
        let scope = &self.hub.scope;
        let consumer = &self.member.consumer;
        let mut tpl = TopicPartitionList::new();
        let mut state = self.hub.lock();
        for (n, tracker) in trackers {
            let offset = Offset::Offset(i64::try_from(tracker.base()).unwrap_or(i64::MAX));
            tpl.add_partition_offset(&scope.kafka, native(n), offset).map_err(|e| map(e, "subscribe"))?;
            let mut queue = consumer.split_partition_queue(&scope.kafka, native(n));
            let (news, arrived) = (self.hub.news.clone(), self.hub.arrived.clone());
            if let Some(queue) = &mut queue {
                queue.set_nonempty_callback(move || {
                    arrived.store(true, std::sync::atomic::Ordering::Release);
                    news.notify_waiters();
                });
            }
            let born = state.number();
            let order = state.order;
            state.parts.insert(n, Part::new(born, tracker, order, queue));
        }
        drop(state);
        let assigned = if more { consumer.incremental_assign(&tpl) } else { consumer.assign(&tpl) };
        assigned.map_err(|e| map(e, "subscribe"))
    }

    /// An error that belongs to no call.
    fn troubled(&mut self, error: &KafkaError) {
        let Some(code) = error.rdkafka_error_code() else { return };
        let mapped = of_code(code, "next");
        match code {
            Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::UnknownPartition
            | Code::UnknownTopicId => {
                self.look_for_topic();
            }
            _ if matches!(mapped.kind(), Kind::Invalid | Kind::Denied | Kind::Config | Kind::Conflict) => {
                self.hub.end(mapped.clone());
                self.tell(Err(mapped));
            }
            _ => tracing::debug!(%error, topic = self.hub.scope.topic, "librdkafka says"),
        }
    }

    fn look_for_topic(&self) {
        let scope = &self.hub.scope;
        let timeout = self.hub.core.config.timeout;
        let metadata = self.member.consumer.fetch_metadata(Some(&scope.kafka), timeout);
        let there = count_partitions(metadata, &scope.kafka, "next");
        if let Err(error) = there
            && error.kind() == Kind::NotFound
        {
            self.hub.end(super::topic::named(error, &scope.topic));
        }
    }

    /// Leaves the Kafka group. The queues go first: they hold the consumer.
    fn close(self) {
        let Self { hub, member, .. } = self;
        hub.set_member(None);
        let mut state = hub.lock();
        hub.lose(&mut state);
        drop(state);
        hub.news.notify_waiters();
        member.leave();
        hub.left.notify_waiters();
    }
}
