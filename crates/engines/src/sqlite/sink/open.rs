//! Checking the tables before the first row comes.

use linchpin_core::bus::check_name;
use linchpin_core::pipe::Table;
use linchpin_core::{Error, Kind};
use rusqlite::{Connection, TransactionBehavior};

use super::ledger::SCHEMA;
use super::upsert::{Upsert, quoted};
use crate::relational::sink::{Exact, Target};
use crate::sqlite::error::Failure;

/// Refuses tables the sink couldn't write to; creates the sink's own.
pub(super) fn tables(conn: &mut Connection, sink: &str, tables: &[Table]) -> Result<Vec<Upsert>, Failure> {
    check_name("sink", sink)?;
    if tables.is_empty() {
        return Err(wrong("the sink has no tables", "name at least one").into());
    }
    let mut targets: Vec<Target> = Vec::new();
    for table in tables {
        if targets.iter().any(|other| other.table.name == table.name) {
            return Err(wrong(format!("table {} is named twice", table.name), "name it once").into());
        }
        targets.push(target(conn, *table)?);
    }
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch(SCHEMA)?;
    tx.commit()?;
    Ok(targets.into_iter().map(Upsert::new).collect())
}

fn wrong(message: impl Into<String>, help: impl Into<String>) -> Error {
    Error::new(Kind::Config, message).help(help)
}

struct Column {
    name: String,
    kind: String,
    required: bool,
    /// Its place in the primary key, from 1; 0 if it is in none.
    primary: i64,
    generated: bool,
}

fn target(conn: &Connection, table: Table) -> Result<Target, Failure> {
    let Table { name, columns: written, key, .. } = table;
    if key == 0 || key > written.len() {
        let error =
            wrong(format!("table {name} has a key of {key} columns"), "use 1 up to the number of columns");
        return Err(error.into());
    }
    let columns = columns(conn, name)?;
    if columns.is_empty() {
        return Err(
            wrong(format!("table {name} doesn't exist"), "create it before the sink is opened").into()
        );
    }
    for (n, column) in written.iter().enumerate() {
        check_column(&columns, name, column)?;
        if written.iter().take(n).any(|other| other.eq_ignore_ascii_case(column)) {
            return Err(wrong(format!("column {name}.{column} is named twice"), "name it once").into());
        }
    }
    check_rest(&columns, name, written)?;
    let keys = written.get(..key).unwrap_or_default();
    let exact = unique_index(conn, name, &columns, keys)?.ok_or_else(|| no_index(name, keys))?;
    Ok(Target { table, exact })
}

fn columns(conn: &Connection, table: &str) -> rusqlite::Result<Vec<Column>> {
    let mut read = conn.prepare("SELECT name, upper(type), \"notnull\" AND dflt_value IS NULL, pk, hidden > 1
         FROM pragma_table_xinfo(?1) WHERE EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE)")?;
    let columns = read.query_map([table], |row| {
        Ok(Column {
            name: row.get(0)?,
            kind: row.get(1)?,
            required: row.get(2)?,
            primary: row.get(3)?,
            generated: row.get(4)?,
        })
    })?;
    columns.collect()
}

fn check_column(columns: &[Column], table: &str, column: &str) -> Result<(), Error> {
    match columns.iter().find(|c| c.name.eq_ignore_ascii_case(column)) {
        Some(found) if found.generated => {
            Err(wrong(format!("column {table}.{column} is generated"), "leave it out of the sink's columns"))
        }
        Some(_) => Ok(()),
        None => {
            let names: Vec<_> = columns.iter().map(|c| c.name.as_str()).collect();
            let message = format!("column {table}.{column} doesn't exist");
            Err(wrong(message, format!("add it, or use one of {}", names.join(", "))))
        }
    }
}

/// Refuses a column that isn't written and can't do without.
fn check_rest(columns: &[Column], table: &str, written: &[&str]) -> Result<(), Error> {
    let is_written = |c: &Column| written.iter().any(|w| c.name.eq_ignore_ascii_case(w));
    // An INTEGER PRIMARY KEY fills itself.
    let missing =
        |c: &&Column| c.required && !c.generated && !is_written(c) && (c.primary == 0 || c.kind != "INTEGER");
    match columns.iter().find(missing) {
        Some(column) => Err(wrong(
            format!(
                "column {table}.{} is NOT NULL without a default, and the sink doesn't write it",
                column.name
            ),
            "add it to the sink's columns, or give it a default",
        )),
        None => Ok(()),
    }
}

fn no_index(table: &str, keys: &[&str]) -> Error {
    let list: Vec<_> = keys.iter().map(|key| quoted(key)).collect();
    let index = quoted(&format!("{table}_{}", keys.join("_")));
    let help = format!("CREATE UNIQUE INDEX {index} ON {} ({})", quoted(table), list.join(", "));
    wrong(format!("table {table} has no unique index over its key ({})", keys.join(", ")), help)
}

/// Finds a unique index over exactly the key, and says which values it tells apart as Rust does.
fn unique_index(
    conn: &Connection,
    table: &str,
    columns: &[Column],
    keys: &[&str],
) -> Result<Option<Vec<Exact>>, Failure> {
    let primary: Vec<_> = columns.iter().filter(|c| c.primary > 0).collect();
    if let ([only], [key]) = (primary.as_slice(), keys)
        && only.kind == "INTEGER"
        && only.name.eq_ignore_ascii_case(key)
    {
        return Ok(Some(vec![Exact::Int]));
    }
    let mut indexes =
        conn.prepare("SELECT name FROM pragma_index_list(?) WHERE \"unique\" AND NOT partial")?;
    let names = indexes.query_map([table], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    let mut parts = conn.prepare("SELECT name, coll FROM pragma_index_xinfo(?) WHERE key")?;
    for index in names {
        let rows = parts.query_map([&index], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let parts = rows.collect::<Result<Vec<(Option<String>, String)>, _>>()?;
        let collation = |key: &str| {
            let part = parts.iter().find(|(c, _)| c.as_deref().is_some_and(|c| c.eq_ignore_ascii_case(key)));
            part.map(|(_, collation)| collation.as_str())
        };
        let found: Option<Vec<_>> =
            keys.iter().map(|key| Some(exact(columns, key, collation(key)?))).collect();
        if let Some(found) = found.filter(|found| found.len() == parts.len()) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// By SQLite's rules of affinity.
fn exact(columns: &[Column], key: &str, collation: &str) -> Exact {
    let kind = columns.iter().find(|c| c.name.eq_ignore_ascii_case(key)).map_or("", |c| c.kind.as_str());
    let has = |part: &str| kind.contains(part);
    if has("INT") {
        Exact::Int
    } else if has("CHAR") || has("CLOB") || has("TEXT") {
        if collation.eq_ignore_ascii_case("BINARY") { Exact::Text } else { Exact::Nothing }
    } else if has("BLOB") || kind.is_empty() {
        Exact::Blob
    } else {
        Exact::Nothing
    }
}
