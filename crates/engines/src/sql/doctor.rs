//! What there is to see in a PostgreSQL, MySQL or MariaDB server.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use linchpin_core::Finding;
use linchpin_core::url::EngineUrl;
use linchpin_core::{Error, Kind, Result};
use tokio::time::Instant;

use super::clock::DatabaseClock;
use super::coord;
use super::dialect::Dialect;
use super::error::Phase;
use super::schema;
use super::session::connect;
use super::tx::{Step, Tx, within};
use super::url::Config;

/// Clocks further apart than this are worth a look, in milliseconds.
const SKEW: i64 = 1000;

/// Looks at the server that `url` names, without changing it.
pub async fn examine(url: EngineUrl) -> Vec<Finding> {
    let config = match Config::from_url(&url) {
        Ok(config) => Arc::new(config),
        Err(error) => return vec![Finding::wrong("url", &error)],
    };
    let mut tx = match open(&config).await {
        Ok(tx) => tx,
        Err(error) => return vec![Finding::wrong("server", &error)],
    };
    let looked = match config.dialect {
        Dialect::Postgres => postgres(&mut tx, &config.schema).await,
        Dialect::MySql => mysql(&mut tx).await,
    };
    let mut report = match looked {
        Ok(report) => report,
        Err(failure) => {
            return vec![wrong("server", failure.into_error(config.dialect, "doctor", Phase::Before))];
        }
    };
    for looked in [clock(&mut tx).await, tables(&mut tx).await] {
        report.push(looked.unwrap_or_else(|failure| {
            wrong("server", failure.into_error(config.dialect, "doctor", Phase::Before))
        }));
    }
    report
}

async fn open(config: &Arc<Config>) -> Result<Tx> {
    let deadline = Instant::now() + config.timeout;
    let conn = within(deadline, connect(config)).await;
    let conn = conn.map_err(|e| e.into_error(config.dialect, "connect", Phase::Before))?;
    let mut tx = Tx::new(conn, config.clone(), Arc::new(DatabaseClock::new()));
    tx.reset(deadline);
    Ok(tx)
}

fn wrong(name: &'static str, error: Error) -> Finding {
    Finding::wrong(name, &error)
}

fn refused(name: &'static str, kind: Kind, message: String, help: &str) -> Finding {
    wrong(name, Error::new(kind, message).help(help))
}

async fn postgres(tx: &mut Tx, schema: &str) -> Step<Vec<Finding>> {
    let sql = "SELECT current_setting('server_version'), current_setting('fsync'),
            current_setting('synchronous_commit'), CAST(pg_is_in_recovery() AS text),
            CAST((SELECT count(*) FROM pg_stat_activity) AS text), current_setting('max_connections'),
            CAST(CAST(current_setting('server_version_num') AS bigint) >= 120000 AS text),
            coalesce(CAST(has_schema_privilege(to_regnamespace(quote_ident(?))::oid, 'CREATE') AS text),
                CAST(has_database_privilege(current_database(), 'CREATE') AS text))";
    let row = tx.one(sql, &[schema.into()]).await?;
    let text = |column| row.text(column);
    let (fsync, lazy) = (text(1)?, text(2)?);
    Ok(vec![
        version(format!("PostgreSQL {}", text(0)?), text(6)? == "true", "PostgreSQL 12"),
        match (fsync.as_str(), lazy.as_str()) {
            ("off", _) => Finding::look("sync", "fsync is off: a loss of power may damage the database"),
            (_, "off") => {
                Finding::look("sync", "synchronous_commit is off: a crash may take the last commits")
            }
            _ => Finding::well("sync", format!("fsync {fsync}, synchronous_commit {lazy}")),
        },
        role(text(3)? == "true"),
        room(&text(4)?, &text(5)?),
        privileges(text(7)? == "true", "CREATE on the schema, or on the database if the schema is missing"),
    ])
}

