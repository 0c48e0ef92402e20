//! Reading one partition from an offset on, for ever: bounded in messages and bytes, without gaps, across outages.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Message as Came;
use async_nats::jetstream::consumer::pull::{Config as PullConfig, Stream};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use futures_util::{FutureExt, StreamExt};
use linchpin_core::bus::Message;
use linchpin_core::{Kind, Result, Timestamp};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::error;
use super::link::Link;
use super::message::{message, time};
use super::topic::Topic;

/// Bytes asked for at a time; one message may be larger.
const BYTES: usize = 4 << 20;
/// How often a server with nothing to send says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long the server keeps a consumer that nobody reads.
const INACTIVE: Duration = Duration::from_secs(60);
/// The wait before reading is begun anew.
const AGAIN: Duration = Duration::from_millis(100);

/// A message as it was read.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) offset: u64,
    pub(super) message: Message,
    pub(super) time: Timestamp,
}

/// Reading goes on until this is dropped.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) came: mpsc::Receiver<Read>,
    task: JoinHandle<()>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reader {
    /// Reads from `from` on, at most `ahead` messages ahead. `news` is called when something came, and with an error
    /// when nothing will come any more: the topic is gone.
    pub(super) fn start(
        link: Arc<Link>,
        topic: Arc<Topic>,
        partition: u32,
        from: u64,
        ahead: usize,
        news: impl Fn(Result<()>) + Send + Sync + 'static,
    ) -> Self {
        let (sender, came) = mpsc::channel(ahead);
        let work = async move {
            let mut next = from;
            let mut reading = Reading { link, topic, partition, ahead, sender, news };
            let mut anew = false;
            while let Err(e) = reading.go(&mut next, anew).await {
                anew = true;
                if e.kind() == Kind::NotFound {
                    (reading.news)(Err(e));
                    return;
                }
                sleep(AGAIN).await;
            }
        };
        Self { came, task: tokio::spawn(work) }
    }
}

/// A consumer on the server; it goes with this, or else when it was inactive for long.
struct Ephemeral {
    link: Arc<Link>,
    stream: String,
    name: String,
}

impl Drop for Ephemeral {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (link, stream, name) = (self.link.clone(), self.stream.clone(), self.name.clone());
        runtime.spawn(async move {
            if let Err(e) = link.js.delete_consumer_from_stream(name, stream).await {
                tracing::debug!(error = %e, "a consumer goes later");
            }
        });
    }
}

struct Reading<N> {
    link: Arc<Link>,
    topic: Arc<Topic>,
    partition: u32,
    ahead: usize,
    sender: mpsc::Sender<Read>,
    news: N,
}

impl<N: Fn(Result<()>)> Reading<N> {
    /// Reads until something is wrong; `Ok` when nobody listens any more.
    async fn go(&mut self, next: &mut u64, anew: bool) -> Result<()> {
        let (mut stream, _consumer) = self.begin(*next, anew).await?;
        let mut count = 0;
        while let Some(came) = stream.next().await {
            let mut came = Some(came);
            // What came together is told of once.
            while let Some(one) = came {
                count += 1;
                let read = self.read(one.map_err(|e| error::reading(e.kind()))?, count)?;
                let offset = read.offset;
                if let Err(full) = self.sender.try_send(read) {
                    (self.news)(Ok(()));
                    if self.sender.send(full.into_inner()).await.is_err() {
                        return Ok(());
                    }
                }
                *next = offset + 1;
                came = stream.next().now_or_never().flatten();
            }
            (self.news)(Ok(()));
        }
        Err(error::unanswered())
    }

    fn read(&self, came: Came, count: u64) -> Result<Read> {
        let Ok(info) = came.info() else { return Err(error::unanswered()) };
        // What the server sent and a broken connection lost is a gap in the consumer's count.
        if info.consumer_sequence != count {
            return Err(error::unanswered());
        }
        let (offset, time) = (info.stream_sequence, time(info.published));
        let came = came.message;
        let message = message(came.headers.as_ref(), came.payload, &self.topic.stream, offset);
        Ok(Read { offset, message, time })
    }

    async fn begin(&self, from: u64, anew: bool) -> Result<(Stream, Ephemeral)> {
        self.link.ready().await?;
        if anew {
            self.topic.check_alive(&self.link).await?;
        }
        let config = PullConfig {
            ack_policy: AckPolicy::None,
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from.max(1) },
            filter_subject: self.topic.filter(self.partition).to_owned(),
            inactive_threshold: INACTIVE,
            memory_storage: true,
            num_replicas: 1,
            ..PullConfig::default()
        };
        let creating = self.link.js.create_consumer_on_stream(config, self.topic.stream.clone());
        let consumer = timeout(self.link.timeout, creating).await.map_err(|_| error::unanswered())?;
        let consumer = consumer.map_err(error::consumer)?;
        let name = consumer.cached_info().name.clone();
        let ephemeral = Ephemeral { link: self.link.clone(), stream: self.topic.stream.clone(), name };
        let bytes = BYTES.max(2 * self.link.client.max_payload());
        let stream = consumer
            .stream()
            .max_messages_per_batch(self.ahead)
            .max_bytes_per_batch(bytes)
            .expires(4 * HEARTBEAT)
            .heartbeat(HEARTBEAT);
        let stream = stream.messages().await.map_err(|_| error::unanswered())?;
        Ok((stream, ephemeral))
    }
}
