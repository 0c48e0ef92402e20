//! Writing many rows with few statements.

use linchpin_core::pipe::{Item, Table, Value, Write};
use rusqlite::Connection;
use rusqlite::types::{ToSqlOutput, ValueRef};

use crate::relational::sink::Target;

/// The most values SQLite binds to one statement.
const MAX_BOUND: usize = 32_766;
/// The most rows in one statement. Beyond it statements cost more to keep than they save.
const MAX_ROWS: usize = 256;

/// A table, and the statements that write to it.
#[derive(Debug)]
pub(super) struct Upsert {
    target: Target,
    /// For 2ⁿ rows each, the largest first: any number of rows is written by few of them, and few are kept prepared.
    sqls: Vec<(usize, String)>,
}

/// Why rows couldn't be written.
#[derive(Debug)]
pub(super) enum Trouble {
    Refused(String),
    Driver(rusqlite::Error),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Driver(error)
    }
}

impl Upsert {
    pub(super) fn new(target: Target) -> Self {
        let most = (MAX_BOUND / target.table.columns.len().max(1)).min(MAX_ROWS);
        let sizes = (0..=most.ilog2()).rev().map(|n| 1_usize << n);
        let sqls = sizes.map(|rows| (rows, sql(&target.table, rows))).collect();
        Self { target, sqls }
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// How many statements it keeps prepared.
    pub(super) fn statements(&self) -> usize {
        self.sqls.len()
    }

    /// Writes the rows of `items` that are for this table.
    pub(super) fn write<'a>(
        &self,
        tx: &Connection,
        items: impl Iterator<Item = &'a Item>,
    ) -> Result<(), Trouble> {
        let rows = items.flat_map(|item| &item.rows).filter(|row| row.table == self.target.table.name);
        let rows = rows.map(|row| row.values.as_slice()).collect();
        let rows = self.target.coalesce(rows).map_err(Trouble::Refused)?;
        let mut rest = rows.as_slice();
        for (size, sql) in &self.sqls {
            while let Some((chunk, after)) = rest.split_at_checked(*size) {
                let mut statement = tx.prepare_cached(sql)?;
                for (n, value) in chunk.iter().flat_map(|row| row.iter()).enumerate() {
                    statement.raw_bind_parameter(n + 1, bound(value))?;
                }
                statement.raw_execute()?;
                rest = after;
            }
        }
        Ok(())
    }
}

fn bound(value: &Value) -> ToSqlOutput<'_> {
    ToSqlOutput::Borrowed(match value {
        Value::Null => ValueRef::Null,
        Value::Int(n) => ValueRef::Integer(*n),
        Value::Real(x) => ValueRef::Real(*x),
        Value::Text(text) => ValueRef::Text(text.as_bytes()),
        Value::Blob(bytes) => ValueRef::Blob(bytes),
    })
}

fn sql(table: &Table, rows: usize) -> String {
    let list = |columns: &[&str]| columns.iter().map(|c| quoted(c)).collect::<Vec<_>>().join(", ");
    let row = format!("({})", vec!["?"; table.columns.len()].join(", "));
    let values = vec![row; rows].join(", ");
    let (key, others) = table.columns.split_at(table.key.min(table.columns.len()));
    let each =
        |set: fn(&str) -> String| others.iter().map(|c| set(&quoted(c))).collect::<Vec<_>>().join(", ");
    let conflict = match table.write {
        Write::Refuse => String::new(),
        Write::Replace if !others.is_empty() => {
            format!(" ON CONFLICT ({}) DO UPDATE SET {}", list(key), each(|c| format!("{c} = excluded.{c}")))
        }
        Write::Add if !others.is_empty() => {
            let add = each(|c| format!("{c} = coalesce({c}, 0) + excluded.{c}"));
            format!(" ON CONFLICT ({}) DO UPDATE SET {add}", list(key))
        }
        Write::Replace | Write::Add | Write::Ignore => format!(" ON CONFLICT ({}) DO NOTHING", list(key)),
    };
    format!("INSERT INTO {} ({}) VALUES {values}{conflict}", quoted(table.name), list(table.columns))
}

pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(write: Write) -> Table {
        Table { name: "stock", columns: &["shop", "item", "pieces"], key: 2, write }
    }

    #[test]
    fn each_way_of_writing_has_its_statement() {
        let insert = r#"INSERT INTO "stock" ("shop", "item", "pieces") VALUES (?, ?, ?), (?, ?, ?)"#;
        for (write, tail) in [
            (Write::Refuse, ""),
            (Write::Ignore, r#" ON CONFLICT ("shop", "item") DO NOTHING"#),
            (Write::Replace, r#" ON CONFLICT ("shop", "item") DO UPDATE SET "pieces" = excluded."pieces""#),
            (
                Write::Add,
                r#" ON CONFLICT ("shop", "item") DO UPDATE SET "pieces" = coalesce("pieces", 0) + excluded."pieces""#,
            ),
        ] {
            assert_eq!(sql(&table(write), 2), format!("{insert}{tail}"));
        }
    }

    #[test]
    fn statements_stay_within_the_bind_limit() {
        let columns: Vec<&'static str> = vec!["c"; 2000];
        let table = Table { columns: columns.leak(), ..table(Write::Refuse) };
        let upsert = Upsert::new(Target { table, exact: Vec::new() });
        let rows: Vec<_> = upsert.sqls.iter().map(|(rows, _)| *rows).collect();
        assert_eq!(rows, [16, 8, 4, 2, 1]);
    }
}