async fn mysql(tx: &mut Tx) -> Step<Vec<Finding>> {
    let sql = "SELECT version(), CAST(@@innodb_flush_log_at_trx_commit AS char), if(@@log_bin, 'on', 'off'),
            CAST(@@sync_binlog AS char), @@binlog_format, if(@@global.read_only, 'on', 'off'),
            CAST((SELECT count(*) FROM information_schema.processlist) AS char), CAST(@@max_connections AS char)";
    let row = tx.one(sql, &[]).await?;
    let text = |column| row.text(column);
    let (name, flush, logs, binlog) = (text(0)?, text(1)?, text(2)? == "on", text(3)?);
    let new = if name.contains("MariaDB") { new_enough(&name, 10, 6) } else { new_enough(&name, 8, 0) };
    let mut report = vec![
        version(name, new, "MariaDB 10.6 or MySQL 8.0"),
        match flush.as_str() {
            "1" if logs && binlog != "1" => Finding::look(
                "sync",
                format!("sync_binlog is {binlog}: a loss of power may take the last commits"),
            ),
            "1" => {
                Finding::well("sync", "innodb_flush_log_at_trx_commit is 1: every commit waits for the disk")
            }
            other => Finding::look(
                "sync",
                format!(
                    "innodb_flush_log_at_trx_commit is {other}: a crash may take the last commits; set it to 1"
                ),
            ),
        },
        role(text(5)? == "on"),
        room(&text(6)?, &text(7)?),
    ];
    if logs && text(4)? == "STATEMENT" {
        let message = "the binary log has format STATEMENT, which READ COMMITTED can't be written in".into();
        report.push(refused("binlog", Kind::Config, message, "set binlog_format to ROW or MIXED"));
    }
    report.push(privileges(may(tx).await?, "SELECT, INSERT, UPDATE, DELETE, CREATE, CREATE VIEW"));
    Ok(report)
}

/// Whether the user has what it takes, granted to it directly: for the server, or for this database.
async fn may(tx: &mut Tx) -> Step<bool> {
    let needed = "privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE', 'CREATE', 'CREATE VIEW')";
    let sql = format!(
        "SELECT count(DISTINCT privilege_type) FROM (
            SELECT privilege_type FROM information_schema.user_privileges WHERE {needed}
            UNION SELECT privilege_type FROM information_schema.schema_privileges
                WHERE {needed} AND database() LIKE table_schema) AS granted"
    );
    Ok(tx.one(&sql, &[]).await?.int(0)? >= 6)
}

/// Whether a version, `10.11.6-MariaDB`, is at least this one.
fn new_enough(version: &str, major: u32, minor: u32) -> bool {
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (major, minor)
}

fn version(name: String, new: bool, least: &str) -> Finding {
    match new {
        true => Finding::well("server", name),
        false => refused(
            "server",
            Kind::Unsupported,
            name,
            &format!("{least} is the oldest that has SKIP LOCKED and all else"),
        ),
    }
}

fn role(read_only: bool) -> Finding {
    match read_only {
        false => Finding::well("role", "takes writes"),
        true => refused(
            "role",
            Kind::Unavailable,
            "read-only".into(),
            "it may be a replica: name the primary in the URL",
        ),
    }
}

fn room(used: &str, most: &str) -> Finding {
    let (used, most): (u64, u64) = (used.parse().unwrap_or(0), most.parse().unwrap_or(u64::MAX));
    let text = format!("{used} of {most} in use");
    match used.saturating_mul(10) > most.saturating_mul(9) {
        true => Finding::look("connections", format!("{text}: raise max_connections, or lower pool")),
        false => Finding::well("connections", text),
    }
}

fn privileges(enough: bool, needed: &str) -> Finding {
    match enough {
        true => Finding::well("privileges", "may create its tables"),
        false => Finding::look(
            "privileges",
            format!(
                "may not create tables: fine if they are there, else grant {needed}, or open it once as its owner"
            ),
        ),
    }
}

/// The database's clock against this host's. Only the database's counts, but people compare.
async fn clock(tx: &mut Tx) -> Step<Finding> {
    let before = host();
    let there = tx.look_at_clock().await?;
    let here = before.midpoint(host());
    let skew = there - here;
    Ok(match skew.abs() >= SKEW {
        true => Finding::look(
            "clock",
            format!(
                "the database's clock is {skew} ms from this host's: times of messages are the database's"
            ),
        ),
        false => Finding::well("clock", format!("{skew} ms from this host's")),
    })
}

fn host() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The tables of the bus and those of coordination.
async fn tables(tx: &mut Tx) -> Step<Finding> {
    let mut there = Vec::new();
    for (what, tables) in [("bus", &schema::TABLES), ("coordination", &coord::schema::TABLES)] {
        let Some(version) = schema::version(tx, tables).await? else { continue };
        if version != tables.version {
            let message =
                format!("{what} has version {version}, this build knows version {}", tables.version);
            return Ok(refused("tables", Kind::Corrupt, message, "upgrade Linchpin"));
        }
        there.push(format!("{what} version {version}"));
    }
    Ok(match there.is_empty() {
        true => Finding::well("tables", "none yet: they are made when the bus or coordination is opened"),
        false => Finding::well("tables", there.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(new_enough("10.11.6-MariaDB-0+deb12u1", 10, 6) && new_enough("8.4.0", 8, 0));
        assert!(!new_enough("10.5.9-MariaDB", 10, 6) && !new_enough("5.7.44", 8, 0));
    }
}
