//! What a SQL sink decides around its statements: what is new, what a row may be, which rows become one.

use std::borrow::Cow;
use std::cmp::Ordering;

use linchpin_core::pipe::{Item, Row, Table, Value, Write};

/// Where a sink stands in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// The highest fencing token seen.
    pub epoch: u64,
    /// The last offset landed.
    pub last: Option<u64>,
    /// When that message was stored in its topic, in milliseconds since 1970.
    pub time: i64,
}

/// Whether an item may land.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is new.
    Land,
    /// It was here before.
    Repeat,
    /// Its sender no longer owns the partition.
    Fenced,
    /// It was stored later than a message of a higher offset that has landed: it isn't of the same topic any more.
    Anew,
}

impl Mark {
    /// Admits the item at `offset`, stored at `time`, and moves on to it if it is new.
    pub fn admit(&mut self, fence: u64, offset: u64, time: i64) -> Admission {
        let behind = self.last.is_some_and(|last| offset <= last);
        if behind && time > self.time {
            return Admission::Anew;
        }
        if fence < self.epoch {
            return Admission::Fenced;
        }
        self.epoch = fence;
        if behind {
            return Admission::Repeat;
        }
        (self.last, self.time) = (Some(offset), time);
        Admission::Land
    }
}

/// The partition and offset a sink tracks an item by; `None` if it has no fence or no offset, and its message id is
/// the key instead.
pub fn place(item: &Item) -> Option<(u32, u64)> {
    let tracked = item.fence > 0;
    item.position.offset.filter(|_| tracked).map(|offset| (item.position.partition, offset))
}

/// The values of a key column that are equal to the database exactly if they are equal to Rust.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exact {
    /// Whole numbers.
    Int,
    /// Text, by its bytes.
    Text,
    /// Bytes.
    Blob,
    /// None: a collation or a conversion may make different values one.
    Nothing,
}

impl Exact {
    fn covers(self, value: &Value) -> bool {
        matches!(
            (self, value),
            (Self::Int, Value::Int(_)) | (Self::Text, Value::Text(_)) | (Self::Blob, Value::Blob(_))
        )
    }
}

/// A table as a sink writes to it.
#[derive(Debug, Clone)]
pub struct Target {
    /// What the user said about it.
    pub table: Table,
    /// For each key column.
    pub exact: Vec<Exact>,
}

/// Refuses rows that can't be right, whatever the database holds; `Err` is the reason for the dead letter.
pub fn check_rows<'a>(targets: impl Iterator<Item = &'a Target> + Clone, rows: &[Row]) -> Result<(), String> {
    rows.iter().try_for_each(|row| match targets.clone().find(|target| target.table.name == row.table) {
        Some(target) => target.check(&row.values),
        None => Err(format!("a row for table {:?}, which the sink was not opened with", row.table)),
    })
}

impl Target {
    fn check(&self, values: &[Value]) -> Result<(), String> {
        let Table { name, columns, key, write } = self.table;
        if values.len() != columns.len() {
            return Err(format!(
                "a row of {} values for the {} columns of {name}",
                values.len(),
                columns.len()
            ));
        }
        for (n, (column, value)) in columns.iter().zip(values).enumerate() {
            let null = matches!(value, Value::Null);
            if n < key && null && write != Write::Refuse {
                return Err(format!("{name}.{column} is part of the key, and the row has NULL there"));
            }
            let number = matches!(value, Value::Int(_)) || matches!(value, Value::Real(x) if x.is_finite());
            if n >= key && write == Write::Add && !number {
                return Err(format!("{name}.{column} is added to, and the row has no number there"));
            }
        }
        Ok(())
    }

    /// Sorts rows by key and makes one of those that share a key, as the table's [`Write`] says. Rows with keys
    /// that only the database can tell apart stay as they came: it is right, if slower, to write them one after another.
    ///
    /// # Errors
    /// The reason, if a sum is beyond 64 bits.
    pub fn coalesce<'a>(&self, mut rows: Vec<&'a [Value]>) -> Result<Vec<Cow<'a, [Value]>>, String> {
        let exact = |row: &&[Value]| self.exact.iter().zip(*row).all(|(exact, value)| exact.covers(value));
        if !rows.iter().all(exact) {
            return Ok(rows.into_iter().map(Cow::Borrowed).collect());
        }
        // Stable: of one key, the earlier row stays in front.
        rows.sort_by(|a, b| self.by_key(a, b));
        let mut out: Vec<Cow<'a, [Value]>> = Vec::with_capacity(rows.len());
        for row in rows {
            let same = out.last_mut().filter(|last| self.by_key(last, row) == Ordering::Equal);
            match (same, self.table.write) {
                (None, _) | (Some(_), Write::Refuse) => out.push(Cow::Borrowed(row)),
                (Some(last), Write::Replace) => *last = Cow::Borrowed(row),
                (Some(_), Write::Ignore) => {}
                (Some(last), Write::Add) => self.add(last.to_mut(), row)?,
            }
        }
        Ok(out)
    }

    fn by_key(&self, a: &[Value], b: &[Value]) -> Ordering {
        let pairs = a.iter().zip(b).take(self.table.key);
        pairs.map(|(a, b)| compare(a, b)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    }

    fn add(&self, total: &mut [Value], row: &[Value]) -> Result<(), String> {
        let columns = self.table.columns.iter().zip(total).zip(row).skip(self.table.key);
        for ((column, total), value) in columns {
            *total = sum(total, value)
                .ok_or_else(|| format!("the sum for {}.{column} is beyond 64 bits", self.table.name))?;
        }
        Ok(())
    }
}

