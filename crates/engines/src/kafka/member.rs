//! The member of a Kafka group that a hub is: the consumer, what it calls back, and the thread that commits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use linchpin_core::{Error, Kind, Result};
use rdkafka::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

use super::NAME;
use super::client;
use super::error::map;
use super::hub::Hub;

/// What brokers allow by default.
const MAX_SESSION: Duration = Duration::from_secs(1800);
/// How often it is looked whether others have let go.
const MOMENT: Duration = Duration::from_millis(1);

/// What librdkafka calls back.
pub(super) struct Context {
    hub: Weak<Hub>,
    events: Mutex<Vec<Event>>,
    /// Nobody looks at events any more.
    closing: AtomicBool,
}

#[derive(Debug)]
pub(super) enum Event {
    Assign(Vec<u32>),
    Revoke { partitions: Vec<u32>, lost: bool },
}

impl ClientContext for Context {}

impl ConsumerContext for Context {
    // The thread that polls does the rest, right after the poll: librdkafka waits for it.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, err: RDKafkaRespErr, tpl: &mut TopicPartitionList) {
        let elements = tpl.elements();
        let partitions = elements.iter().map(|e| u32::try_from(e.partition()).unwrap_or_default());
        let partitions: Vec<u32> = partitions.collect();
        let assigned = err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::Acquire) {
            if !assigned {
                let _ = unassign(consumer, tpl);
            }
            return;
        }
        let event = if assigned {
            Event::Assign(partitions)
        } else {
            Event::Revoke { partitions, lost: consumer.assignment_lost() }
        };
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

/// Lets go of partitions that were taken away.
pub(super) fn unassign(consumer: &BaseConsumer<Context>, tpl: &TopicPartitionList) -> Result<(), KafkaError> {
    match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_unassign(tpl),
        _ => consumer.unassign(),
    }
}

/// The consumer of a hub.
pub(super) struct Member {
    pub(super) consumer: Arc<BaseConsumer<Context>>,
    /// To the thread that commits: librdkafka tells the outcome only to a call that waits for it.
    commits: Mutex<Option<Sender<TopicPartitionList>>>,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").finish_non_exhaustive()
    }
}

impl Member {
    /// A consumer with the thread that commits for it.
    pub(super) fn join(hub: &Arc<Hub>) -> Result<Arc<Self>> {
        let (events, closing) = (Mutex::default(), AtomicBool::new(false));
        let context = Context { hub: Arc::downgrade(hub), events, closing };
        let consumer: BaseConsumer<Context> =
            configure(hub).create_with_context(context).map_err(|e| map(e, "subscribe"))?;
        let (commits, lists) = channel::<TopicPartitionList>();
        let consumer = Arc::new(consumer);
        let committer = consumer.clone();
        spawn("linchpin-commit", move || {
            for list in lists {
                let result = committer.commit(&list, CommitMode::Sync);
                if let Some(hub) = committer.context().hub.upgrade() {
                    hub.committed(result, &list);
                }
            }
        })?;
        Ok(Arc::new(Self { consumer, commits: Mutex::new(Some(commits)) }))
    }

    /// Sends a commit; its outcome goes to [`Hub::committed`]. False if the member is on its way out.
    pub(super) fn commit(&self, list: TopicPartitionList) -> bool {
        let commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        commits.as_ref().is_some_and(|commits| commits.send(list).is_ok())
    }

    /// What happened in the last poll.
    pub(super) fn events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.consumer.context().events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Leaves the Kafka group, once whoever still sends a commit has let go of it.
    pub(super) fn leave(mut self: Arc<Self>) {
        self.consumer.context().closing.store(true, Ordering::Release);
        drop(self.commits.lock().unwrap_or_else(PoisonError::into_inner).take());
        let mut consumer = loop {
            match Arc::try_unwrap(self) {
                Ok(Self { consumer, .. }) => break consumer,
                Err(shared) => self = shared,
            }
            std::thread::sleep(MOMENT);
        };
        while let Err(shared) = Arc::try_unwrap(consumer) {
            consumer = shared;
            std::thread::sleep(MOMENT);
        }
    }

    pub(super) fn hub(&self) -> Option<Arc<Hub>> {
        self.consumer.context().hub.upgrade()
    }
}

fn configure(hub: &Hub) -> rdkafka::ClientConfig {
    let mut config = client::member(&hub.core.config, &hub.scope.kafka_group);
    let session = hub.scope.ack_wait.min(MAX_SESSION);
    let heartbeat = (session / 4).min(Duration::from_millis(500));
    let order = format!("linchpin-{:?}", hub.scope.order).to_lowercase();
    config
        .set("client.id", order)
        .set("session.timeout.ms", session.as_millis().to_string())
        .set("heartbeat.interval.ms", heartbeat.as_millis().to_string())
        .set("max.poll.interval.ms", session.max(Duration::from_secs(300)).as_millis().to_string())
        .set("topic.metadata.refresh.interval.ms", "30000")
        .set("partition.assignment.strategy", "cooperative-sticky");
    config
}

pub(super) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    let failed = |e| Error::new(Kind::Limited, "no thread can be started").engine(NAME).source(e);
    thread.map(drop).map_err(failed)
}
