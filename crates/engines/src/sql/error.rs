//! The one mapping of the drivers' errors: by SQLSTATE on PostgreSQL, by error number on MySQL and MariaDB.

use std::time::Duration;

use linchpin_core::{Error, Kind, Retry};
use sqlx::error::DatabaseError;

use super::dialect::Dialect;

/// What a failed operation inside a transaction ends with.
#[derive(Debug)]
pub(super) enum Failure {
    Driver(sqlx::Error),
    Said(Error),
    /// The deadline passed.
    Late,
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Driver(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Said(error)
    }
}

/// What a failure means for the transaction it happened in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Rolled back because of what others do: it may go through if it is run again.
    Again,
    /// The connection is gone.
    Broken,
    /// It wouldn't go through the second time either.
    Refused,
}

/// How far a transaction had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its commit hadn't been sent: nothing of it is applied.
    Before,
    /// Its commit had been sent.
    Commit,
}

impl Failure {
    pub(super) fn fate(&self) -> Fate {
        use sqlx::Error as E;
        match self {
            Self::Said(_) => Fate::Refused,
            Self::Late => Fate::Broken,
            Self::Driver(E::Database(e)) => match code(&**e).as_str() {
                // Serialization, deadlock, lock timeout; 23505/1062: two made the same row at once, and one of them is there now.
                "40001" | "40P01" | "55P03" | "23505" | "1213" | "1205" | "1062" | "1020" => Fate::Again,
                // Closed by an administrator, a shutdown, or for its silence.
                "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "1053" | "1927" | "1152" | "1153"
                | "1158" | "1159" | "1160" | "1161" | "3169" | "4031" => Fate::Broken,
                code if code.starts_with("08") => Fate::Broken,
                _ => Fate::Refused,
            },
            Self::Driver(E::Io(_) | E::Tls(_) | E::Protocol(_) | E::WorkerCrashed) => Fate::Broken,
            Self::Driver(_) => Fate::Refused,
        }
    }

    /// As ours.
    pub(super) fn into_error(self, dialect: Dialect, op: &'static str, phase: Phase) -> Error {
        let lost = phase == Phase::Commit && self.fate() == Fate::Broken;
        let error = match self {
            Self::Said(error) => error,
            Self::Late => Error::new(Kind::Timeout, "the server didn't answer in time")
                .retry_as(SOON)
                .help("see what keeps the server busy, or raise the timeout option of the URL"),
            Self::Driver(error) => map(error),
        };
        let error = if lost { error.retry_as(Retry::Unknown) } else { error };
        error.engine(dialect.name()).op(op)
    }
}

