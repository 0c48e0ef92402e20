//! How soon a hundred watchers know that one of a thousand instances changed.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use linchpin::Open;
use linchpin::coord::{Coord, Instance};
use redis::{Client, cmd};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::{INSTANCES, address};
use crate::harness::{Claim, Job, Result, Side};
use crate::{broker, redis_streams};

const WATCHERS: usize = 100;
const CHANGES: usize = 100;
const SERVICE: &str = "shop";
/// Of a change that doesn't come.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const REDIS: Claim = Claim {
    name: "registry_redis",
    what: "The p99 of the time from a change of one of 1,000 instances until 100 watchers know it, on Redis",
    unit: "µs",
    goal: 0.1,
    floor: 0.0,
    cost: true,
    ours: Side {
        what: "`Registration::update`, and 100 `Endpoints`, each on a connection of its own",
        messages: WATCHERS * CHANGES,
        settings: &[0],
        run: |job| Box::pin(ours(job, "redis")),
    },
    theirs: Side {
        what: "HSET and PUBLISH by hand, and 100 subscribers that take what they are told for true; what is published \
               while one of them is away is lost to it",
        messages: WATCHERS * CHANGES,
        settings: &[0],
        run: |job| Box::pin(channel(job)),
    },
    needs: Some("redis-server"),
    memory: false,
};

pub(crate) const ETCD: Claim = Claim {
    name: "registry_etcd",
    what: "The p99 of the time from a change of one of 1,000 instances until 100 watchers know it, on etcd",
    ours: Side { run: |job| Box::pin(ours(job, "etcd")), ..REDIS.ours },
    theirs: Side {
        what: "put and watch by hand, through etcd's JSON gateway",
        run: |job| Box::pin(gateway(job)),
        ..REDIS.theirs
    },
    needs: Some("etcd"),
    ..REDIS
};

/// Makes one change after another, the next when everybody knows; the p99 as the harness wants it, which divides the
/// number of latencies by the time.
async fn changes<F: Future<Output = Result>>(
    job: &Job,
    mut seen: mpsc::UnboundedReceiver<Instant>,
    mut change: impl FnMut(usize) -> F,
) -> Result<Duration> {
    // What the last registrations were told with.
    tokio::time::sleep(Duration::from_secs(2)).await;
    while seen.try_recv().is_ok() {}
    let mut latencies = Vec::with_capacity(job.messages);
    for n in 0..job.messages / WATCHERS {
        let start = Instant::now();
        change(n).await?;
        for _ in 0..WATCHERS {
            let at = tokio::time::timeout(PATIENCE, seen.recv()).await?.ok_or("the watchers are gone")?;
            latencies.push(at.saturating_duration_since(start));
        }
    }
    latencies.sort();
    let p99 = latencies.get(latencies.len() * 99 / 100).ok_or("no latencies")?;
    Ok(Duration::from_secs_f64(job.messages as f64 / (p99.as_secs_f64() * 1e6)))
}

async fn ours(job: Job, engine: &'static str) -> Result<Duration> {
    let server = broker::start(engine).await?;
    let coord = Coord::open(server.url()).await?;
    let mut registrations = Vec::new();
    for n in 0..INSTANCES {
        registrations.push(coord.register(SERVICE, Instance::new(address(n))).await?);
    }
    let (tell, seen) = mpsc::unbounded_channel();
    for _ in 0..WATCHERS {
        let mut endpoints = Coord::open(server.url()).await?.endpoints(SERVICE).await?;
        while endpoints.list().len() < INSTANCES {
            endpoints.changed().await;
        }
        let tell = tell.clone();
        tokio::spawn(async move {
            loop {
                endpoints.changed().await;
                if tell.send(Instant::now()).is_err() {
                    return;
                }
            }
        });
    }
    let changed = registrations.first().ok_or("nobody is registered")?;
    let change = |n| {
        changed.update(|instance| instance.weight = u32::try_from(n).unwrap_or_default() + 1);
        async { Ok(()) }
    };
    changes(&job, seen, change).await
}

/// What an instance looks like by hand.
fn by_hand(n: usize, weight: usize) -> String {
    format!(r#"{{"id":"{n}","address":"{}","weight":{weight}}}"#, address(n))
}

async fn channel(job: Job) -> Result<Duration> {
    let server = broker::start("redis").await?;
    let connection = redis_streams::connect(server.url()).await?;
    for n in 0..INSTANCES {
        let mut connection = connection.clone();
        cmd("HSET").arg(SERVICE).arg(n).arg(by_hand(n, 0)).query_async::<()>(&mut connection).await?;
    }
    let (tell, seen) = mpsc::unbounded_channel();
    for _ in 0..WATCHERS {
        let mut listener = Client::open(server.url())?.get_async_pubsub().await?;
        listener.subscribe(SERVICE).await?;
        let tell = tell.clone();
        tokio::spawn(async move {
            let mut told = listener.on_message();
            while told.next().await.is_some() && tell.send(Instant::now()).is_ok() {}
        });
    }
    let change = |n| {
        let mut connection = connection.clone();
        async move {
            let mut both = redis::pipe();
            both.cmd("HSET").arg(SERVICE).arg(0).arg(by_hand(0, n)).ignore();
            both.cmd("PUBLISH").arg(SERVICE).arg(by_hand(0, n)).ignore();
            Ok(both.query_async::<()>(&mut connection).await?)
        }
    };
    changes(&job, seen, change).await
}

/// A request to etcd's gateway, and the lines of its answer. The key is the service's name, in base64 as the gateway wants
/// it, and so is the end of its range.
async fn ask(port: u16, path: &str, body: &str) -> Result<Lines<BufReader<TcpStream>>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let length = body.len();
    // The last line of an answer has no end but that of the connection.
    let head = format!("POST {path} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {length}");
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await?;
    Ok(BufReader::new(stream).lines())
}

/// Reads until a line has this.
async fn until(lines: &mut Lines<BufReader<TcpStream>>, what: &str) -> Result {
    while let Some(line) = lines.next_line().await? {
        if line.contains(what) {
            return Ok(());
        }
    }
    Err("etcd closed the connection".into())
}

async fn gateway(job: Job) -> Result<Duration> {
    let server = broker::start("etcd").await?;
    let port = *server.ports().first().ok_or("no port")?;
    // "shop", and "shoq", which is behind everything that begins so.
    let (first, last) = ("c2hvcA==", "c2hvcQ==");
    let (tell, seen) = mpsc::unbounded_channel();
    for _ in 0..WATCHERS {
        let body = format!(r#"{{"create_request":{{"key":"{first}","range_end":"{last}"}}}}"#);
        let mut lines = ask(port, "/v3/watch", &body).await?;
        until(&mut lines, r#""created":true"#).await?;
        let tell = tell.clone();
        tokio::spawn(async move {
            while until(&mut lines, r#""events""#).await.is_ok() && tell.send(Instant::now()).is_ok() {}
        });
    }
    let change = |n: usize| async move {
        // A value in base64 that is another each time.
        let body = format!(r#"{{"key":"{first}","value":"{:0>64}"}}"#, n);
        let mut lines = ask(port, "/v3/kv/put", &body).await?;
        until(&mut lines, r#""revision""#).await
    };
    changes(&job, seen, change).await
}
