//! Where the cases run: a database, and a way past Linchpin to look into it.

use std::collections::BTreeSet;
use std::process::Command;

use linchpin_core::id::Ids;
use linchpin_core::{Error, Kind, Result, Scheme};
use linchpin_engines::{MYSQL, POSTGRES, REDIS, SQLITE};
use linchpin_harness::{Running, find};

const SCHEMES: &[Scheme] = &[SQLITE, POSTGRES, MYSQL, REDIS];

pub(crate) async fn open(url: &str) -> Result<Ids> {
    Ids::open_with(url, SCHEMES).await
}

pub(crate) async fn numbers(ids: &Ids, count: usize) -> Vec<i64> {
    ids.next_n(count).await.unwrap().map(|id| id.number().unwrap()).collect()
}

/// A database, and what ends with it.
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) server: Option<Running>,
    _folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new(engine: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        match engine {
            "sqlite" => {
                let url = format!("sqlite://{}/ids.db", folder.path().display());
                Self { url, server: None, _folder: folder }
            }
            _ => {
                let server = find(engine).unwrap().start().unwrap();
                Self { url: server.url().to_owned(), server: Some(server), _folder: folder }
            }
        }
    }

    /// The URL with these options.
    pub(crate) fn with(&self, options: &str) -> String {
        let mark = if self.url.contains('?') { '&' } else { '?' };
        format!("{}{mark}{options}", self.url)
    }

    pub(crate) async fn open(&self, options: &str) -> Result<Ids> {
        open(&self.with(options)).await
    }

    /// What the database's own client prints: a line per row, columns separated by tabs.
    pub(crate) fn sql(&self, statement: &str) -> String {
        let (scheme, rest) = self.url.split_once("://").unwrap();
        if scheme == "sqlite" {
            return sqlite(rest, statement);
        }
        let (user, rest) = rest.split_once('@').unwrap();
        let (address, database) = rest.split_once('/').unwrap();
        let (host, port) = address.split_once(':').unwrap();
        let output = if scheme == "postgres" {
            let mut psql = Command::new("psql");
            psql.args([
                "-h", host, "-p", port, "-U", user, "-d", database, "-X", "-A", "-t", "-q", "-F", "\t",
            ]);
            psql.args(["-v", "ON_ERROR_STOP=1", "-c", statement]).output()
        } else {
            let mut mariadb = Command::new("mariadb");
            mariadb.args(["--no-defaults", "-h", host, "-P", port, "-u", user, "-N", "-B", "-r"]);
            mariadb.args(["-e", statement, database]).output()
        };
        let output = output.unwrap();
        assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

fn sqlite(path: &str, statement: &str) -> String {
    let conn = rusqlite::Connection::open(path).unwrap();
    conn.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    if !statement.trim_start().starts_with("SELECT") {
        conn.execute_batch(statement).unwrap();
        return String::new();
    }
    let mut query = conn.prepare(statement).unwrap();
    let columns = query.column_count();
    let mut rows = query.query([]).unwrap();
    let mut lines = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        let text = |n| match row.get::<_, rusqlite::types::Value>(n).unwrap() {
            rusqlite::types::Value::Integer(number) => number.to_string(),
            rusqlite::types::Value::Text(text) => text,
            other => format!("{other:?}"),
        };
        lines.push((0..columns).map(text).collect::<Vec<_>>().join("\t"));
    }
    lines.join("\n")
}

/// The error is of this kind, names the part, and knows a remedy.
pub(crate) fn said(error: &Error, kind: Kind, part: &str) {
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(part), "{error} doesn't say {part:?}");
    assert!(error.remedy().is_some(), "{error} has no remedy");
}

/// Draws from several handles at once; all numbers are different.
pub(crate) async fn race(url: &str, handles: usize, each: usize) -> BTreeSet<i64> {
    let drawing = (0..handles).map(|n| {
        let url = url.to_owned();
        tokio::spawn(async move {
            let ids = open(&url).await.unwrap();
            let mut all = Vec::new();
            while all.len() < each {
                let count = (1 + n * 13).min(each - all.len());
                all.extend(numbers(&ids, count).await);
                // So that handles take turns.
                tokio::task::yield_now().await;
            }
            all
        })
    });
    let mut all = BTreeSet::new();
    for drawn in drawing.collect::<Vec<_>>() {
        for number in drawn.await.unwrap() {
            assert!(all.insert(number), "{number} came twice");
        }
    }
    assert_eq!(all.len(), handles * each);
    all
}
