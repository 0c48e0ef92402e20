//! Writing what was decided: with the commit, in one request, but for large values, which go before it.

use std::fmt::Display;

use super::round::list;
use crate::relational::coord::{Changes, Put, TOLD};
use crate::sql::conn::Arg;
use crate::sql::dialect::Dialect;
use crate::sql::tx::{Step, Tx};

/// A value up to this size is written out in the statement.
const SMALL: usize = 256;

pub(super) async fn save(tx: &mut Tx, changes: Changes) -> Step<()> {
    let (small, large): (Vec<_>, Vec<_>) = changes.puts.iter().partition(|put| put.value.len() <= SMALL);
    for put in large {
        let sql = upsert(tx.dialect(), "(?, ?, ?, ?, ?)");
        let (name, value) = (Some(put.key.as_slice()), Some(&put.value[..]));
        let args: [Arg<'_>; 5] =
            [name.into(), value.into(), put.created.into(), put.rev.into(), put.lease.into()];
        tx.run(&sql, &args).await?;
    }
    let script = script(tx.dialect(), &changes, &small);
    tx.at_commit(script);
    if changes.rev.is_some() {
        tx.touch(TOLD);
    }
    Ok(())
}

fn upsert(dialect: Dialect, rows: &str) -> String {
    let on_conflict = match dialect {
        Dialect::Postgres => {
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value, created = excluded.created,
                rev = excluded.rev, lease = excluded.lease"
        }
        Dialect::MySql => {
            "ON DUPLICATE KEY UPDATE value = VALUES(value), created = VALUES(created), rev = VALUES(rev),
                lease = VALUES(lease)"
        }
    };
    format!("INSERT INTO lp_key(name, value, created, rev, lease) VALUES {rows} {on_conflict}")
}

/// Everything but large values. What is written out is numbers, and bytes in hexadecimal.
fn script(dialect: Dialect, changes: &Changes, small: &[&Put]) -> String {
    let mut script = String::new();
    let mut add = |any: bool, statement: &dyn Fn() -> String| {
        if any {
            script.push_str(&statement());
            script.push(';');
        }
    };
    add(!small.is_empty(), &|| upsert(dialect, &joined(small.iter().map(|put| row(dialect, put)))));
    add(!changes.removed.is_empty(), &|| {
        let names = joined(changes.removed.iter().map(|key| dialect.bytes(key)));
        format!("DELETE FROM lp_key WHERE name IN ({names})")
    });
    add(!changes.gone.is_empty(), &|| {
        let rows = changes.gone.iter().map(|(rev, key)| format!("({rev}, {})", dialect.bytes(key)));
        format!("INSERT INTO lp_gone(rev, name) VALUES {}", joined(rows))
    });
    add(!changes.granted.is_empty(), &|| {
        let rows = changes.granted.iter().map(|(id, lease)| format!("({id}, {}, {})", lease.ttl, lease.due));
        format!("INSERT INTO lp_lease(id, ttl, due) VALUES {}", joined(rows))
    });
    for (id, due) in &changes.due {
        add(true, &|| format!("UPDATE lp_lease SET due = {due} WHERE id = {id}"));
    }
    add(!changes.ended.is_empty(), &|| {
        format!("DELETE FROM lp_lease WHERE id IN ({})", list(&changes.ended))
    });
    if let Some(rev) = changes.forget {
        add(true, &|| format!("DELETE FROM lp_gone WHERE rev <= {rev}"));
        add(true, &|| format!("UPDATE lp_rev SET forgotten = {rev}"));
    }
    if let Some(rev) = changes.rev {
        add(true, &|| format!("UPDATE lp_rev SET rev = {rev}"));
    }
    script
}

fn row(dialect: Dialect, put: &Put) -> String {
    let (key, value) = (dialect.bytes(&put.key), dialect.bytes(&put.value));
    let lease = put.lease.map_or("NULL".to_owned(), |lease| lease.to_string());
    format!("({key}, {value}, {}, {}, {lease})", put.created, put.rev)
}

fn joined(parts: impl Iterator<Item = impl Display>) -> String {
    parts.map(|part| part.to_string()).collect::<Vec<_>>().join(", ")
}
