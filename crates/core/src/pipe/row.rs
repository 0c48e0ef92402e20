//! Rows as a pipe makes them, and tables as a SQL sink needs to know them.

use bytes::Bytes;

/// A value of a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// SQL `NULL`.
    Null,
    /// A whole number.
    Int(i64),
    /// A number with a fraction.
    Real(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Blob(Bytes),
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<Bytes> for Value {
    fn from(value: Bytes) -> Self {
        Self::Blob(value)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A row for one of the sink's tables.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The table's name, as in its [`Table`].
    pub table: &'static str,
    /// A value for each of the table's columns, in their order.
    pub values: Vec<Value>,
}

impl Row {
    /// A row of `table`.
    pub fn new<const N: usize>(table: &'static str, values: [Value; N]) -> Self {
        Self { table, values: values.into() }
    }
}

/// A table a SQL sink writes to. It must exist, with a primary key or unique index over the key columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// The columns that are written, key columns first.
    pub columns: &'static [&'static str],
    /// How many of the columns, from the front, are the key.
    pub key: usize,
    /// What happens to a row whose key is there already.
    pub write: Write,
}

/// What a row does to one with the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Write {
    /// Replaces its other columns: the last one wins.
    Replace,
    /// Leaves it alone: the first one wins.
    Ignore,
    /// Adds to its other columns, which are numbers: totals and balances.
    Add,
    /// Is refused: the message becomes a dead letter.
    Refuse,
}
