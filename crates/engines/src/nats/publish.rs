//! Publishing: every message of a call is on its way before the first answer is waited for.

use std::sync::Arc;

use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::message::PublishMessage as Publish;
use linchpin_core::bus::{Message, Position, PublishOptions};
use linchpin_core::{Error, Kind, Result, Retry};
use tokio::time::{Instant, timeout_at};

use super::NAME;
use super::core::Core;
use super::error;
use super::message::{BOUND, DUE, headers};
use super::topic::{Topic, missing};

/// A message on its way.
struct Sent {
    at: usize,
    place: Position,
    ack: PublishAckFuture,
}

impl Core {
    pub(super) async fn publish(
        self: &Arc<Self>,
        name: &str,
        messages: Vec<Message>,
        options: &PublishOptions,
    ) -> Vec<Result<Position>> {
        let count = messages.len();
        let nowhere = Position { partition: 0, offset: None };
        let mut answers: Vec<Result<Position>> = vec![Ok(nowhere); count];
        match self.try_publish(name, messages, options, &mut answers).await {
            Ok(()) => answers,
            Err(e) => vec![Err(e); count],
        }
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
        self.link.ready().await?;
        self.trim_now_and_then(&topic);
        if messages.iter().any(|message| message.delay.is_some_and(|delay| !delay.is_zero())) {
            self.clock.refresh(&self.store).await?;
            self.store.create_once().await?;
        }
        let deadline = Instant::now() + self.link.timeout;
        let mut sent = Vec::with_capacity(messages.len());
        for (at, message) in messages.into_iter().enumerate() {
            let sending = self.send(&topic, message, options);
            let sending = timeout_at(deadline, sending).await.unwrap_or_else(|_| Err(error::disconnected()));
            match (sending, answers.get_mut(at)) {
                (Ok((place, ack)), _) => sent.push(Sent { at, place, ack }),
                (Err(e), Some(answer)) => *answer = Err(e),
                (Err(_), None) => {}
            }
        }
        for Sent { at, place, ack } in sent {
            let result = match ack.await {
                Ok(ack) if place.offset.is_some() => Ok(Position::new(place.partition, ack.sequence)),
                Ok(_) => Ok(place),
                Err(e) => Err(error::publish(e).unwrap_or_else(|| self.vanished(name))),
            };
            if let Some(answer) = answers.get_mut(at) {
                *answer = result;
            }
        }
        Ok(())
    }

    /// Nobody took the message: the topic was removed, or made again with fewer partitions.
    fn vanished(&self, name: &str) -> Error {
        self.forget(name);
        missing(name)
    }

    async fn send(
        &self,
        topic: &Topic,
        message: Message,
        options: &PublishOptions,
    ) -> Result<(Position, PublishAckFuture)> {
        let (size, limit) = (message.size() as u64, topic.options.max_message);
        if size > limit {
            let help = "raise the topic's `max_message`, or store the content elsewhere and send a reference";
            return Err(oversize(size, limit, help));
        }
        let partition = options.partitioner.choose(&message, topic.options.partitions, &topic.round)?;
        let subject = topic.subject(partition)?.to_owned();
        let mut map = headers(&message);
        let delay = message.delay.filter(|delay| !delay.is_zero());
        let (subject, offset) = match delay {
            None => (subject, Some(0)),
            Some(delay) => {
                map.insert(DUE, self.clock.after(delay).to_string().as_str());
                map.insert(BOUND, subject.as_str());
                (self.names.delayed_of(&topic.name), None)
            }
        };
        let wire = wire_size(&map) + message.payload.len();
        let most = self.link.client.max_payload();
        if wire > most {
            let help = "raise max_payload of the server, or store the content elsewhere and send a reference";
            return Err(oversize(wire as u64, most as u64, help));
        }
        let publish = Publish::build().payload(message.payload).headers(map);
        let ack = self.link.js.send_publish(subject, publish).await;
        let ack = ack.map_err(|e| error::publish(e).unwrap_or_else(|| self.vanished(&topic.name)))?;
        Ok((Position { partition, offset }, ack))
    }
}

/// What headers are on the wire.
fn wire_size(map: &async_nats::HeaderMap) -> usize {
    let lines = map.iter().flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        values.iter().map(|value| name.len() + value.as_str().len() + ": \r\n".len())
    });
    lines.sum::<usize>() + "NATS/1.0\r\n\r\n".len()
}

fn oversize(size: u64, limit: u64, help: &str) -> Error {
    let message = format!("a message of {size} bytes is over the limit of {limit}");
    Error::new(Kind::Invalid, message).engine(NAME).retry_as(Retry::Never).help(help)
}
