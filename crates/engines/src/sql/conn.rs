//! One connection, whichever the database.

use std::fmt::Debug;

use async_trait::async_trait;
use sqlx::Row as _;

/// What the driver answers.
pub(super) type Answer<T> = Result<T, sqlx::Error>;

/// A connection. Statements have `?` for arguments, and are prepared once per connection.
///
/// Not cancel-safe: a connection on which a call was dropped must not be used again.
#[async_trait]
pub(super) trait Conn: Send + Sync + Debug {
    /// What is to be said in a transaction before a request of so many bytes, if anything.
    fn patience(&self, _bytes: usize) -> Option<String> {
        None
    }

    /// Runs statements without arguments, separated by `;`. Answers the rows of all of them.
    async fn script(&mut self, sql: String) -> Answer<Vec<Row>>;

    /// Runs a statement; says how many rows it changed.
    async fn run(&mut self, sql: &str, args: &[Arg<'_>]) -> Answer<u64>;

    /// Runs an insert into a table with a numbered `id`; says the new row's.
    async fn insert(&mut self, sql: &str, args: &[Arg<'_>]) -> Answer<i64>;

    /// Runs a query.
    async fn all(&mut self, sql: &str, args: &[Arg<'_>]) -> Answer<Vec<Row>>;

    /// Inserts many lines into `table`, whose first two columns are `heads`; the others are those of [`Line`].
    async fn fill(&mut self, table: &str, heads: [&str; 2], lines: &[Line<'_>]) -> Answer<()>;
}

/// An argument of a statement.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arg<'a> {
    Int(i64),
    OptInt(Option<i64>),
    Text(&'a str),
    OptText(Option<&'a str>),
    OptBlob(Option<&'a [u8]>),
}

impl Arg<'_> {
    /// Bytes, of those that can be many.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Text(text) | Self::OptText(Some(text)) => text.len(),
            Self::OptBlob(Some(bytes)) => bytes.len(),
            Self::Int(_) | Self::OptInt(_) | Self::OptText(None) | Self::OptBlob(None) => 0,
        }
    }
}

impl From<i64> for Arg<'_> {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<u64> for Arg<'_> {
    fn from(value: u64) -> Self {
        Self::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Arg<'_> {
    fn from(value: u32) -> Self {
        Self::Int(value.into())
    }
}

impl From<bool> for Arg<'_> {
    fn from(value: bool) -> Self {
        Self::Int(value.into())
    }
}

impl From<Option<i64>> for Arg<'_> {
    fn from(value: Option<i64>) -> Self {
        Self::OptInt(value)
    }
}

impl<'a> From<&'a str> for Arg<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(value)
    }
}

impl<'a> From<Option<&'a str>> for Arg<'a> {
    fn from(value: Option<&'a str>) -> Self {
        Self::OptText(value)
    }
}

impl<'a> From<Option<&'a [u8]>> for Arg<'a> {
    fn from(value: Option<&'a [u8]>) -> Self {
        Self::OptBlob(value)
    }
}

/// A message on its way into `lp_message` (place, time) or `lp_delayed` (due, part).
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) heads: [i64; 2],
    pub(super) id: &'a [u8],
    pub(super) key: Option<&'a [u8]>,
    pub(super) headers: Option<&'a str>,
    pub(super) payload: &'a [u8],
}

impl Line<'_> {
    pub(super) fn size(&self) -> usize {
        self.id.len()
            + self.key.map_or(0, <[u8]>::len)
            + self.headers.map_or(0, str::len)
            + self.payload.len()
    }
}

/// A row of an answer.
#[derive(Debug)]
pub(super) enum Row {
    #[cfg(feature = "postgres")]
    Postgres(sqlx::postgres::PgRow),
    #[cfg(feature = "mysql")]
    MySql(sqlx::mysql::MySqlRow),
}

macro_rules! column {
    ($row:expr, $column:expr, $get:ident) => {
        match $row {
            #[cfg(feature = "postgres")]
            Row::Postgres(row) => row.$get($column),
            #[cfg(feature = "mysql")]
            Row::MySql(row) => row.$get($column),
        }
    };
}

impl Row {
    pub(super) fn int(&self, column: usize) -> Answer<i64> {
        column!(self, column, try_get)
    }

    pub(super) fn opt_int(&self, column: usize) -> Answer<Option<i64>> {
        column!(self, column, try_get)
    }

    /// A number that is never negative.
    pub(super) fn count<T: TryFrom<i64>>(&self, column: usize) -> Answer<T> {
        let value = self.int(column)?;
        T::try_from(value).map_err(|_| sqlx::Error::Decode(format!("{value} is out of range").into()))
    }

    pub(super) fn flag(&self, column: usize) -> Answer<bool> {
        Ok(self.int(column)? != 0)
    }

    pub(super) fn text(&self, column: usize) -> Answer<String> {
        column!(self, column, try_get_unchecked)
    }

    pub(super) fn opt_text(&self, column: usize) -> Answer<Option<String>> {
        column!(self, column, try_get_unchecked)
    }

    pub(super) fn bytes(&self, column: usize) -> Answer<Vec<u8>> {
        column!(self, column, try_get_unchecked)
    }

    pub(super) fn blob(&self, column: usize) -> Answer<Option<&[u8]>> {
        column!(self, column, try_get_unchecked)
    }
}
