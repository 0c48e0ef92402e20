//! Beside NATS JetStream: a server of its own on this machine, with file storage.

use std::collections::VecDeque;
use std::future::IntoFuture;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::context::{ContextBuilder, PublishAckFuture};
use async_nats::jetstream::stream::{Config, StorageType};
use async_nats::{ConnectOptions, HeaderMap};
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::harness::{Claim, Job, Result, Side};
use crate::{sqlite_consume, sqlite_publish, work};

const MESSAGES: usize = 1_000_000;
const SUBJECT: &str = "readings";
pub(crate) const PUBLISH: Claim = Claim {
    name: "nats_publish",
    what: "100-byte messages stored and answered: Linchpin's embedded file, durable, beside a local broker",
    goal: 1.5,
    theirs: Side {
        what: "async-nats, pipelined with 4,000 or 20,000 acknowledgements in flight, every one awaited; nats-server with \
               JetStream on the same machine, file storage, its default of not waiting for the disk",
        messages: MESSAGES,
        settings: &[4_000, 20_000],
        run: |job| Box::pin(publishing(job, 100, Beside::Nothing)),
    },
    needs: Some("nats-server"),
    memory: false,
    ..sqlite_publish::CLAIM
};

pub(crate) const CONSUME: Claim = Claim {
    name: "nats_consume",
    what: "100-byte messages handled and acknowledged one by one: Linchpin's embedded file, durable, beside a local broker",
    goal: 1.5,
    theirs: Side {
        what: "async-nats pull consumer, batches of 1,000 or 10,000, an explicit acknowledgement for each, until the server \
               has counted all; server as above",
        messages: MESSAGES,
        settings: &[1_000, 10_000],
        run: |job| Box::pin(consuming(job, 100, Beside::Nothing)),
    },
    needs: Some("nats-server"),
    memory: false,
    ..sqlite_consume::CLAIM
};

/// A server on a port of its own; it ends with this value.
pub(crate) struct Server {
    child: Child,
    jetstream: Context,
    ports: [u16; 2],
}

impl Server {
    pub(crate) async fn start(folder: &Path, acks: usize) -> Result<Self> {
        let (one, two) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
        let ports = [one.local_addr()?.port(), two.local_addr()?.port()];
        drop((one, two));
        let [port, monitor] = ports.map(|port| port.to_string());
        let mut command = Command::new("nats-server");
        command.args(["-a", "127.0.0.1", "-p", &port, "-m", &monitor, "-js", "-sd"]).arg(folder.join("nats"));
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = quiet.kill_on_drop(true).spawn()?;
        let client = connect(&format!("nats://127.0.0.1:{port}")).await?;
        let context = ContextBuilder::new().timeout(Duration::from_secs(30)).max_ack_inflight(acks);
        let jetstream = context.build(client);
        let config = Config {
            name: SUBJECT.into(),
            subjects: vec![SUBJECT.into()],
            storage: StorageType::File,
            ..Config::default()
        };
        jetstream.create_stream(config).await?;
        Ok(Self { child, jetstream, ports })
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.ports[0])
    }

    pub(crate) fn client(&self) -> async_nats::Client {
        self.jetstream.client()
    }

    /// Messages that came and went so far, as the server counts them.
    pub(crate) async fn traffic(&self) -> Result<f64> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports[1])).await?;
        stream.write_all(b"GET /varz HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (_, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
        let said: serde_json::Value = serde_json::from_str(body)?;
        let count = |name: &str| said.get(name).and_then(serde_json::Value::as_f64).ok_or("no counter");
        Ok(count("in_msgs")? + count("out_msgs")?)
    }

    pub(crate) async fn stop(mut self) -> Result {
        Ok(self.child.kill().await?)
    }
}

async fn connect(url: &str) -> Result<async_nats::Client> {
    let patience = Instant::now() + Duration::from_secs(10);
    loop {
        match ConnectOptions::new().connect(url).await {
            Err(_) if Instant::now() < patience => tokio::time::sleep(Duration::from_millis(20)).await,
            client => return Ok(client?),
        }
    }
}

/// What the other side stores of each message beside its payload.
#[derive(Clone, Copy)]
pub(crate) enum Beside {
    Nothing,
    IdAndKey,
}

async fn send(jetstream: &Context, n: usize, size: usize, beside: Beside) -> Result<PublishAckFuture> {
    let body = work::body(n, size);
    Ok(match beside {
        Beside::Nothing => jetstream.publish(SUBJECT, body).await?,
        Beside::IdAndKey => {
            let mut headers = HeaderMap::new();
            headers.insert("id", work::id());
            headers.insert("key", work::key(n));
            jetstream.publish_with_headers(SUBJECT, headers, body).await?
        }
    })
}

async fn publish(
    jetstream: &Context,
    messages: usize,
    size: usize,
    in_flight: usize,
    beside: Beside,
) -> Result<Duration> {
    let start = Instant::now();
    let mut answers = VecDeque::with_capacity(in_flight);
    for n in 0..messages {
        if answers.len() >= in_flight
            && let Some(answer) = answers.pop_front()
        {
            IntoFuture::into_future(answer).await?;
        }
        answers.push_back(send(jetstream, n, size, beside).await?);
    }
    for answer in answers {
        answer.await?;
    }
    Ok(start.elapsed())
}

pub(crate) async fn publishing(job: Job, size: usize, beside: Beside) -> Result<Duration> {
    let server = Server::start(&job.folder, job.setting + 1).await?;
    let took = publish(&server.jetstream, job.messages, size, job.setting, beside).await?;
    server.stop().await?;
    Ok(took)
}

pub(crate) async fn consuming(job: Job, size: usize, beside: Beside) -> Result<Duration> {
    let server = Server::start(&job.folder, 20_001).await?;
    publish(&server.jetstream, job.messages, size, 20_000, beside).await?;
    let start = Instant::now();
    let config = pull::Config {
        durable_name: Some("bench".into()),
        ack_policy: AckPolicy::Explicit,
        max_ack_pending: 50_000,
        ..pull::Config::default()
    };
    let mut consumer: PullConsumer = server.jetstream.create_consumer_on_stream(config, SUBJECT).await?;
    let mut stream = consumer.stream().max_messages_per_batch(job.setting).messages().await?;
    for _ in 0..job.messages {
        let message = stream.next().await.ok_or("the stream ended")??;
        if message.payload.len() == size {
            message.ack().await?;
        }
    }
    loop {
        let info = consumer.info().await?;
        if info.num_pending == 0 && info.num_ack_pending == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = start.elapsed();
    drop(stream);
    server.stop().await?;
    Ok(took)
}
