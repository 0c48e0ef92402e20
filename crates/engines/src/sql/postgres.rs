//! PostgreSQL.

use async_trait::async_trait;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgQueryResult, PgRow, PgSslMode};
use sqlx::{Arguments as _, AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};

use super::conn::{Answer, Arg, Conn, Line, Row};
use super::dialect::{Dialect, numbered};
use super::url::Config;

/// How long a transaction of a client that fell silent in its middle keeps its locks, in milliseconds.
const SILENCE: usize = 1000;
/// The bytes of a large request that may take one more of them.
const PACE: usize = 2048;

pub(super) fn options(config: &Config) -> PgConnectOptions {
    let mut options = PgConnectOptions::new_without_pgpass()
        .host(&config.host)
        .port(config.port)
        .username(&config.user)
        .password(&config.password)
        .database(&config.database)
        .application_name("linchpin")
        .ssl_mode(if config.tls { PgSslMode::VerifyFull } else { PgSslMode::Disable })
        .statement_cache_capacity(256)
        .disable_statement_logging();
    if let Some(ca) = &config.tls_ca {
        options = options.ssl_root_cert(ca);
    }
    if let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) {
        options = options.ssl_client_cert(cert).ssl_client_key(key);
    }
    options
}

pub(super) async fn connect(config: &Config) -> Answer<Box<dyn Conn>> {
    let mut conn = PgConnection::connect_with(&options(config)).await?;
    conn.execute(AssertSqlSafe(settings(config))).await?;
    Ok(Box::new(Postgres(conn)))
}

/// What every session is set to.
pub(super) fn settings(config: &Config) -> String {
    let limit = config.timeout.as_millis();
    format!(
        "SET search_path TO {}; SET statement_timeout = {limit}; SET lock_timeout = {};
         SET idle_in_transaction_session_timeout = {SILENCE}; SET default_transaction_isolation = 'read committed';
         SET client_min_messages = 'warning'",
        Dialect::Postgres.quoted(&config.schema),
        limit / 2,
    )
}

#[derive(Debug)]
struct Postgres(PgConnection);

#[async_trait]
impl Conn for Postgres {
    /// The server takes the time in which a request comes for silence, and what comes slowly mustn't end the session.
    fn patience(&self, bytes: usize) -> Option<String> {
        Some(format!("SET LOCAL idle_in_transaction_session_timeout = {}", SILENCE + bytes / PACE))
    }

    async fn script(&mut self, sql: String) -> Answer<Vec<Row>> {
        let rows: Vec<PgRow> = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut self.0).await?;
        Ok(rows.into_iter().map(Row::Postgres).collect())
    }

    async fn run(&mut self, sql: &str, args: &[Arg<'_>]) -> Answer<u64> {
        let query = sqlx::query_with(AssertSqlSafe(numbered(sql)), bound(args)?);
        let done: PgQueryResult = query.execute(&mut self.0).await?;
        Ok(done.rows_affected())
    }

    async fn insert(&mut self, sql: &str, args: &[Arg<'_>]) -> Answer<i64> {
        let sql = format!("{} RETURNING id", numbered(sql));
        let row = sqlx::query_with(AssertSqlSafe(sql), bound(args)?).fetch_one(&mut self.0).await?;
        Row::Postgres(row).int(0)
    }

    async fn all(&mut self, sql: &str, args: &[Arg<'_>]) -> Answer<Vec<Row>> {
        let query = sqlx::query_with(AssertSqlSafe(numbered(sql)), bound(args)?);
        let rows: Vec<PgRow> = query.fetch_all(&mut self.0).await?;
        Ok(rows.into_iter().map(Row::Postgres).collect())
    }

    /// One statement, an array per column: the server has all of it before it takes a lock, which a `COPY` hasn't.
    async fn fill(&mut self, table: &str, heads: [&str; 2], lines: &[Line<'_>]) -> Answer<()> {
        let [first, second] = heads;
        let sql = format!(
            "INSERT INTO {table}({first}, {second}, id, msg_key, headers, payload)
             SELECT a, b, c, d, CAST(e AS json), f FROM unnest(
                 CAST($1 AS bigint[]), CAST($2 AS bigint[]), CAST($3 AS bytea[]), CAST($4 AS bytea[]),
                 CAST($5 AS text[]), CAST($6 AS bytea[])) AS t(a, b, c, d, e, f)"
        );
        let mut args = PgArguments::default();
        let mut add = || {
            let head = |n: usize| -> Vec<Option<i64>> {
                lines.iter().map(|line| line.heads.get(n).copied()).collect()
            };
            args.add(head(0))?;
            args.add(head(1))?;
            args.add(lines.iter().map(|line| line.id).collect::<Vec<_>>())?;
            args.add(lines.iter().map(|line| line.key).collect::<Vec<_>>())?;
            args.add(lines.iter().map(|line| line.headers).collect::<Vec<_>>())?;
            args.add(lines.iter().map(|line| line.payload).collect::<Vec<_>>())
        };
        add().map_err(sqlx::Error::Encode)?;
        sqlx::query_with(AssertSqlSafe(sql), args).execute(&mut self.0).await?;
        Ok(())
    }
}

fn bound(args: &[Arg<'_>]) -> Answer<PgArguments> {
    let mut out = PgArguments::default();
    for arg in args {
        let added = match *arg {
            Arg::Int(value) => out.add(value),
            Arg::OptInt(value) => out.add(value),
            Arg::Text(value) => out.add(value),
            Arg::OptText(value) => out.add(value),
            Arg::OptBlob(value) => out.add(value),
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    Ok(out)
}