// Only ever called on values of one exact kind.
fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.cmp(b),
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        (Value::Blob(a), Value::Blob(b)) => a.cmp(b),
        _ => Ordering::Equal,
    }
}

#[expect(clippy::cast_precision_loss, reason = "as SQL adds whole numbers to fractions")]
fn sum(a: &Value, b: &Value) -> Option<Value> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => a.checked_add(*b).map(Value::Int),
        (Value::Real(a), Value::Real(b)) => Some(Value::Real(a + b)),
        (Value::Int(int), Value::Real(real)) | (Value::Real(real), Value::Int(int)) => {
            Some(Value::Real(*int as f64 + real))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(write: Write) -> Target {
        let table = Table { name: "t", columns: &["k", "v"], key: 1, write };
        Target { table, exact: vec![Exact::Int] }
    }

    fn row(key: i64, value: impl Into<Value>) -> Vec<Value> {
        vec![key.into(), value.into()]
    }

    fn coalesced(write: Write, rows: &[Vec<Value>]) -> Result<Vec<Vec<Value>>, String> {
        let rows = target(write).coalesce(rows.iter().map(Vec::as_slice).collect())?;
        Ok(rows.into_iter().map(Cow::into_owned).collect())
    }

    #[test]
    fn marks_fence_skip_and_move_on() {
        let mut mark = Mark::default();
        assert_eq!(mark.admit(3, 0, 10), Admission::Land);
        assert_eq!(mark.admit(3, 0, 10), Admission::Repeat);
        assert_eq!(mark.admit(2, 1, 11), Admission::Fenced);
        assert_eq!(mark.admit(5, 0, 10), Admission::Repeat);
        assert_eq!(mark, Mark { epoch: 5, last: Some(0), time: 10 });
        assert_eq!(mark.admit(3, 9, 12), Admission::Fenced);
        assert_eq!(mark.admit(5, 9, 12), Admission::Land);
    }

    #[test]
    fn a_topic_made_anew_is_told_from_a_repeat_and_from_a_zombie() {
        let mut mark = Mark { epoch: 5, last: Some(9), time: 12 };
        let before = mark;
        assert_eq!(mark.admit(1, 0, 13), Admission::Anew);
        assert_eq!(mark.admit(6, 9, 13), Admission::Anew);
        assert_eq!(mark, before);
    }

    #[test]
    fn rows_of_one_key_become_one() {
        let rows = [row(2, 10), row(1, 20), row(2, 30), row(1, 40)];
        assert_eq!(coalesced(Write::Replace, &rows).unwrap(), [row(1, 40), row(2, 30)]);
        assert_eq!(coalesced(Write::Ignore, &rows).unwrap(), [row(1, 20), row(2, 10)]);
        assert_eq!(coalesced(Write::Add, &rows).unwrap(), [row(1, 60), row(2, 40)]);
        let sorted = [row(1, 20), row(1, 40), row(2, 10), row(2, 30)];
        assert_eq!(coalesced(Write::Refuse, &rows).unwrap(), sorted);
    }

    #[test]
    fn keys_only_the_database_can_tell_apart_stay_as_they_came() {
        let rows = [row(2, 1), vec!["2".into(), 2.into()], row(1, 3)];
        assert_eq!(coalesced(Write::Replace, &rows).unwrap(), rows);
    }

    #[test]
    fn sums_beyond_64_bits_are_refused() {
        let error = coalesced(Write::Add, &[row(1, i64::MAX), row(1, 1)]).unwrap_err();
        assert!(error.contains("t.v"), "{error}");
        assert_eq!(coalesced(Write::Add, &[row(1, 1), row(1, 0.5)]).unwrap(), [row(1, 1.5)]);
    }

    #[test]
    fn rows_that_cannot_be_right_are_refused_by_name() {
        let check = |write, row| check_rows([target(write)].iter(), &[row]).unwrap_err();
        assert!(check(Write::Replace, Row::new("u", [])).contains("\"u\""));
        assert!(check(Write::Replace, Row::new("t", [1.into()])).contains("1 values for the 2 columns of t"));
        assert!(check(Write::Ignore, Row::new("t", [Value::Null, 1.into()])).contains("t.k"));
        assert!(check(Write::Add, Row::new("t", [1.into(), "x".into()])).contains("t.v"));
        assert!(check(Write::Add, Row::new("t", [1.into(), f64::NAN.into()])).contains("t.v"));
        let rows = [Row::new("t", [Value::Null, "x".into()])];
        assert_eq!(check_rows([target(Write::Refuse)].iter(), &rows), Ok(()));
    }
}
