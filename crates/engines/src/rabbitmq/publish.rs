//! Publishing: every message of a call is on its way before the first answer is waited for.

use std::sync::Arc;

use lapin::{Channel, PublisherConfirm};
use linchpin_core::bus::{Message, Position, PublishOptions};
use linchpin_core::{Error, Kind, Result, Timestamp};
use tokio::time::{Instant, timeout_at};

use super::core::{Core, Topic};
use super::delay::{after, ttl};
use super::error;
use super::message::Stored;
use super::names::stage;
use super::send::{To, confirmed, send};

/// What the headers of one message may take: they travel in one frame, of 128 KiB unless the server says less.
const HEADERS: usize = 100_000;

/// A message that may go.
struct Ready {
    at: usize,
    partition: u32,
    to: To,
    stored: Stored,
}

impl Core {
    pub(super) async fn publish(
        self: &Arc<Self>,
        name: &str,
        messages: Vec<Message>,
        options: &PublishOptions,
    ) -> Vec<Result<Position>> {
        let nowhere = Position { partition: 0, offset: None };
        let mut answers: Vec<Result<Position>> = vec![Ok(nowhere); messages.len()];
        if let Err(failure) = self.try_publish(name, messages, options, &mut answers).await {
            answers.iter_mut().for_each(|answer| *answer = Err(failure.clone()));
        }
        answers
    }

    /// Fills in the answers; an error means that nothing was sent.
    async fn try_publish(
        self: &Arc<Self>,
        name: &str,
        messages: Vec<Message>,
        options: &PublishOptions,
        answers: &mut [Result<Position>],
    ) -> Result<()> {
        let topic = self.topic(name).await?;
        if self.road.is_blocked().await {
            return Err(error::blocked());
        }
        let mut ready = Vec::with_capacity(messages.len());
        for ((at, message), answer) in messages.into_iter().enumerate().zip(answers.iter_mut()) {
            match self.prepare(&topic, message, options).await {
                Ok((partition, to, stored)) => ready.push(Ready { at, partition, to, stored }),
                Err(refused) => *answer = Err(refused),
            }
        }
        let deadline = Instant::now() + self.config.timeout;
        let sent = self.send_all(&topic, ready, deadline).await?;
        let mut gone = false;
        for (at, partition, sent) in sent {
            let result = match sent {
                Ok(confirm) => {
                    let answer = timeout_at(deadline, confirmed(confirm)).await;
                    let answer = answer.unwrap_or_else(|_| Err(error::late(self.config.timeout)));
                    stored(name, answer).map(|()| Position { partition, offset: None })
                }
                Err(_) if gone => Err(error::missing(name)),
                Err(unsent) => Err(unsent),
            };
            gone |= result.as_ref().is_err_and(|e| e.kind() == Kind::NotFound);
            if let Some(answer) = answers.get_mut(at) {
                *answer = result;
            }
        }
        if answers.iter().flat_map(Result::as_ref).count() < answers.len() {
            self.give_up(&topic, gone).await;
        }
        Ok(())
    }

    /// After a failure: what is known of the topic may be wrong, and what wasn't answered in time must not hold others up.
    async fn give_up(&self, topic: &Topic, gone: bool) {
        if gone {
            self.forget(&topic.name);
        }
        let mut slot = topic.lane.channel.lock().await;
        if let Some(channel) = slot.take_if(|channel| gone || !channel.status().connected()) {
            drop(channel);
        }
    }

    /// Puts messages on their way, in this order. An unsent one has its error.
    async fn send_all(
        &self,
        topic: &Topic,
        ready: Vec<Ready>,
        deadline: Instant,
    ) -> Result<Vec<(usize, u32, Result<PublisherConfirm>)>> {
        let opening = timeout_at(deadline, topic.lane.channel.lock()).await;
        let mut slot = opening.map_err(|_| error::not_applied(error::late(self.config.timeout)))?;
        let channel: Channel = match slot.as_ref().filter(|channel| channel.status().connected()) {
            Some(channel) => channel.clone(),
            None => slot.insert(self.road.channel().await?).clone(),
        };
        let mut all = Vec::with_capacity(ready.len());
        for Ready { at, partition, to, stored } in ready {
            let sending = send(&channel, &to, &stored.message.payload, stored.properties());
            let sent = match timeout_at(deadline, sending).await {
                // A channel that takes nothing more has sent nothing of it.
                Ok(sent) => sent.map_err(|e| error::not_applied(error::map(e))),
                Err(_) => Err(error::late(self.config.timeout)),
            };
            all.push((at, partition, sent));
        }
        Ok(all)
    }

    async fn prepare(
        self: &Arc<Self>,
        topic: &Topic,
        message: Message,
        options: &PublishOptions,
    ) -> Result<(u32, To, Stored)> {
        let (size, limit) = (message.size() as u64, topic.entry.max_message);
        if size > limit {
            let help = "raise the topic's `max_message`, or store the content elsewhere and send a reference";
            return Err(oversize(size, limit).help(help));
        }
        let beside = message.size() - message.payload.len();
        if beside > HEADERS {
            let text = format!("key, headers and id of {beside} bytes are over the limit of {HEADERS}");
            return Err(error::error(Kind::Invalid, text).help("put what is large into the payload"));
        }
        let partition = options.partitioner.choose(&message, topic.entry.partitions, &topic.lane.round)?;
        let (exchange, key) = (self.names.exchange(&topic.name), partition.to_string());
        let now = Timestamp::now();
        let Some(delay) = message.delay.filter(|delay| !delay.is_zero()) else {
            let stored = Stored { message, time: now, due: None, attempts: 0 };
            return Ok((partition, To { exchange, key }, stored));
        };
        let exchange = match ttl(after(now, delay), now) {
            Some(ttl) => self.stage(&topic.name, stage(&exchange, ttl), ttl, &exchange).await?,
            None => exchange,
        };
        // It waits from when it is stored, not from when a stage was made for it.
        let due = after(Timestamp::now(), delay);
        let stored = Stored { message, time: due, due: Some(due), attempts: 0 };
        Ok((partition, To { exchange, key }, stored))
    }
}

/// What the answer means to who published to this topic.
fn stored(topic: &str, answer: Result<Option<()>>) -> Result<()> {
    match answer {
        Ok(stored) => stored.ok_or_else(|| error::missing(topic)),
        Err(failure) if failure.kind() == Kind::NotFound => Err(error::missing(topic)),
        Err(failure) => Err(failure),
    }
}

fn oversize(size: u64, limit: u64) -> Error {
    error::error(Kind::Invalid, format!("a message of {size} bytes is over the limit of {limit}"))
}
