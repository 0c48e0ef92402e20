//! Messages that wait for their publish delay, in a stream of their own; any process that uses the bus moves those that
//! are due.
//!
//! Two processes may move the same message: the server stores it once, because both give it the same id.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull::{Config as PullConfig, Stream};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use async_nats::jetstream::message::PublishMessage as Publish;
use async_nats::jetstream::stream::RawMessage;
use futures_util::StreamExt;
use linchpin_core::{Kind, Result};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::core::Core;
use super::error;
use super::message::{BOUND, DUE, raw};

/// How often a server with nothing to send says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The wait before the stream is read anew.
const AGAIN: Duration = Duration::from_millis(200);
/// The longest wait for something to become due before the clock is asked anew.
const LOOK: Duration = Duration::from_secs(30);

/// Moves what is due until the bus is closed.
pub(super) async fn run(core: Arc<Core>) {
    while core.link.check_open().is_ok() {
        if let Err(e) = watch(&core).await {
            tracing::debug!(error = %e, "delayed messages can't be read");
            sleep(AGAIN).await;
        }
    }
}

async fn watch(core: &Core) -> Result<()> {
    core.store.create_once().await?;
    core.clock.refresh(&core.store).await?;
    let mut stream = read(core).await?;
    let mut waiting: BTreeMap<(i64, u64), ()> = BTreeMap::new();
    loop {
        core.link.check_open()?;
        let now = core.clock.earliest();
        let next = waiting.first_key_value().map(|(at, ())| *at);
        if let Some((_, sequence)) = next.filter(|(due, _)| *due <= now) {
            release(core, sequence).await?;
            waiting.pop_first();
            continue;
        }
        let until = next.map_or(LOOK, |(due, _)| Duration::from_millis((due - now).unsigned_abs()).min(LOOK));
        match timeout(until, stream.next()).await {
            Ok(Some(came)) => {
                let came = came.map_err(|e| error::reading(e.kind()))?;
                let Ok(info) = came.info() else { continue };
                let due = came.headers.as_ref().and_then(due);
                waiting.insert((due.unwrap_or_default(), info.stream_sequence), ());
            }
            Ok(None) => return Err(error::unanswered()),
            Err(_) => core.clock.refresh(&core.store).await?,
        }
    }
}

fn due(headers: &HeaderMap) -> Option<i64> {
    headers.get(DUE)?.as_str().parse().ok()
}

async fn read(core: &Core) -> Result<Stream> {
    let config = PullConfig {
        ack_policy: AckPolicy::None,
        deliver_policy: DeliverPolicy::All,
        headers_only: true,
        inactive_threshold: 4 * HEARTBEAT,
        memory_storage: true,
        num_replicas: 1,
        ..PullConfig::default()
    };
    let creating = core.link.js.create_consumer_on_stream(config, core.names.delayed());
    let consumer = timeout(core.link.timeout, creating).await.map_err(|_| error::unanswered())?;
    let consumer = consumer.map_err(error::consumer)?;
    let stream = consumer.stream().max_messages_per_batch(500).expires(4 * HEARTBEAT).heartbeat(HEARTBEAT);
    stream.messages().await.map_err(|_| error::unanswered())
}

/// Publishes a message that is due to where it is bound, then forgets it.
async fn release(core: &Core, sequence: u64) -> Result<()> {
    #[derive(Deserialize)]
    struct Got {
        message: RawMessage,
    }
    let delayed = core.names.delayed();
    let got = core.link.call::<Got>(&format!("STREAM.MSG.GET.{delayed}"), &json!({ "seq": sequence })).await;
    let got = match got {
        Ok(got) => raw(got.message)?,
        Err(e) if e.kind() == Kind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let mut headers = HeaderMap::new();
    for (name, values) in got.headers.iter().filter(|(name, _)| ![DUE, BOUND].contains(&(*name).as_ref())) {
        values.iter().for_each(|value| headers.append(name.clone(), value.clone()));
    }
    if let Some(bound) = got.headers.get(BOUND) {
        let once = format!("lp-delayed/{delayed}/{sequence}/{}", got.time.unix_timestamp_nanos());
        let message = Publish::build().payload(got.payload).headers(headers).message_id(once);
        // Without a stream the topic was removed, and the message with it.
        core.link.store(bound.to_string(), message).await?;
    }
    let body = json!({ "seq": sequence, "no_erase": true });
    let deleted = core.link.call::<serde_json::Value>(&format!("STREAM.MSG.DELETE.{delayed}"), &body).await;
    match deleted {
        Err(e) if !matches!(e.kind(), Kind::NotFound | Kind::Unexpected) => Err(e),
        _ => Ok(()),
    }
}
