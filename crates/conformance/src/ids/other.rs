//! Another program on the same database: its own client, past Linchpin.

use std::process::Command;
use std::time::Duration;

use rusqlite::types::Value;

/// What the client of the database that `url` names prints: a line per row, columns separated by tabs.
pub(super) fn sql(url: &str, statement: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (rest, options) = rest.split_once('?').unwrap();
    if scheme == "sqlite" {
        return sqlite(rest, statement);
    }
    let (user, rest) = rest.split_once('@').unwrap();
    let (address, database) = rest.split_once('/').unwrap();
    let (host, port) = address.split_once(':').unwrap();
    let mut command = if scheme == "postgres" {
        let schema = options.split('&').find_map(|option| option.strip_prefix("schema=")).unwrap();
        let mut psql = Command::new("psql");
        psql.args(["-h", host, "-p", port, "-U", user, "-d", database, "-X", "-A", "-t", "-q", "-F", "\t"]);
        psql.args(["-v", "ON_ERROR_STOP=1", "-c", &format!("SET search_path TO {schema}"), "-c", statement]);
        psql
    } else {
        let mut mariadb = Command::new("mariadb");
        mariadb.args(["--no-defaults", "-h", host, "-P", port, "-u", user, "-N", "-B", "-r"]);
        mariadb.args(["-e", statement, database]);
        mariadb
    };
    let output = command.output().unwrap();
    assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn sqlite(path: &str, statement: &str) -> String {
    let conn = rusqlite::Connection::open(path).unwrap();
    conn.busy_timeout(Duration::from_secs(10)).unwrap();
    if !statement.trim_start().starts_with("SELECT") {
        conn.execute_batch(statement).unwrap();
        return String::new();
    }
    let mut query = conn.prepare(statement).unwrap();
    let columns = query.column_count();
    let mut rows = query.query([]).unwrap();
    let mut lines = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        let text = |n| match row.get::<_, Value>(n).unwrap() {
            Value::Integer(number) => number.to_string(),
            Value::Text(text) => text,
            other => format!("{other:?}"),
        };
        lines.push((0..columns).map(text).collect::<Vec<_>>().join("\t"));
    }
    lines.join("\n")
}