/// The SQLSTATE on PostgreSQL, the error's number on MySQL.
fn code(error: &(dyn DatabaseError + 'static)) -> String {
    #[cfg(feature = "mysql")]
    if let Some(number) = super::mysql::number(error) {
        return number.to_string();
    }
    error.code().unwrap_or_default().into_owned()
}

const SOON: Retry = Retry::Safe { after: Duration::from_millis(100) };
const LATER: Retry = Retry::Safe { after: Duration::from_secs(1) };
const BUG: &str = "this is a bug; please report it";
const REACH: &str = "check host and port, and that the server runs and takes connections";
const RESTORE: &str = "restore the tables named lp_* from a copy, or use another schema, database or prefix";
const WAIT: &str = "another client holds the rows or restarts the server; try again";

fn map(error: sqlx::Error) -> Error {
    use sqlx::Error as E;
    let (kind, retry, message, help) = match &error {
        E::Database(e) => by_code(&code(&**e)),
        E::Io(_) | E::WorkerCrashed => (Kind::Unavailable, SOON, "the server can't be reached", REACH),
        E::Tls(_) => (
            Kind::Config,
            Retry::Never,
            "no encrypted connection could be made",
            "check that the server speaks TLS, its certificate's name, and tls_ca, tls_cert and tls_key",
        ),
        E::Protocol(_) => {
            (Kind::Unavailable, SOON, "the connection broke, or it isn't such a database's port", REACH)
        }
        E::Configuration(_) | E::InvalidArgument(_) => {
            (Kind::Config, Retry::Never, "the options can't be used", "check the URL")
        }
        E::ColumnDecode { .. } | E::Decode(_) | E::ColumnIndexOutOfBounds { .. } => {
            (Kind::Corrupt, Retry::Never, "a stored value has the wrong type", RESTORE)
        }
        E::RowNotFound => (Kind::Corrupt, Retry::Never, "a row that must be there is missing", RESTORE),
        _ => (Kind::Unexpected, Retry::Never, "the driver was used wrongly", BUG),
    };
    Error::new(kind, message).retry_as(retry).help(help).source(error)
}

type Meaning = (Kind, Retry, &'static str, &'static str);

fn by_code(code: &str) -> Meaning {
    match code {
        "40001" | "40P01" | "55P03" | "1213" | "1205" | "1020" => {
            (Kind::Unavailable, SOON, "the rows are contended", WAIT)
        }
        "23505" | "1062" => (Kind::Conflict, SOON, "somebody else made the same at once", "try again"),
        "28P01" | "28000" | "1045" | "1698" => (
            Kind::Denied,
            Retry::Never,
            "the server doesn't let this user in",
            "check user and password in the URL, and where the user may connect from",
        ),
        "42501" | "1044" | "1142" | "1143" | "1227" | "1370" => (
            Kind::Denied,
            Retry::Never,
            "the user lacks a privilege",
            "grant SELECT, INSERT, UPDATE, DELETE, CREATE and INDEX on the schema or database, or open it once as its owner",
        ),
        "3D000" | "1049" => (
            Kind::NotFound,
            Retry::Never,
            "the database doesn't exist",
            "create it with CREATE DATABASE, or correct the URL",
        ),
        "53300" | "1040" | "1203" | "1226" => (
            Kind::Limited,
            LATER,
            "the server has too many connections",
            "raise its max_connections, or lower the pool option of the URLs",
        ),
        "25006" | "1290" | "1792" | "1836" => (
            Kind::Unavailable,
            LATER,
            "the server is read-only",
            "it may be a replica: name the primary in the URL",
        ),
        "53100" | "1021" | "1114" | "1041" | "53200" | "53000" | "1037" => {
            (Kind::Limited, LATER, "the server is out of disk or memory", "free some, then try again")
        }
        "57014" | "1317" | "3024" | "1969" => {
            (Kind::Timeout, SOON, "the statement took too long", "raise the timeout option of the URL")
        }
        "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "1053" | "1927" | "1152" | "1158" | "1159"
        | "1160" | "1161" | "3169" | "4031" | "1129" => {
            (Kind::Unavailable, SOON, "the server ended the session or restarts", WAIT)
        }
        "1153" | "1301" | "54000" => (
            Kind::Invalid,
            Retry::Never,
            "the message is larger than the server takes",
            "raise max_allowed_packet, or send less",
        ),
        "23502" | "1364" | "1048" => (
            Kind::Config,
            Retry::Never,
            "a column of the table needs a value that Linchpin doesn't know",
            "give the column a default, or insert the row by hand",
        ),
        "3F000" | "42P01" | "1146" | "42703" | "1054" => {
            (Kind::Corrupt, Retry::Never, "the tables aren't as they were made", RESTORE)
        }
        "XX001" | "XX002" | "1034" | "1712" => {
            (Kind::Corrupt, Retry::Never, "the database is damaged", RESTORE)
        }
        code if code.starts_with("08") => (Kind::Unavailable, SOON, "the connection broke", REACH),
        code if code.starts_with("58") => (
            Kind::Unavailable,
            Retry::Unknown,
            "the server couldn't read or write its files",
            "check its disk and its log",
        ),
        _ => (Kind::Unexpected, Retry::Never, "the server refused the statement", BUG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_its_kind_and_a_remedy() {
        for (code, kind) in [
            ("28P01", Kind::Denied),
            ("1045", Kind::Denied),
            ("42501", Kind::Denied),
            ("1044", Kind::Denied),
            ("3D000", Kind::NotFound),
            ("1049", Kind::NotFound),
            ("53300", Kind::Limited),
            ("1040", Kind::Limited),
            ("25006", Kind::Unavailable),
            ("1290", Kind::Unavailable),
            ("40P01", Kind::Unavailable),
            ("1213", Kind::Unavailable),
            ("57P03", Kind::Unavailable),
            ("57014", Kind::Timeout),
            ("53100", Kind::Limited),
            ("1364", Kind::Config),
            ("42601", Kind::Unexpected),
        ] {
            let (of, _, message, help) = by_code(code);
            assert_eq!(of, kind, "{code}");
            assert!(!message.is_empty() && !help.is_empty());
        }
    }

    #[test]
    fn only_a_lost_commit_is_unknown() {
        let gone = || Failure::from(sqlx::Error::Io(std::io::ErrorKind::BrokenPipe.into()));
        assert_eq!(gone().fate(), Fate::Broken);
        let before = gone().into_error(Dialect::Postgres, "publish", Phase::Before);
        assert!(matches!(before.retry(), Retry::Safe { .. }) && before.kind() == Kind::Unavailable);
        assert_eq!(gone().into_error(Dialect::MySql, "publish", Phase::Commit).retry(), Retry::Unknown);
        let late = Failure::Late.into_error(Dialect::MySql, "publish", Phase::Commit);
        assert_eq!((late.kind(), late.retry()), (Kind::Timeout, Retry::Unknown));
        assert!(late.to_string().starts_with("mysql publish: "));
    }
}
