//! The application's database: what the two groups write, and how.
//!
//! `tables` workers land orders through a pipe: `orders` and `order_lines`, which refuse a row that is there already, and
//! `customers`, which adds up, so that an order landed twice couldn't hide. `stock` workers keep `stock` themselves:
//! in one transaction an order is entered in `inbox` and its quantities are booked; an order that is in the
//! inbox already books nothing.

use std::path::Path;
use std::time::Duration;

use linchpin::pipe::{Row, Table, Write};
use linchpin::{Error, Kind, Result};
use rusqlite::{Connection, TransactionBehavior};

use super::data::Order;

const SCHEMA: &str = "
PRAGMA journal_mode = WAL;
BEGIN;
CREATE TABLE orders (
    order_id TEXT PRIMARY KEY, invoice TEXT NOT NULL, customer TEXT, time TEXT NOT NULL, country TEXT NOT NULL
) STRICT;
CREATE TABLE order_lines (
    order_id TEXT, line INTEGER, stock_code TEXT NOT NULL, description TEXT NOT NULL, quantity INTEGER NOT NULL,
    unit_price REAL NOT NULL, PRIMARY KEY (order_id, line)
) STRICT, WITHOUT ROWID;
CREATE TABLE customers (
    customer TEXT PRIMARY KEY, orders INTEGER NOT NULL, lines INTEGER NOT NULL, pieces INTEGER NOT NULL
) STRICT;
CREATE TABLE inbox (order_id TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE stock (stock_code TEXT PRIMARY KEY, balance INTEGER NOT NULL) STRICT, WITHOUT ROWID;
COMMIT;
";

/// What the pipe writes.
pub(super) const TABLES: [Table; 3] = [
    Table {
        name: "orders",
        columns: &["order_id", "invoice", "customer", "time", "country"],
        key: 1,
        write: Write::Refuse,
    },
    Table {
        name: "order_lines",
        columns: &["order_id", "line", "stock_code", "description", "quantity", "unit_price"],
        key: 2,
        write: Write::Refuse,
    },
    Table {
        name: "customers",
        columns: &["customer", "orders", "lines", "pieces"],
        key: 1,
        write: Write::Add,
    },
];

/// Creates the tables in a new file.
pub(super) fn create(path: &Path) -> Result<()> {
    connect(path)?.execute_batch(SCHEMA).map_err(failed)
}

/// Opens the file, as one of several processes that write to it.
pub(super) fn connect(path: &Path) -> Result<Connection> {
    let conn = Connection::open(path).map_err(failed)?;
    conn.busy_timeout(Duration::from_secs(10)).map_err(failed)?;
    conn.execute_batch("PRAGMA synchronous = FULL").map_err(failed)?;
    Ok(conn)
}

/// What an order means in rows of [`TABLES`].
pub(super) fn rows(order: &Order) -> Vec<Row> {
    let mut rows = Vec::with_capacity(order.lines.len() + 2);
    let id = || order.id.as_str().into();
    let (invoice, customer) = (order.invoice.as_str().into(), order.customer.clone().into());
    let (time, country) = (order.time.as_str().into(), order.country.as_str().into());
    rows.push(Row::new("orders", [id(), invoice, customer, time, country]));
    let mut pieces = 0;
    for (n, line) in (1_i64..).zip(&order.lines) {
        let (code, description) = (line.stock_code.as_str().into(), line.description.as_str().into());
        let (quantity, price) = (line.quantity.into(), line.unit_price.into());
        rows.push(Row::new("order_lines", [id(), n.into(), code, description, quantity, price]));
        pieces += line.quantity;
    }
    let lines = i64::try_from(order.lines.len()).unwrap_or(i64::MAX);
    rows.push(Row::new("customers", [order.key().into(), 1.into(), lines.into(), pieces.into()]));
    rows
}

/// Books orders, each once: what is sold leaves the stock, what is cancelled comes back. One transaction.
pub(super) fn book<'a>(
    conn: &mut Connection,
    orders: impl Iterator<Item = &'a Order>,
) -> rusqlite::Result<()> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let mut enter = tx.prepare_cached("INSERT INTO inbox VALUES (?1) ON CONFLICT DO NOTHING")?;
        let mut book = tx.prepare_cached(
            "INSERT INTO stock VALUES (?1, -?2) ON CONFLICT DO UPDATE SET balance = balance + excluded.balance",
        )?;
        for order in orders {
            if enter.execute([&order.id])? == 0 {
                continue;
            }
            for line in &order.lines {
                book.execute((&line.stock_code, line.quantity))?;
            }
        }
    }
    tx.commit()
}

/// How many orders each group has done.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Done {
    pub(super) stock: u64,
    pub(super) tables: u64,
}

/// Counts them in the tables.
pub(super) fn done(conn: &Connection) -> Result<Done> {
    let count = |sql| conn.query_row(sql, [], |row| row.get::<_, u64>(0)).map_err(failed);
    Ok(Done { stock: count("SELECT count(*) FROM inbox")?, tables: count("SELECT count(*) FROM orders")? })
}

/// What SQLite says about the application's database.
pub(super) fn failed(error: rusqlite::Error) -> Error {
    Error::new(Kind::Unexpected, "the demo's database shop.db").source(error)
}
