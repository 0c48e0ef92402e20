//! The database's own auto-increment: a sequence on PostgreSQL, a table's on MySQL.

use linchpin_core::id::Segment;
use linchpin_core::{Error, Kind};

use super::counters::{begin_in_schema, is_there};
use super::dialect::Dialect;
use super::tx::{Step, Tx};
use crate::relational::ids::{MAX_BLOCK, no_table};

/// Sees to it that the sequence or table is there.
pub(super) async fn prepare(tx: &mut Tx, schema: &str, name: &str, create: bool) -> Step<()> {
    if is_there(tx, name).await? {
        return Ok(());
    }
    let quoted = tx.dialect().quoted(name);
    match (create, tx.dialect()) {
        (true, Dialect::Postgres) => {
            begin_in_schema(tx, schema).await?;
            tx.script(format!("CREATE SEQUENCE IF NOT EXISTS {quoted} AS bigint")).await.map(drop)
        }
        (true, Dialect::MySql) => {
            let columns = "id bigint AUTO_INCREMENT PRIMARY KEY";
            tx.script(format!("CREATE TABLE IF NOT EXISTS {quoted}({columns}) ENGINE = InnoDB"))
                .await
                .map(drop)
        }
        (false, Dialect::MySql) => Err(no_table(name).into()),
        (false, Dialect::Postgres) => {
            let error = Error::new(Kind::NotFound, format!("there is no sequence {name}"));
            Err(error.help("name another with name=, or let it be made: create=true").into())
        }
    }
}

/// Up to `count` numbers, in a transaction that has begun.
pub(super) async fn take(tx: &mut Tx, name: &str, count: u64, step: u64) -> Step<Segment> {
    let count = count.clamp(1, MAX_BLOCK);
    let quoted = tx.dialect().quoted(name);
    let (first, last) = match tx.dialect() {
        Dialect::Postgres => sequence(tx, &quoted, count).await?,
        Dialect::MySql => increment(tx, &quoted, count).await?,
    };
    Ok(Segment { first, last, step })
}

/// What others take meanwhile lies between: the numbers behind a gap are left to nobody.
async fn sequence(tx: &mut Tx, quoted: &str, count: u64) -> Step<(i64, i64)> {
    let sql = "SELECT nextval(CAST(CAST(? AS text) AS regclass)) FROM generate_series(1, ?)";
    let rows = tx.all(sql, &[quoted.into(), count.into()]).await?;
    let first = rows.first().ok_or(sqlx::Error::RowNotFound)?.int(0)?;
    let mut last = first;
    for row in rows.get(1..).unwrap_or_default() {
        match row.int(0)? {
            next if Some(next) == last.checked_add(1) => last = next,
            _ => break,
        }
    }
    Ok((first, last))
}

/// Rows of one insert are numbered without a gap, unless the server leaves gaps for others of its cluster.
async fn increment(tx: &mut Tx, quoted: &str, count: u64) -> Step<(i64, i64)> {
    let gaps = tx.one("SELECT CAST(@@auto_increment_increment AS SIGNED)", &[]).await?.int(0)?;
    let count = if gaps == 1 { count } else { 1 };
    let rows = vec!["()"; usize::try_from(count).unwrap_or(1)].join(", ");
    let first = tx.insert(&format!("INSERT INTO {quoted}() VALUES {rows}"), &[]).await?;
    let last = first.saturating_add_unsigned(count - 1);
    // The counter has moved on with the commit; the rows have done their work.
    tx.run(&format!("DELETE FROM {quoted} WHERE id BETWEEN ? AND ?"), &[first.into(), last.into()]).await?;
    Ok((first, last))
}
