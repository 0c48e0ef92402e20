//! One transaction: everything that was asked meanwhile, read in one request and committed in another.

use std::fmt::Write;

use crate::relational::coord::{Answer, Ask, Found, KEYS, LEASES, Lease, Loaded, Needs, Round};
use crate::sql::conn::Row;
use crate::sql::dialect::Dialect;
use crate::sql::tx::{Step, Tx};

const FOUND: &str = "SELECT 'key', k.name, k.created, k.rev, k.lease, l.due FROM lp_key k
                     LEFT JOIN lp_lease l ON l.id = k.lease WHERE";

/// Does what was asked; one answer each.
pub(super) async fn run(tx: &mut Tx, asks: &[Ask]) -> Step<Vec<Answer>> {
    let needs = Needs::of(asks);
    let mut loaded = Loaded::default();
    for row in tx.begin_with(&first(tx.dialect(), &needs)).await? {
        take(&mut loaded, &row)?;
    }
    loaded.now = tx.now();
    let there = needs.ends.iter().filter(|id| loaded.leases.contains_key(id));
    let ends: Vec<i64> = loaded.over.iter().chain(there).copied().collect();
    if !ends.is_empty() {
        let sql = format!("{FOUND} k.lease IN ({}) ORDER BY k.name LIMIT {}", list(&ends), KEYS + 1);
        let rows = tx.script(sql).await?;
        loaded.of_ended = rows.len();
        rows.iter().try_for_each(|row| take(&mut loaded, row))?;
    }
    let (answers, changes) = Round::new(loaded).run(asks);
    super::save::save(tx, changes).await?;
    Ok(answers)
}

/// What reads all that the round needs. Who may change keys holds the counter from here on, so that what is read after it
/// stays as it is; of the leases that are over, those that are being renewed at this moment are left alone. Who renews
/// holds the lease.
fn first(dialect: Dialect, needs: &Needs<'_>) -> String {
    let mut sql = String::new();
    let mut add = |statement: std::fmt::Arguments<'_>| {
        // Writing to a string can't fail.
        let _written = sql.write_fmt(statement);
    };
    let hold = if needs.writes { "" } else { "FOR UPDATE" };
    if needs.writes {
        add(format_args!("SELECT 'rev', rev FROM lp_rev FOR UPDATE;"));
        add(format_args!(
            "SELECT 'over', id FROM lp_lease WHERE due <= {} ORDER BY due LIMIT {LEASES} FOR UPDATE SKIP LOCKED;",
            dialect.instant(),
        ));
    }
    if !needs.leases.is_empty() {
        let leases = list(&needs.leases.iter().copied().collect::<Vec<_>>());
        add(format_args!(
            "SELECT 'lease', id, ttl, due FROM lp_lease WHERE id IN ({leases}) ORDER BY id {hold};"
        ));
    }
    if !needs.keys.is_empty() {
        let keys: Vec<_> = needs.keys.iter().map(|key| dialect.bytes(key)).collect();
        add(format_args!("{FOUND} k.name IN ({});", keys.join(", ")));
    }
    sql
}

pub(super) fn list(values: &[i64]) -> String {
    values.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")
}

fn take(loaded: &mut Loaded, row: &Row) -> Step<()> {
    match row.text(0)?.as_str() {
        "rev" => loaded.rev = row.count(1)?,
        "over" => loaded.over.push(row.int(1)?),
        "lease" => {
            loaded.leases.insert(row.int(1)?, Lease { ttl: row.int(2)?, due: row.int(3)? });
        }
        _ => loaded.rows.push(Found {
            key: row.bytes(1)?,
            created: row.count(2)?,
            rev: row.count(3)?,
            lease: row.opt_int(4)?,
            due: row.opt_int(5)?,
        }),
    }
    Ok(())
}
