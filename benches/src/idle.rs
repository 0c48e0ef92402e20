//! What waiting costs: idle members of groups, beside loops that ask once a second, by the servers' own counters.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use futures_util::future::BoxFuture;
use linchpin::Bus;
use nix::sys::resource::{UsageWho, getrusage};
use redis::cmd;
use sqlx::{Connection, Executor, MySqlConnection, PgConnection, Row};
use tokio::time::sleep;

use crate::harness::{Claim, Job, Result, Side};
use crate::{broker, nats, redis_streams, sqlite_publish, work};

/// Subscriptions of one process, each of a group of its own.
const MANY: usize = 20;
/// How long they wait until they are counted, and how long that takes: a few signs of life.
const SETTLE: Duration = Duration::from_secs(3);
const WINDOW: Duration = Duration::from_secs(21);
/// The other side does the same all the time.
const THEIRS: Duration = Duration::from_secs(5);

pub(crate) const REDIS: Claim = Claim {
    name: "redis_idle",
    what: "What 1,000 idle subscriptions cost a Redis server, commands inside scripts included",
    unit: "commands/s",
    goal: 0.1,
    floor: 0.0,
    cost: true,
    ours: Side {
        what: "20 members of 20 groups on `redis:`, default options, nothing published",
        messages: 1_000,
        settings: &[0],
        run: |_| Box::pin(on_redis(true)),
    },
    theirs: Side {
        what: "20 loops that ask once a second",
        messages: 1_000,
        settings: &[0],
        run: |_| Box::pin(on_redis(false)),
    },
    needs: Some("redis-server"),
    memory: false,
};

pub(crate) const NATS: Claim = Claim {
    name: "nats_idle",
    what: "What 1,000 idle subscriptions cost a NATS server, in messages to it and from it",
    unit: "messages/s",
    ours: Side { run: |job| Box::pin(on_nats(job, true)), ..REDIS.ours },
    theirs: Side { run: |job| Box::pin(on_nats(job, false)), ..REDIS.theirs },
    needs: Some("nats-server"),
    ..REDIS
};

pub(crate) const POSTGRES: Claim = Claim {
    name: "postgres_idle",
    what: "What 1,000 idle subscriptions cost a PostgreSQL server, in transactions",
    unit: "transactions/s",
    ours: Side { run: |_| Box::pin(on_postgres(true)), ..REDIS.ours },
    theirs: Side { run: |_| Box::pin(on_postgres(false)), ..REDIS.theirs },
    needs: None,
    ..REDIS
};

pub(crate) const MYSQL: Claim = Claim {
    name: "mysql_idle",
    what: "What 1,000 idle subscriptions cost a MariaDB server, in statements",
    unit: "statements/s",
    ours: Side { run: |_| Box::pin(on_mysql(true)), ..REDIS.ours },
    theirs: Side { run: |_| Box::pin(on_mysql(false)), ..REDIS.theirs },
    needs: Some("mariadbd"),
    ..REDIS
};

pub(crate) const SQLITE: Claim = Claim {
    name: "sqlite_idle",
    what: "What 1,000 idle subscriptions on a SQLite file cost their process, in microseconds of processor time",
    unit: "µs/s",
    ours: Side { run: |job| Box::pin(on_sqlite(job, true)), ..REDIS.ours },
    theirs: Side { run: |job| Box::pin(on_sqlite(job, false)), ..REDIS.theirs },
    needs: None,
    ..REDIS
};

/// The growth of a counter while `MANY` wait, as the time in which 1,000 of them would cost 1,000: the harness makes of it
/// what they cost in a second.
async fn grown<F: Future<Output = Result<f64>>>(window: Duration, count: impl Fn() -> F) -> Result<Duration> {
    sleep(SETTLE).await;
    let before = count().await?;
    sleep(window).await;
    // The counting itself costs one.
    let grown = (count().await? - before - 1.0).max(0.5);
    let each = grown / window.as_secs_f64() / MANY as f64;
    Ok(Duration::from_secs_f64(1.0 / each))
}

/// The members, which wait until they are dropped.
async fn wait_on(bus: &Bus) -> Result<Vec<linchpin::bus::Running>> {
    let mut members = Vec::new();
    for n in 0..MANY {
        members.push(bus.consume(work::TOPIC).group(format!("group-{n}")).run(|_| async { Ok(()) }).await?);
    }
    Ok(members)
}

async fn members_on<F: Future<Output = Result<f64>>>(url: &str, count: impl Fn() -> F) -> Result<Duration> {
    let bus = work::open(url).await?;
    let members = wait_on(&bus).await?;
    let took = grown(WINDOW, count).await?;
    for member in members {
        member.stop().await?;
    }
    bus.close().await?;
    Ok(took)
}

