//! One transaction: what it reads before it is decided, and what it writes after.

use linchpin_core::{Error, Kind};
use rusqlite::Row;

use crate::relational::MonotoneClock;
use crate::relational::coord::{Answer, Ask, Changes, Found, KEYS, LEASES, Lease, Loaded, Needs, Round};
use crate::sqlite::tx::{Step, Tx};

const FOUND: &str = "SELECT k.name, k.created, k.rev, k.lease, l.due FROM lp_key k
                     LEFT JOIN lp_lease l ON l.id = k.lease WHERE";

/// Does what was asked.
pub(super) fn run(tx: &Tx<'_>, clock: &MonotoneClock, ask: &Ask) -> Step<Answer> {
    tx.begin()?;
    let asks = std::slice::from_ref(ask);
    let loaded = load(tx, clock, &Needs::of(asks))?;
    let now = loaded.now;
    let (answers, changes) = Round::new(loaded).run(asks);
    save(tx, now, changes)?;
    let none = || Error::new(Kind::Unexpected, "what was asked wasn't answered");
    Ok(answers.into_iter().next().ok_or_else(none)?)
}

fn load(tx: &Tx<'_>, clock: &MonotoneClock, needs: &Needs<'_>) -> Step<Loaded> {
    let (rev, time) = tx.one("SELECT rev, time FROM lp_rev", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    clock.at_least(time);
    let mut loaded = Loaded { now: clock.now(), rev, ..Loaded::default() };
    if needs.writes {
        let sql = "SELECT id FROM lp_lease WHERE due <= ?1 ORDER BY due LIMIT ?2";
        loaded.over = tx.all(sql, (loaded.now, LEASES), |row| row.get(0))?;
    }
    for id in &needs.leases {
        let sql = "SELECT ttl, due FROM lp_lease WHERE id = ?1";
        let lease = tx.maybe(sql, [id], |row| Ok(Lease { ttl: row.get(0)?, due: row.get(1)? }))?;
        loaded.leases.extend(lease.map(|lease| (*id, lease)));
    }
    for key in &needs.keys {
        loaded.rows.extend(tx.maybe(&format!("{FOUND} k.name = ?1"), [key], found)?);
    }
    let ends = loaded.over.iter().chain(&needs.ends);
    for lease in ends {
        let left = KEYS + 1 - loaded.of_ended;
        let sql = format!("{FOUND} k.lease = ?1 ORDER BY k.name LIMIT ?2");
        let rows = tx.all(&sql, (lease, left), found)?;
        loaded.of_ended += rows.len();
        loaded.rows.extend(rows);
    }
    Ok(loaded)
}

fn found(row: &Row<'_>) -> rusqlite::Result<Found> {
    Ok(Found {
        key: row.get(0)?,
        created: row.get(1)?,
        rev: row.get(2)?,
        lease: row.get(3)?,
        due: row.get(4)?,
    })
}

fn save(tx: &Tx<'_>, now: i64, changes: Changes) -> Step<()> {
    tx.run("UPDATE lp_rev SET time = ?1, rev = coalesce(?2, rev)", (now, changes.rev))?;
    for put in &changes.puts {
        let sql = "INSERT INTO lp_key(name, value, created, rev, lease) VALUES (?1, ?2, ?3, ?4, ?5)
                   ON CONFLICT(name) DO UPDATE SET value = excluded.value, created = excluded.created,
                       rev = excluded.rev, lease = excluded.lease";
        tx.run(sql, (&put.key, &put.value[..], put.created, put.rev, put.lease))?;
    }
    for key in &changes.removed {
        tx.run("DELETE FROM lp_key WHERE name = ?1", [key])?;
    }
    for (rev, key) in &changes.gone {
        tx.run("INSERT INTO lp_gone(rev, name) VALUES (?1, ?2)", (rev, key))?;
    }
    for (id, lease) in &changes.granted {
        tx.run("INSERT INTO lp_lease(id, ttl, due) VALUES (?1, ?2, ?3)", (id, lease.ttl, lease.due))?;
    }
    for (id, due) in &changes.due {
        tx.run("UPDATE lp_lease SET due = ?1 WHERE id = ?2", (due, id))?;
    }
    for id in &changes.ended {
        tx.run("DELETE FROM lp_lease WHERE id = ?1", [id])?;
    }
    if let Some(rev) = changes.forget {
        tx.run("DELETE FROM lp_gone WHERE rev <= ?1", [rev])?;
        tx.run("UPDATE lp_rev SET forgotten = ?1", [rev])?;
    }
    Ok(())
}
