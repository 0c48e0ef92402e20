//! Reading keys and what changed, all in one snapshot. A lease is judged by the handle's clock, or by the latest time that
//! anybody judged by.

use bytes::Bytes;
use rusqlite::{Connection, Params, Row};

use crate::relational::coord::{KEYS, Look, Range, Seen, Stored};
use crate::sqlite::tx::Step;

const LIVING: &str = "SELECT k.name, k.value, k.created, k.rev, k.lease FROM lp_key k
                      LEFT JOIN lp_lease l ON l.id = k.lease
                      WHERE (k.lease IS NULL OR l.due > max(?1, (SELECT time FROM lp_rev)))
                          AND k.name >= ?2 AND k.name < ?3";

/// As SQLite counts.
fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn all<T>(
    conn: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Step<Vec<T>> {
    Ok(conn.prepare_cached(sql)?.query_map(params, read)?.collect::<Result<_, _>>()?)
}

fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    Ok(Stored {
        key: row.get(0)?,
        value: Bytes::copy_from_slice(row.get_ref(1)?.as_blob()?),
        created: row.get(2)?,
        rev: row.get(3)?,
        lease: row.get(4)?,
    })
}

/// The last revision, and up to which deletions are forgotten.
fn revs(conn: &Connection) -> Step<(u64, u64)> {
    let mut select = conn.prepare_cached("SELECT rev, forgotten FROM lp_rev")?;
    Ok(select.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

pub(super) fn list(conn: &Connection, now: i64, range: &Range, limit: usize) -> Step<(u64, Vec<Stored>)> {
    let (rev, _) = revs(conn)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let sql = format!("{LIVING} ORDER BY k.name LIMIT ?4");
    Ok((rev, all(conn, &sql, (now, &*range.begin, &*range.end, limit), stored)?))
}

pub(super) fn changes(conn: &Connection, now: i64, range: &Range, since: u64) -> Step<Seen> {
    let (rev, forgotten) = revs(conn)?;
    let mut seen = Seen { rev, forgotten, ..Seen::default() };
    // Whoever is this far behind reads everything instead.
    if forgotten <= since && since < rev {
        let since = int(since);
        // The `+` keeps SQLite from reading the whole range for the few that are new.
        let sql =
            LIVING.replace("k.name >=", "+k.name >=").replace("k.name <", "+k.name <") + " AND k.rev > ?4";
        seen.puts = all(conn, &sql, (now, &*range.begin, &*range.end, since), stored)?;
        let sql = "SELECT rev, name FROM lp_gone WHERE rev > ?1 AND name >= ?2 AND name < ?3";
        let gone = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
        seen.gone = all(conn, sql, (since, &*range.begin, &*range.end), gone)?;
    }
    Ok(seen)
}

pub(super) fn look(conn: &Connection, now: i64, since: u64) -> Step<Look> {
    let (rev, forgotten) = revs(conn)?;
    let mut look = Look { rev, forgotten, ..Look::default() };
    if forgotten <= since && since < rev {
        for table in ["lp_key", "lp_gone"] {
            let sql = format!("SELECT name FROM {table} WHERE rev > ?1 LIMIT ?2");
            look.keys.extend(all(conn, &sql, (int(since), KEYS + 1), |row| row.get::<_, Vec<u8>>(0))?);
        }
    }
    let sql = "SELECT min(due) - max(?1, (SELECT time FROM lp_rev)) FROM lp_lease";
    look.next_due = conn.prepare_cached(sql)?.query_row([now], |row| row.get(0))?;
    Ok(look)
}
