//! Reading keys and what changed. Each is one statement, and so one moment of the database: its first row is the counter's.

use bytes::Bytes;

use crate::relational::coord::{KEYS, Look, Range, Seen, Stored};
use crate::sql::conn::{Arg, Row};
use crate::sql::dialect::Dialect;
use crate::sql::tx::{Step, Tx};

/// The counter, in the columns of [`living`].
const REVS: &str = "SELECT NULL AS name, NULL AS value, forgotten, rev, NULL AS lease FROM lp_rev";

fn living(dialect: Dialect) -> String {
    format!(
        "SELECT k.name, k.value, k.created, k.rev, k.lease FROM lp_key k
         LEFT JOIN lp_lease l ON l.id = k.lease
         WHERE (k.lease IS NULL OR l.due > {}) AND k.name >= ? AND k.name < ?",
        dialect.instant()
    )
}

fn bounds(range: &Range) -> [Arg<'_>; 2] {
    [Some(&*range.begin).into(), Some(&*range.end).into()]
}

fn stored(row: &Row) -> Step<Stored> {
    Ok(Stored {
        key: row.bytes(0)?,
        value: Bytes::from(row.bytes(1)?),
        created: row.count(2)?,
        rev: row.count(3)?,
        lease: row.opt_int(4)?,
    })
}

pub(super) async fn list(tx: &mut Tx, range: &Range, limit: usize) -> Step<(u64, Vec<Stored>)> {
    let living = living(tx.dialect());
    let sql = format!("{REVS} UNION ALL SELECT * FROM ({living} ORDER BY k.name LIMIT ?) AS found");
    let [begin, end] = bounds(range);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let (mut rev, mut rows) = (0, Vec::new());
    for row in tx.all(&sql, &[begin, end, limit.into()]).await? {
        match row.blob(0)? {
            None => rev = row.count(3)?,
            Some(_) => rows.push(stored(&row)?),
        }
    }
    Ok((rev, rows))
}

pub(super) async fn changes(tx: &mut Tx, range: &Range, since: u64) -> Step<Seen> {
    let living = living(tx.dialect());
    let sql = format!(
        "{REVS} UNION ALL {living} AND k.rev > ?
         UNION ALL SELECT name, NULL, rev, rev, NULL FROM lp_gone WHERE rev > ? AND name >= ? AND name < ?"
    );
    let ([begin, end], since) = (bounds(range), since.into());
    let mut seen = Seen::default();
    for row in tx.all(&sql, &[begin, end, since, since, begin, end]).await? {
        match (row.blob(0)?, row.blob(1)?) {
            (None, _) => (seen.forgotten, seen.rev) = (row.count(2)?, row.count(3)?),
            (Some(_), Some(_)) => seen.puts.push(stored(&row)?),
            (Some(key), None) => seen.gone.push((row.count(3)?, key.to_vec())),
        }
    }
    Ok(seen)
}

pub(super) async fn look(tx: &mut Tx, since: u64) -> Step<Look> {
    let changed = |table| {
        let limit = KEYS + 1;
        format!(
            "SELECT * FROM (SELECT name, rev, rev AS forgotten, rev AS next_due FROM {table} WHERE rev > ?
                LIMIT {limit}) AS of_{table}"
        )
    };
    let sql = format!(
        "SELECT NULL AS name, rev, forgotten, (SELECT min(due) FROM lp_lease) - {} AS next_due FROM lp_rev
         UNION ALL {} UNION ALL {}",
        tx.dialect().instant(),
        changed("lp_key"),
        changed("lp_gone"),
    );
    let since: Arg<'_> = since.into();
    let mut look = Look::default();
    for row in tx.all(&sql, &[since, since]).await? {
        match row.blob(0)? {
            None => {
                (look.rev, look.forgotten, look.next_due) = (row.count(1)?, row.count(2)?, row.opt_int(3)?);
            }
            Some(key) => look.keys.push(key.to_vec()),
        }
    }
    Ok(look)
}
