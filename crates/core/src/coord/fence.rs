//! Keeping out whoever was frozen past its lease: the place that is written to refuses smaller tokens.
//!
//! No lock on a lease can stop a holder that was paused after it last looked at the clock: it wakes up, writes, and only then finds
//! out that another holds the lock. The engine gave the other a larger token. So what is protected keeps the largest token it
//! has seen, and a write with a smaller one changes nothing. The check must be part of the write itself:
//!
//! ```sql
//! UPDATE stock SET amount = ?, fence = ? WHERE id = ? AND fence <= ?
//! ```
//!
//! `fence` is a column `BIGINT NOT NULL DEFAULT 0` beside what it protects; the token is bound twice. No row changed: the writer was
//! fenced out, or the row isn't there. The same token may write again and again. On MySQL count the rows *found*
//! (`CLIENT_FOUND_ROWS`, which sqlx sets): those *changed* leave out a row that had these values already.
//!
//! Tokens compare only between holders of one lock on one engine. On an engine whose [`Caps::failover`](super::Caps::failover) is
//! false a failover may hand out tokens again.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Rev;
use crate::{Error, Kind, Result};

/// Writes fields of a Redis hash under a token, for `EVAL`: `KEYS[1]` is the hash, `ARGV[1]` the token, and then fields and values. The
/// answer is 1, or 0 if a larger token was there, and nothing was changed.
///
/// The token is in the field `fence` of the same hash, so the script works on a cluster. Tokens compare as decimal numbers of any
/// length, not as Lua's floating point.
pub const REDIS: &str = "\
local seen = redis.call('HGET', KEYS[1], 'fence')
local token = ARGV[1]
if seen and (#seen > #token or (#seen == #token and seen > token)) then return 0 end
redis.call('HSET', KEYS[1], 'fence', token, unpack(ARGV, 2))
return 1
";

/// How a database marks the place of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marks {
    /// `?`: MySQL, MariaDB, SQLite.
    Question,
    /// `$1`, `$2`, …: PostgreSQL.
    Dollar,
}

/// The statement that sets `columns` of one row of `table`, unless its column `fence` holds a larger token. Bind, in this
/// order: the values of the columns, the token, the value of `id`, the token again.
///
/// ```
/// use linchpin_core::coord::fence::{Marks, update};
///
/// assert_eq!(
///     update("stock", &["amount"], "id", Marks::Question)?,
///     "UPDATE stock SET amount = ?, fence = ? WHERE id = ? AND fence <= ?"
/// );
/// # Ok::<(), linchpin_core::Error>(())
/// ```
///
/// # Errors
/// `Invalid` for a name that isn't letters, digits and `_`, of a table also `.`: names can't be bound, and aren't quoted here.
pub fn update(table: &str, columns: &[&str], id: &str, marks: Marks) -> Result<String> {
    table.split('.').chain(columns.iter().copied()).chain([id]).try_for_each(plain)?;
    let mut place = 0;
    let mut mark = || {
        place += 1;
        match marks {
            Marks::Question => "?".to_owned(),
            Marks::Dollar => format!("${place}"),
        }
    };
    let set: Vec<_> =
        columns.iter().chain(&["fence"]).map(|column| format!("{column} = {}", mark())).collect();
    Ok(format!("UPDATE {table} SET {} WHERE {id} = {} AND fence <= {}", set.join(", "), mark(), mark()))
}

fn plain(name: &str) -> Result<()> {
    let fits = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if fits && name.starts_with(|c: char| !c.is_ascii_digit()) {
        return Ok(());
    }
    Err(Error::new(Kind::Invalid, format!("{name:?} is no plain SQL name"))
        .help("write the statement by hand: … AND fence <= ?"))
}

/// The token as SQL takes it.
///
/// # Errors
/// `Invalid` beyond 2⁶³ − 1, which no engine reaches.
pub fn sql(token: Rev) -> Result<i64> {
    let large = |error| Error::new(Kind::Invalid, format!("the token {token} fits no BIGINT")).source(error);
    i64::try_from(token.0).map_err(large)
}

/// What the number of rows that a fenced write found says.
///
/// # Errors
/// `Fenced` for none.
pub fn check(rows: u64, token: Rev) -> Result<()> {
    if rows > 0 { Ok(()) } else { Err(fenced(token)) }
}

fn fenced(token: Rev) -> Error {
    Error::new(Kind::Fenced, format!("a write under the token {token} was refused"))
        .help("a later holder wrote before, or the row isn't there: stop, and acquire the lock again")
}

/// The rule for what lives in this process: a file, a device, a connection.
#[derive(Debug, Default)]
pub struct Fence(AtomicU64);

impl Fence {
    /// Lets a token pass that isn't smaller than any before. What it lets pass must be done before another asks: hold a
    /// mutex over both.
    ///
    /// # Errors
    /// `Fenced` for a smaller one.
    pub fn admit(&self, token: Rev) -> Result<()> {
        let largest = self.0.fetch_max(token.0, Ordering::SeqCst);
        if largest <= token.0 { Ok(()) } else { Err(fenced(token)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_portable_and_names_plain() {
        assert_eq!(
            update("shop.stock", &["amount", "note"], "sku", Marks::Dollar).unwrap(),
            "UPDATE shop.stock SET amount = $1, note = $2, fence = $3 WHERE sku = $4 AND fence <= $5"
        );
        for bad in ["", "a b", "a;", "1a", "a\"", "a."] {
            let error = update(bad, &["x"], "id", Marks::Question).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{bad:?}");
            assert!(update("t", &[bad], "id", Marks::Question).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_smaller_token_is_refused_and_the_same_passes_again() {
        let fence = Fence::default();
        fence.admit(Rev(7)).unwrap();
        fence.admit(Rev(7)).unwrap();
        assert_eq!(fence.admit(Rev(6)).unwrap_err().kind(), Kind::Fenced);
        fence.admit(Rev(8)).unwrap();
        assert_eq!(check(0, Rev(1)).unwrap_err().kind(), Kind::Fenced);
        check(1, Rev(1)).unwrap();
        assert_eq!(sql(Rev(9)).unwrap(), 9);
        assert!(sql(Rev(u64::MAX)).is_err());
    }
}
