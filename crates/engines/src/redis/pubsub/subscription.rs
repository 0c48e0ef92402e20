//! A listener: a connection of its own, and what came over it.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use linchpin_core::bus::{Delivery, Message, Position, Receipt, Settle, Subscription};
use linchpin_core::{Error, Kind, Result, Timestamp};
use redis::aio::PubSub;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::unsupported;
use crate::redis::core::{Core, lock};
use crate::redis::error::{error, fenced, map};
use crate::redis::link;

/// How long after a connection failed the next is made.
const AGAIN: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Listener {
    pub(super) state: Arc<State>,
    core: Arc<Core>,
    most: usize,
    task: AbortHandle,
}

#[derive(Debug, Default)]
pub(super) struct State {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    came: VecDeque<(Bytes, Timestamp)>,
    held: HashSet<u64>,
    next: u64,
    ended: Option<Error>,
}

impl State {
    /// Ends it with this answer to everything.
    pub(super) fn end(&self, answer: Error) {
        let mut inner = lock(&self.inner);
        inner.ended.get_or_insert(answer);
        inner.came.clear();
        drop(inner);
        self.changed.notify_waiters();
    }

    /// Waits until fewer than `most` wait to be handed out.
    async fn room(&self, most: usize) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if lock(&self.inner).came.len() < most {
                return;
            }
            changed.await;
        }
    }
}

impl Listener {
    pub(super) async fn open(core: Arc<Core>, topic: &str, channel: String, most: usize) -> Result<Self> {
        let state = Arc::new(State::default());
        let connection = connect(&core, &channel).await?;
        let hearing = hear(core.clone(), state.clone(), topic.to_owned(), channel, connection, most);
        let task = tokio::spawn(hearing).abort_handle();
        Ok(Self { state, core, most, task })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connect(core: &Core, channel: &str) -> Result<PubSub> {
    let mut connection = link::listen(&core.config, 0).await?;
    let channels = [channel, &core.keys.changes()];
    connection.subscribe(&channels).await.map_err(|e| map(e, "subscribe"))?;
    Ok(connection)
}

/// Listens until the topic is gone; what is said while the connection is down isn't heard.
async fn hear(
    core: Arc<Core>,
    state: Arc<State>,
    topic: String,
    channel: String,
    mut connection: PubSub,
    most: usize,
) {
    loop {
        let mut messages = connection.on_message();
        while let Some(message) = messages.next().await {
            if message.get_channel_name() != channel {
                if let Err(gone) = core.look_up(&topic, "next").await
                    && gone.kind() == Kind::NotFound
                {
                    return state.end(gone);
                }
                continue;
            }
            // A full hand reads no more: the server keeps some for it, and cuts it off in the end.
            state.room(most).await;
            let payload = Bytes::copy_from_slice(message.get_payload_bytes());
            lock(&state.inner).came.push_back((payload, Timestamp::now()));
            state.changed.notify_waiters();
        }
        drop(messages);
        connection = loop {
            sleep(AGAIN).await;
            match connect(&core, &channel).await {
                Ok(connection) => break connection,
                Err(error) => tracing::debug!(%error, "not listening for now"),
            }
        };
    }
}

#[async_trait]
impl Subscription for Listener {
    async fn next(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let deadline = Instant::now() + wait;
        loop {
            let changed = self.state.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            self.core.check_open().map_err(|e| e.op("next"))?;
            {
                let mut inner = lock(&self.state.inner);
                if let Some(ended) = &inner.ended {
                    return Err(ended.clone());
                }
                let room = self.most.saturating_sub(inner.held.len()).min(max.max(1));
                let count = inner.came.len().min(room);
                let out: Vec<_> = inner.came.drain(..count).collect();
                if !out.is_empty() || Instant::now() >= deadline {
                    let out = out.into_iter().map(|(payload, time)| inner.hand_out(payload, time)).collect();
                    drop(inner);
                    self.state.changed.notify_waiters();
                    return Ok(out);
                }
            }
            let _woken = timeout_at(deadline, changed).await;
        }
    }

    async fn settle(&self, batch: Vec<(Receipt, Settle)>) -> Vec<Result<()>> {
        let mut inner = lock(&self.state.inner);
        let answers = batch.into_iter().map(|(Receipt(receipt), settle)| match (&inner.ended, settle) {
            (Some(ended), _) => Err(ended.clone().op("settle")),
            (None, Settle::Ack) => inner.held.remove(&receipt).then_some(()).ok_or_else(fenced),
            (None, Settle::Extend) => inner.held.contains(&receipt).then_some(()).ok_or_else(fenced),
            (None, Settle::Nack { .. } | Settle::Dead { .. }) => Err(unsupported("redelivery").op("settle")),
        });
        let answers = answers.collect();
        drop(inner);
        self.state.changed.notify_waiters();
        answers
    }

    async fn close(&self, _within: Duration) -> Result<()> {
        self.task.abort();
        self.state.end(error(Kind::Closed, "the subscription is closed").op("next"));
        Ok(())
    }
}

impl Inner {
    fn hand_out(&mut self, payload: Bytes, time: Timestamp) -> Delivery {
        let receipt = self.next;
        self.next += 1;
        self.held.insert(receipt);
        Delivery {
            message: Message::new(payload),
            position: Position { partition: 0, offset: None },
            time,
            attempt: 1,
            fence: 0,
            receipt: Receipt(receipt),
        }
    }
}
