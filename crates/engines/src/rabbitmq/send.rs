//! Publishing with confirmation, and acknowledging for good.

use std::time::Duration;

use lapin::options::{BasicAckOptions, BasicPublishOptions};
use lapin::types::AMQPValue;
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};
use linchpin_core::{Error, Result};
use tokio::time::timeout;

use super::admin::table;
use super::error;
use super::message::MARKER;

/// Acknowledgements one by one after which one marker isn't enough, see [`prove`]: the server puts further ones
/// aside at 32.
const FEW: usize = 16;

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct To {
    pub(super) exchange: String,
    pub(super) key: String,
}

impl To {
    /// Straight into a queue.
    pub(super) fn queue(name: impl Into<String>) -> Self {
        Self { exchange: String::new(), key: name.into() }
    }
}

/// Sends a message; the answer is still to come.
pub(super) async fn send(
    channel: &Channel,
    to: &To,
    payload: &[u8],
    properties: BasicProperties,
) -> lapin::Result<PublisherConfirm> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let (exchange, key) = (to.exchange.as_str().into(), to.key.as_str().into());
    channel.basic_publish(exchange, key, options, payload, properties).await
}

/// Whether a message was stored; `None` if no queue was there for it.
pub(super) async fn confirmed(sent: PublisherConfirm) -> Result<Option<()>> {
    match sent.await.map_err(error::map)? {
        Confirmation::Ack(None) => Ok(Some(())),
        Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => Ok(None),
        Confirmation::Nack(None) | Confirmation::NotRequested => Err(error::refused()),
    }
}

/// Stores messages, all of them or an error.
pub(super) async fn store(
    channel: &Channel,
    within: Duration,
    messages: Vec<(To, Vec<u8>, BasicProperties)>,
) -> Result<()> {
    let storing = async {
        let mut sent = Vec::with_capacity(messages.len());
        for (to, payload, properties) in messages {
            let confirm = send(channel, &to, &payload, properties).await.map_err(error::map)?;
            sent.push((to, confirm));
        }
        for (to, confirm) in sent {
            let lost =
                || error::error(linchpin_core::Kind::NotFound, format!("the queue {:?} is gone", to.key));
            confirmed(confirm).await?.ok_or_else(lost)?;
        }
        Ok(())
    };
    timeout(within, storing).await.unwrap_or_else(|_| Err(error::late(within)))
}

/// Acknowledges deliveries, those up to and with `upto`, and `single` ones; there is no answer to it. `Fenced` if the channel is
/// gone, and with it the deliveries.
pub(super) async fn acknowledge(channel: &Channel, upto: Option<u64>, single: &[u64]) -> Result<()> {
    let all = upto.map(|tag| (tag, true)).into_iter().chain(single.iter().map(|tag| (*tag, false)));
    for (n, (tag, multiple)) in all.enumerate() {
        channel.basic_ack(tag, BasicAckOptions { multiple }).await.map_err(|said| match n {
            0 if error::is_unsent(&said) => error::fenced(),
            _ => error::map(said),
        })?;
    }
    Ok(())
}

/// Acknowledges deliveries of one queue: those up to and with `upto`, and `single` ones. `Ok` means that they stay so.
///
/// An acknowledgement has no answer. What shows that it was taken is a message sent behind it, on the same channel
/// through the same queue: the queue's log has both in this order, and the answer to the message comes when the
/// log is stored. The marker expires at once, without being delivered. When many commands are
/// under way the server puts further acknowledgements aside, behind the marker; it has sent them on when it
/// answers that one, so a second marker comes after them.
pub(super) async fn prove(
    channel: &Channel,
    within: Duration,
    queue: &str,
    upto: Option<u64>,
    single: &[u64],
) -> Result<()> {
    let proving = async {
        acknowledge(channel, upto, single).await?;
        for _ in 0..if single.len() > FEW { 2 } else { 1 } {
            let sent = send(channel, &To::queue(queue), b"", marker()).await.map_err(error::map)?;
            confirmed(sent)
                .await?
                .ok_or_else(|| error::error(linchpin_core::Kind::NotFound, "the queue is gone"))?;
        }
        Ok::<_, Error>(())
    };
    timeout(within, proving).await.unwrap_or_else(|_| Err(error::late(within)))
}

fn marker() -> BasicProperties {
    let headers = table([(MARKER, AMQPValue::Boolean(true))]);
    BasicProperties::default().with_expiration("0".into()).with_delivery_mode(2).with_headers(headers)
}
