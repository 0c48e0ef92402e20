//! MySQL and MariaDB.

use async_trait::async_trait;
use sqlx::mysql::{
    MySqlArguments, MySqlConnectOptions, MySqlConnection, MySqlQueryResult, MySqlRow, MySqlSslMode,
};
use sqlx::{Arguments as _, AssertSqlSafe, ConnectOptions as _, Connection as _};

use super::conn::{Answer, Arg, Conn, Line, Row};
use super::dialect::Dialect;
use super::url::Config;

/// The server's error for a database that isn't there.
const UNKNOWN_DATABASE: u16 = 1049;
/// Lines of one statement. Few sizes, so that each is prepared once.
const SIZES: [usize; 4] = [512, 64, 8, 1];
/// The most bytes of one statement, unless a single line is larger: well below the smallest `max_allowed_packet` in use.
const BYTES: usize = 2 << 20;

fn options(config: &Config, database: Option<&str>) -> MySqlConnectOptions {
    let mut options = MySqlConnectOptions::new()
        .host(&config.host)
        .port(config.port)
        .username(&config.user)
        .ssl_mode(if config.tls { MySqlSslMode::VerifyIdentity } else { MySqlSslMode::Disabled })
        .statement_cache_capacity(256)
        .disable_statement_logging();
    if !config.password.is_empty() {
        options = options.password(&config.password);
    }
    if let Some(ca) = &config.tls_ca {
        options = options.ssl_ca(ca);
    }
    if let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) {
        options = options.ssl_client_cert(cert).ssl_client_key(key);
    }
    match database {
        Some(database) => options.database(database),
        None => options,
    }
}

pub(super) async fn connect(config: &Config) -> Answer<Box<dyn Conn>> {
    let conn = MySqlConnection::connect_with(&options(config, Some(&config.database))).await;
    let mut conn = MySql(conn?);
    conn.script(settings(config)).await?;
    Ok(Box::new(conn))
}

/// Creates the database if it isn't there.
pub(super) async fn create_database(config: &Config) -> Answer<()> {
    match MySqlConnection::connect_with(&options(config, Some(&config.database))).await {
        Ok(conn) => return conn.close().await,
        Err(sqlx::Error::Database(e)) if number(&*e) == Some(UNKNOWN_DATABASE) => {}
        Err(e) => return Err(e),
    }
    let mut conn = MySql(MySqlConnection::connect_with(&options(config, None)).await?);
    let name = Dialect::MySql.quoted(&config.database);
    conn.script(format!("CREATE DATABASE IF NOT EXISTS {name}")).await?;
    conn.0.close().await
}

/// The server's number of an error.
pub(super) fn number(error: &(dyn sqlx::error::DatabaseError + 'static)) -> Option<u16> {
    error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>().map(sqlx::mysql::MySqlDatabaseError::number)
}

/// What every session is set to. Under the default isolation, InnoDB would lock the gaps between rows, too.
/// The executable comment is for MariaDB alone: it ends transactions of a client that fell silent in their middle.
fn settings(config: &Config) -> String {
    let wait = (config.timeout.as_millis() / 2000).max(1);
    format!(
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED;
         SET SESSION innodb_lock_wait_timeout = {wait} /*M!, SESSION idle_transaction_timeout = 1 */"
    )
}

#[derive(Debug)]
struct MySql(MySqlConnection);

#[async_trait]
impl Conn for MySql {
    async fn script(&mut self, sql: String) -> Answer<Vec<Row>> {
        let rows: Vec<MySqlRow> = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut self.0).await?;
        Ok(rows.into_iter().map(Row::MySql).collect())
    }

    async fn run(&mut self, sql: &str, args: &[Arg<'_>]) -> Answer<u64> {
        Ok(self.done(sql, args).await?.rows_affected())
    }

    async fn insert(&mut self, sql: &str, args: &[Arg<'_>]) -> Answer<i64> {
        Ok(self.done(sql, args).await?.last_insert_id().cast_signed())
    }

    async fn all(&mut self, sql: &str, args: &[Arg<'_>]) -> Answer<Vec<Row>> {
        let query = sqlx::query_with(AssertSqlSafe(sql.to_owned()), bound(args)?);
        let rows: Vec<MySqlRow> = query.fetch_all(&mut self.0).await?;
        Ok(rows.into_iter().map(Row::MySql).collect())
    }

    async fn fill(&mut self, table: &str, heads: [&str; 2], lines: &[Line<'_>]) -> Answer<()> {
        let [first, second] = heads;
        let mut rest = lines;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(chunk(rest));
            let values = vec!["(?, ?, ?, ?, ?, ?)"; now.len()].join(", ");
            let sql = format!(
                "INSERT INTO {table}({first}, {second}, id, msg_key, headers, payload) VALUES {values}"
            );
            sqlx::query_with(AssertSqlSafe(sql), filled(now)?).execute(&mut self.0).await?;
            rest = later;
        }
        Ok(())
    }
}

impl MySql {
    async fn done(&mut self, sql: &str, args: &[Arg<'_>]) -> Answer<MySqlQueryResult> {
        sqlx::query_with(AssertSqlSafe(sql.to_owned()), bound(args)?).execute(&mut self.0).await
    }
}

/// How many of the lines the next statement takes: the largest size that fits in number and bytes.
fn chunk(lines: &[Line<'_>]) -> usize {
    let mut bytes = 0_usize;
    let fits = lines.iter().take_while(|line| {
        let headers = line.headers.map_or(0, str::len);
        bytes += line.payload.len() + line.id.len() + line.key.map_or(0, <[u8]>::len) + headers + 32;
        bytes <= BYTES
    });
    let fits = fits.count().max(1);
    SIZES.into_iter().find(|size| *size <= fits).unwrap_or(1)
}

fn filled(lines: &[Line<'_>]) -> Answer<MySqlArguments> {
    let mut out = MySqlArguments::default();
    let mut add = |line: &Line<'_>| {
        for head in line.heads {
            out.add(head)?;
        }
        out.add(line.id)?;
        out.add(line.key)?;
        out.add(line.headers)?;
        out.add(line.payload)
    };
    lines.iter().try_for_each(&mut add).map_err(sqlx::Error::Encode)?;
    Ok(out)
}

fn bound(args: &[Arg<'_>]) -> Answer<MySqlArguments> {
    let mut out = MySqlArguments::default();
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
