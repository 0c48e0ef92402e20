//! What PostgreSQL and MySQL say differently. Everything else is written once, with `?` for arguments.

#[cfg(feature = "postgres")]
use std::fmt::Write;

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Postgres,
    /// MySQL and MariaDB.
    MySql,
}

impl Dialect {
    /// The engine's name in errors and in the matrix.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MySql => "mysql",
        }
    }

    /// The port of a URL that names none.
    pub(super) const fn port(self) -> u16 {
        match self {
            Self::Postgres => 5432,
            Self::MySql => 3306,
        }
    }

    /// The database's own clock, in milliseconds since 1970, as an expression. It goes on within a transaction.
    pub(super) const fn now(self) -> &'static str {
        match self {
            Self::Postgres => "CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint)",
            Self::MySql => "CAST(floor(unix_timestamp(sysdate(6)) * 1000) AS SIGNED)",
        }
    }

    /// The same at the beginning of a statement: one value for all its rows, by which an index can be searched.
    pub(super) const fn instant(self) -> &'static str {
        match self {
            Self::Postgres => "(SELECT CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS bigint))",
            Self::MySql => "CAST(floor(unix_timestamp(now(6)) * 1000) AS SIGNED)",
        }
    }

    /// Bytes, written out.
    pub(super) fn bytes(self, bytes: &[u8]) -> String {
        let digit = |half: u8| char::from_digit(half.into(), 16).unwrap_or('0');
        let digits: String = bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
        match self {
            Self::Postgres => format!("decode('{digits}', 'hex')"),
            Self::MySql => format!("x'{digits}'"),
        }
    }

    /// Begins a transaction that reads one moment and writes nothing.
    pub(super) const fn snapshot(self) -> &'static str {
        match self {
            Self::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            Self::MySql => {
                "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"
            }
        }
    }

    /// A name in quotes.
    pub(super) fn quoted(self, name: &str) -> String {
        match self {
            Self::Postgres => format!("\"{}\"", name.replace('"', "\"\"")),
            Self::MySql => format!("`{}`", name.replace('`', "``")),
        }
    }
}

/// `sql` with PostgreSQL's numbered placeholders. No statement of ours has a `?` in a literal.
#[cfg(feature = "postgres")]
pub(super) fn numbered(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len() + 16);
    for (n, piece) in sql.split('?').enumerate() {
        if n > 0 {
            // Writing to a string can't fail.
            let _written = write!(out, "${n}");
        }
        out.push_str(piece);
    }
    out
}

/// `(?, …, ?)` for `count` values, rounded up to one of a few sizes, so that statements can be prepared once.
/// [`padded`] repeats a value as often as that takes.
pub(super) fn places(count: usize) -> String {
    let mut out = String::from("(?");
    (1..size(count)).for_each(|_| out.push_str(", ?"));
    out.push(')');
    out
}

/// The values of [`places`].
pub(super) fn padded(values: &[i64]) -> Vec<i64> {
    let last = values.last().copied().unwrap_or_default();
    let mut out = values.to_vec();
    out.resize(size(values.len()), last);
    out
}

fn size(count: usize) -> usize {
    [1, 4, 16, 64, 256, 1024].into_iter().find(|size| *size >= count).unwrap_or(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "postgres")]
    #[test]
    fn placeholders_are_numbered() {
        assert_eq!(numbered("a = ? AND b IN (?, ?)"), "a = $1 AND b IN ($2, $3)");
        assert_eq!(numbered("COMMIT"), "COMMIT");
    }

    #[test]
    fn lists_come_in_few_sizes() {
        assert_eq!((places(1), places(3)), ("(?)".to_owned(), "(?, ?, ?, ?)".to_owned()));
        assert_eq!(padded(&[7, 8]), [7, 8, 8, 8]);
        assert_eq!((padded(&[]), padded(&vec![1; 2000]).len()), (vec![0], 2000));
    }

    #[test]
    fn bytes_are_written_out() {
        assert_eq!(Dialect::Postgres.bytes(b"a'\xff"), "decode('6127ff', 'hex')");
        assert_eq!((Dialect::MySql.bytes(b"\n"), Dialect::MySql.bytes(b"")), ("x'0a'".into(), "x''".into()));
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(Dialect::Postgres.quoted("a\"b"), "\"a\"\"b\"");
        assert_eq!(Dialect::MySql.quoted("a`b"), "`a``b`");
    }
}
