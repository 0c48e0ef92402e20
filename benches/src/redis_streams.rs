//! On Redis Streams: beside the driver used well, and beside what tutorials show.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::streams::StreamReadReply;
use redis::{AsyncConnectionConfig, Client, Cmd, RedisResult, Value, cmd, pipe};

use crate::harness::{Claim, Job, Result, Side};
use crate::{broker, work};

const MESSAGES: usize = 300_000;
const STREAM: &str = "readings";
/// Entries of one read.
const BATCH: usize = 512;

pub(crate) const PUBLISH: Claim = Claim {
    name: "redis_publish",
    what: "100-byte messages added to Redis streams, each answered; the server logs every write and syncs each second",
    unit: "messages/s",
    goal: 0.97,
    floor: 0.0,
    cost: false,
    ours: Side {
        what: "`Publisher` on `redis:`, every answer awaited; 4 partitions, ids, keys",
        messages: MESSAGES,
        settings: &[0],
        run: |job| Box::pin(broker::publish(job, "redis", 100)),
    },
    theirs: Side {
        what: "the driver by hand: XADD of payload, id and key to one stream, pipelines of 1,024 or 4,096, two of them \
               under way",
        messages: MESSAGES,
        settings: &[1_024, 4_096],
        run: |job| Box::pin(publishing(job, 100)),
    },
    needs: Some("redis-server"),
    memory: false,
};

pub(crate) const PUBLISH_1K: Claim = Claim {
    name: "redis_publish_1k",
    what: "1-KiB messages added to Redis streams, each answered",
    ours: Side { run: |job| Box::pin(broker::publish(job, "redis", 1024)), ..PUBLISH.ours },
    theirs: Side { run: |job| Box::pin(publishing(job, 1024)), ..PUBLISH.theirs },
    ..PUBLISH
};

pub(crate) const CONSUME: Claim = Claim {
    name: "redis_consume",
    what: "100-byte messages read from Redis streams by a group, handled, and acknowledged one by one",
    goal: 0.95,
    ours: Side {
        what: "`Consumer` on `redis:`, default options",
        run: |job| Box::pin(broker::consume(job, "redis", 100)),
        ..PUBLISH.ours
    },
    theirs: Side {
        what: "the driver by hand: XREADGROUP COUNT 512, then one XACK for the batch, in one pipeline with the next read, one \
               or two of them under way",
        settings: &[1, 2],
        run: |job| Box::pin(consuming(job, 100)),
        ..PUBLISH.theirs
    },
    ..PUBLISH
};

pub(crate) const CONSUME_1K: Claim = Claim {
    name: "redis_consume_1k",
    what: "1-KiB messages read from Redis streams by a group, handled, and acknowledged one by one",
    ours: Side { run: |job| Box::pin(broker::consume(job, "redis", 1024)), ..CONSUME.ours },
    theirs: Side { run: |job| Box::pin(consuming(job, 1024)), ..CONSUME.theirs },
    ..CONSUME
};

pub(crate) const TUTORIAL_PUBLISH: Claim = Claim {
    name: "tutorial_publish",
    what: "What batching is worth: messages handed to Redis",
    goal: 10.0,
    theirs: Side {
        what: "as tutorials show it: EXISTS, TYPE and LPUSH for each message, each answer awaited",
        messages: 20_000,
        settings: &[0],
        run: |job| Box::pin(push_each(job)),
    },
    ..PUBLISH
};

pub(crate) const TUTORIAL_CONSUME: Claim = Claim {
    name: "tutorial_consume",
    what: "What waiting for messages is worth: messages taken from Redis",
    goal: 10.0,
    theirs: Side {
        what: "as tutorials show it: one RPOP, then a second of sleep",
        messages: 5,
        settings: &[0],
        run: |job| Box::pin(pop_each(job)),
    },
    ..CONSUME
};

pub(crate) async fn connect(url: &str) -> Result<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(60)));
    Ok(Client::open(url)?.get_multiplexed_async_connection_with_config(&config).await?)
}

