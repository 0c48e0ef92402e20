//! On PostgreSQL and MariaDB: beside a queue table written by hand, as everybody does it.

use std::time::{Duration, Instant};

use linchpin::bus::MessageId;
use sqlx::{Connection, Executor};
use sqlx::{MySqlConnection, PgConnection, QueryBuilder, Row};

use crate::harness::{Claim, Job, Result, Side};
use crate::{broker, work};

const MESSAGES: usize = 300_000;
const MEMBERS: usize = 8;

pub(crate) const POSTGRES_PUBLISH: Claim = Claim {
    name: "postgres_publish",
    what: "100-byte messages stored in PostgreSQL, each answered once the disk has it",
    unit: "messages/s",
    goal: 1.0,
    floor: 100_000.0,
    cost: false,
    ours: Side {
        what: "`Publisher` on `postgres:`, every answer awaited; 4 partitions, ids, keys",
        messages: MESSAGES,
        settings: &[0],
        run: |job| Box::pin(broker::publish(job, "postgres", 100)),
    },
    theirs: Side {
        what: "sqlx by hand: inserts of 500 or 1,000 rows each into a plain table, one transaction to each",
        messages: MESSAGES,
        settings: &[500, 1_000],
        run: |job| Box::pin(insert_postgres(job)),
    },
    needs: None,
    memory: false,
};

pub(crate) const POSTGRES_CONSUME: Claim = Claim {
    name: "postgres_consume",
    what: "100-byte messages read from PostgreSQL by one group, handled, and acknowledged one by one",
    ours: Side {
        what: "8 `Consumer`s on `postgres:`, default options; the messages stay for other groups",
        run: |job| Box::pin(broker::consume_by_many(job, "postgres", 100)),
        ..POSTGRES_PUBLISH.ours
    },
    theirs: Side {
        what: "sqlx by hand: 8 consumers, each deleting 100 or 500 rows chosen `FOR UPDATE SKIP LOCKED`, in a transaction that \
               is open while they are handled",
        settings: &[100, 500],
        run: |job| Box::pin(take_postgres(job)),
        ..POSTGRES_PUBLISH.theirs
    },
    ..POSTGRES_PUBLISH
};

pub(crate) const MYSQL_PUBLISH: Claim = Claim {
    name: "mysql_publish",
    what: "100-byte messages stored in MariaDB, each answered once the disk has it",
    ours: Side {
        what: "`Publisher` on `mysql:`, every answer awaited; 4 partitions, ids, keys",
        run: |job| Box::pin(broker::publish(job, "mariadb", 100)),
        ..POSTGRES_PUBLISH.ours
    },
    theirs: Side { run: |job| Box::pin(insert_mysql(job)), ..POSTGRES_PUBLISH.theirs },
    ..POSTGRES_PUBLISH
};

pub(crate) const MYSQL_CONSUME: Claim = Claim {
    name: "mysql_consume",
    what: "100-byte messages read from MariaDB by one group, handled, and acknowledged one by one",
    ours: Side {
        what: "8 `Consumer`s on `mysql:`, default options; the messages stay for other groups",
        run: |job| Box::pin(broker::consume_by_many(job, "mariadb", 100)),
        ..POSTGRES_PUBLISH.ours
    },
    theirs: Side { run: |job| Box::pin(take_mysql(job)), ..POSTGRES_CONSUME.theirs },
    ..POSTGRES_PUBLISH
};

/// A plain table with the same columns, filled.
macro_rules! by_hand {
    ($fill:ident, $insert:ident, $take:ident, $drain:ident, $batch:ident, $connection:ty, $engine:literal,
     $table:literal, $session:literal) => {
        async fn $fill(url: &str, messages: usize, batch: usize) -> Result<Duration> {
            let mut connection = <$connection>::connect(url).await?;
            connection.execute($table).await?;
            let start = Instant::now();
            for from in (0..messages).step_by(batch) {
                let rows = from..messages.min(from + batch);
                let mut insert = QueryBuilder::new("INSERT INTO queue (id, msg_key, payload, stored) ");
                insert.push_values(rows, |mut row, n| {
                    row.push_bind(MessageId::new().as_bytes().to_vec());
                    row.push_bind(work::key(n)).push_bind(work::payload(n).to_vec());
                    row.push_bind(jiff::Timestamp::now().as_microsecond());
                });
                insert.build().execute(&mut connection).await?;
            }
            Ok(start.elapsed())
        }

        async fn $insert(job: Job) -> Result<Duration> {
            let server = broker::start($engine).await?;
            $fill(server.url(), job.messages, job.setting).await
        }

        async fn $drain(url: String, batch: usize) -> Result<usize> {
            let mut connection = <$connection>::connect(&url).await?;
            connection.execute($session).await?;
            let mut handled = 0;
            loop {
                match $batch(&mut connection, batch).await {
                    Ok(0) => return Ok(handled),
                    Ok(count) => handled += count,
                    // Two of them were in each other's way.
                    Err(sqlx::Error::Database(e)) if e.code().is_some_and(|code| code == "40001") => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }

        async fn $batch(
            connection: &mut $connection,
            batch: usize,
        ) -> std::result::Result<usize, sqlx::Error> {
            let mut tx = connection.begin().await?;
            let mut query = QueryBuilder::new("SELECT seq, payload FROM queue ORDER BY seq LIMIT ");
            query.push(batch).push(" FOR UPDATE SKIP LOCKED");
            let rows = query.build().fetch_all(&mut *tx).await?;
            if rows.is_empty() {
                return Ok(0);
            }
            let mut delete = QueryBuilder::new("DELETE FROM queue WHERE seq IN (");
            let mut list = delete.separated(",");
            for row in &rows {
                let (seq, payload): (i64, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
                if payload.len() == 100 {
                    list.push_bind(seq);
                }
            }
            delete.push(")").build().execute(&mut *tx).await?;
            tx.commit().await?;
            Ok(rows.len())
        }

        async fn $take(job: Job) -> Result<Duration> {
            let server = broker::start($engine).await?;
            $fill(server.url(), job.messages, 1_000).await?;
            let start = Instant::now();
            let members = (0..MEMBERS).map(|_| tokio::spawn($drain(server.url().to_owned(), job.setting)));
            let mut handled = 0;
            for member in members.collect::<Vec<_>>() {
                handled += member.await??;
            }
            let took = start.elapsed();
            if handled == job.messages { Ok(took) } else { Err(format!("{handled} handled").into()) }
        }
    };
}

by_hand!(
    fill_postgres,
    insert_postgres,
    take_postgres,
    drain_postgres,
    batch_postgres,
    PgConnection,
    "postgres",
    "CREATE TABLE queue (seq BIGSERIAL PRIMARY KEY, id BYTEA NOT NULL, msg_key TEXT, payload BYTEA NOT NULL,
                         stored BIGINT NOT NULL)",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED"
);
by_hand!(
    fill_mysql,
    insert_mysql,
    take_mysql,
    drain_mysql,
    batch_mysql,
    MySqlConnection,
    "mariadb",
    "CREATE TABLE queue (seq BIGINT AUTO_INCREMENT PRIMARY KEY, id VARBINARY(255) NOT NULL, msg_key VARCHAR(255),
                         payload LONGBLOB NOT NULL, stored BIGINT NOT NULL)",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
);