/// Loops that ask once a second.
async fn asking<F>(ask: impl Fn() -> BoxFuture<'static, Result>, count: impl Fn() -> F) -> Result<Duration>
where
    F: Future<Output = Result<f64>>,
{
    let mut loops = tokio::task::JoinSet::new();
    for _ in 0..MANY {
        loops.spawn(ask());
    }
    grown(THEIRS, count).await
}

async fn on_redis(ours: bool) -> Result<Duration> {
    let server = broker::start("redis").await?;
    let connection = redis_streams::connect(server.url()).await?;
    let count = || {
        let mut connection = connection.clone();
        async move {
            let info: String = cmd("INFO").arg("stats").query_async(&mut connection).await?;
            let line = info.lines().find_map(|line| line.strip_prefix("total_commands_processed:"));
            Ok(line.ok_or("no counter")?.trim().parse()?)
        }
    };
    if ours {
        return members_on(server.url(), count).await;
    }
    let ask = || -> BoxFuture<'static, Result> {
        let mut connection = connection.clone();
        Box::pin(async move {
            loop {
                cmd("RPOP").arg("list").query_async::<Option<Vec<u8>>>(&mut connection).await?;
                sleep(Duration::from_secs(1)).await;
            }
        })
    };
    asking(ask, count).await
}

async fn on_nats(job: Job, ours: bool) -> Result<Duration> {
    let server = nats::Server::start(&job.folder, 100).await?;
    let count = || server.traffic();
    let took = if ours {
        // Its stream has the name of the topic.
        server.client().request("$JS.API.STREAM.DELETE.readings", bytes::Bytes::new()).await?;
        members_on(&server.url(), count).await?
    } else {
        let ask = || -> BoxFuture<'static, Result> {
            let client = server.client();
            Box::pin(async move {
                loop {
                    client.request("$JS.API.STREAM.INFO.readings", bytes::Bytes::new()).await?;
                    sleep(Duration::from_secs(1)).await;
                }
            })
        };
        asking(ask, count).await?
    };
    server.stop().await?;
    Ok(took)
}

async fn on_postgres(ours: bool) -> Result<Duration> {
    let server = broker::start("postgres").await?;
    let url = server.url();
    let count = || async move {
        let mut connection = PgConnection::connect(url).await?;
        let sql = "SELECT (xact_commit + xact_rollback)::float8 FROM pg_stat_database WHERE datname = current_database()";
        // Sessions tell what they did about once a second.
        sleep(Duration::from_millis(1_500)).await;
        Ok(connection.fetch_one(sql).await?.try_get(0)?)
    };
    if ours {
        return members_on(url, count).await;
    }
    let ask = || -> BoxFuture<'static, Result> {
        let url = url.to_owned();
        Box::pin(async move {
            let mut connection = PgConnection::connect(&url).await?;
            loop {
                connection.fetch_all("SELECT relname FROM pg_class LIMIT 1").await?;
                sleep(Duration::from_secs(1)).await;
            }
        })
    };
    asking(ask, count).await
}

async fn on_mysql(ours: bool) -> Result<Duration> {
    let server = broker::start("mariadb").await?;
    let url = server.url();
    let count = || async move {
        let mut connection = MySqlConnection::connect(url).await?;
        let row = connection.fetch_one("SHOW GLOBAL STATUS LIKE 'Questions'").await?;
        let count: String = row.try_get(1)?;
        Ok(count.parse()?)
    };
    if ours {
        return members_on(url, count).await;
    }
    let ask = || -> BoxFuture<'static, Result> {
        let url = url.to_owned();
        Box::pin(async move {
            let mut connection = MySqlConnection::connect(&url).await?;
            loop {
                connection.fetch_all("SELECT 1").await?;
                sleep(Duration::from_secs(1)).await;
            }
        })
    };
    asking(ask, count).await
}

async fn on_sqlite(job: Job, ours: bool) -> Result<Duration> {
    let count = || async {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let (user, system) = (usage.user_time(), usage.system_time());
        let micros = (user.tv_sec() + system.tv_sec()) * 1_000_000 + user.tv_usec() + system.tv_usec();
        Ok(micros as f64)
    };
    if ours {
        let url = format!("sqlite://{}", job.folder.join("bench.db").display());
        return members_on(&url, count).await;
    }
    sqlite_publish::table(&job.folder)?;
    let folder = job.folder.clone();
    let ask = || -> BoxFuture<'static, Result> {
        let folder = folder.clone();
        Box::pin(async move {
            let conn = rusqlite::Connection::open(Path::new(&folder).join("raw.db"))?;
            loop {
                conn.prepare_cached("SELECT seq FROM message ORDER BY seq LIMIT 1")?.exists([])?;
                sleep(Duration::from_secs(1)).await;
            }
        })
    };
    asking(ask, count).await
}