async fn add(
    mut connection: MultiplexedConnection,
    from: usize,
    until: usize,
    size: usize,
) -> RedisResult<()> {
    let mut batch = pipe();
    for n in from..until {
        let body = work::body(n, size);
        batch.cmd("XADD").arg(STREAM).arg("*").arg("payload").arg(&body[..]);
        batch.arg("id").arg(work::id()).arg("key").arg(work::key(n));
    }
    batch.query_async::<Vec<Value>>(&mut connection).await.map(drop)
}

async fn publish(
    connection: &MultiplexedConnection,
    job: &Job,
    size: usize,
    batch: usize,
) -> Result<Duration> {
    let start = Instant::now();
    let mut under_way = Vec::new();
    for from in (0..job.messages).step_by(batch) {
        let until = job.messages.min(from + batch);
        under_way.push(tokio::spawn(add(connection.clone(), from, until, size)));
        if under_way.len() == 2 {
            under_way.remove(0).await??;
        }
    }
    for last in under_way {
        last.await??;
    }
    Ok(start.elapsed())
}

async fn publishing(job: Job, size: usize) -> Result<Duration> {
    let server = broker::start("redis").await?;
    publish(&connect(server.url()).await?, &job, size, job.setting).await
}

/// Reads some, and acknowledges what was handled before.
async fn read(
    mut connection: MultiplexedConnection,
    ack: Option<Cmd>,
) -> RedisResult<Option<StreamReadReply>> {
    let mut both = pipe();
    if let Some(ack) = ack {
        both.add_command(ack).ignore();
    }
    both.cmd("XREADGROUP").arg("GROUP").arg("bench").arg("one").arg("COUNT").arg(BATCH);
    both.arg("STREAMS").arg(STREAM).arg(">");
    let (reply,): (Option<StreamReadReply>,) = both.query_async(&mut connection).await?;
    Ok(reply)
}

async fn consuming(job: Job, size: usize) -> Result<Duration> {
    let server = broker::start("redis").await?;
    let mut connection = connect(server.url()).await?;
    publish(&connection, &job, size, 1_024).await?;
    let mut create = cmd("XGROUP");
    create.arg("CREATE").arg(STREAM).arg("bench").arg("0").query_async::<()>(&mut connection).await?;
    let start = Instant::now();
    let (mut handled, mut ack, mut under_way) = (0, None, VecDeque::new());
    while handled < job.messages {
        while under_way.len() < job.setting {
            under_way.push_back(tokio::spawn(read(connection.clone(), ack.take())));
        }
        let Some(reply) = under_way.pop_front() else { break };
        let mut acks = cmd("XACK");
        acks.arg(STREAM).arg("bench");
        for entry in reply.await??.iter().flat_map(|reply| &reply.keys).flat_map(|key| &key.ids) {
            let payload: Option<Vec<u8>> = entry.get("payload");
            if payload.is_some_and(|payload| payload.len() == size) {
                handled += 1;
                acks.arg(&entry.id);
            }
        }
        if let Some(earlier) = ack.replace(acks) {
            earlier.query_async::<u64>(&mut connection).await?;
        }
    }
    if let Some(last) = ack {
        last.query_async::<u64>(&mut connection).await?;
    }
    Ok(start.elapsed())
}

async fn push_each(job: Job) -> Result<Duration> {
    let server = broker::start("redis").await?;
    let mut connection = connect(server.url()).await?;
    let start = Instant::now();
    for n in 0..job.messages {
        let exists: bool = cmd("EXISTS").arg("list").query_async(&mut connection).await?;
        let kind: String = cmd("TYPE").arg("list").query_async(&mut connection).await?;
        if !exists || kind == "list" {
            let body = work::payload(n);
            cmd("LPUSH").arg("list").arg(&body[..]).query_async::<u64>(&mut connection).await?;
        }
    }
    Ok(start.elapsed())
}

async fn pop_each(job: Job) -> Result<Duration> {
    let server = broker::start("redis").await?;
    let mut connection = connect(server.url()).await?;
    for n in 0..job.messages {
        let body = work::payload(n);
        cmd("LPUSH").arg("list").arg(&body[..]).query_async::<u64>(&mut connection).await?;
    }
    let start = Instant::now();
    while cmd("RPOP").arg("list").query_async::<Option<Vec<u8>>>(&mut connection).await?.is_some() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(start.elapsed())
}
