//! What the engines on relational databases share of ids: the options, and what is said.

use linchpin_core::id::Segment;
use linchpin_core::url::EngineUrl;
use linchpin_core::{Error, Kind, Result, Retry};

/// The keys of [`IdOptions`], beside those of the engine.
pub(crate) const KEYS: &[&str] = &["kind", "biz_type", "table", "step", "begin", "name", "block", CREATE];
/// The one that SQLite's own options have, too.
pub(crate) const CREATE: &str = "create";
/// The most numbers of an auto-increment that are taken at a time.
pub(crate) const MAX_BLOCK: u64 = 1000;
/// How often a row that others change meanwhile is read again.
pub(crate) const TRIES: u32 = 200;
/// How many names an error lists.
pub(crate) const LISTED: usize = 6;

/// What the URL of ids on a relational database says beside the engine's own options.
///
/// | option | default | meaning |
/// |---|---|---|
/// | `kind` | `segment` | `segment`: rows of a table of counters; `auto`: the database's own auto-increment |
/// | `create` | `false` | whether what is missing is made: file or database, table, row |
///
/// `kind=segment`:
///
/// | option | default | meaning |
/// |---|---|---|
/// | `biz_type` | none | the counter: the row of this `biz_type` that isn't soft-deleted |
/// | `table` | `id_generator` | the table |
/// | `step` | `1000` | the step of a row that `create` makes, 1 or more |
/// | `begin` | `after` | `after`: a segment begins after the row's `max_id`, and ends with the new one; `at`: it begins at the row's `max_id`, and ends before the new one. All programs on a table must say the same |
///
/// `kind=auto`:
///
/// | option | default | meaning |
/// |---|---|---|
/// | `name` | none | PostgreSQL: the sequence; MySQL and SQLite: a table with an auto-increment `id` and nothing else that needs a value |
/// | `block` | `100` | how many numbers are taken at a time, 1 to 1,000 |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdOptions {
    /// Whether numbers come from the database's auto-increment.
    pub auto: bool,
    /// The counter that the URL names.
    pub name: Option<String>,
    /// The table of counters.
    pub table: String,
    /// The step of a new row; the block of an auto-increment.
    pub step: u64,
    /// Whether a segment begins at the row's `max_id`.
    pub at: bool,
    /// Whether what is missing is made.
    pub create: bool,
}

impl IdOptions {
    /// Reads the options, and takes them out of the URL.
    ///
    /// # Errors
    /// `Config` for a value out of range, or an option of the other kind.
    pub fn take(url: &mut EngineUrl) -> Result<Self> {
        let options = Self::read(url)?;
        for key in KEYS {
            while url.take(key).is_some() {}
        }
        Ok(options)
    }

    fn read(url: &EngineUrl) -> Result<Self> {
        let mut options = url.options(&[]);
        let wrong = |message: String, help: &str| {
            Err(Error::new(Kind::Config, message).engine("ids").help(help).with("url", url))
        };
        let auto = options.choice("kind", &[("segment", false), ("auto", true)], false)?;
        let (mine, others, all) = match auto {
            true => ("name", ["biz_type", "table", "step", "begin"].as_slice(), "name, block, create"),
            false => ("biz_type", ["name", "block"].as_slice(), "biz_type, table, step, begin, create"),
        };
        if let Some(other) = others.iter().find(|key| options.text(key).is_some()) {
            let kind = if auto { "auto" } else { "segment" };
            return wrong(format!("{other}= isn't an option of kind={kind}"), &format!("it has {all}"));
        }
        let step = if auto { options.number("block", 100)? } else { options.number("step", 1000)? };
        let most = if auto { MAX_BLOCK } else { i64::MAX as u64 };
        if !(1..=most).contains(&step) {
            let key = if auto { "block" } else { "step" };
            return wrong(format!("{key}={step}"), &format!("use 1 to {most}"));
        }
        let name = options.text(mine).map(str::to_owned);
        if name.as_deref() == Some("") {
            return wrong(format!("{mine}= is empty"), "name the counter, or leave the option out");
        }
        Ok(Self {
            auto,
            name,
            table: options.text("table").unwrap_or("id_generator").to_owned(),
            step,
            at: options.choice("begin", &[("after", false), ("at", true)], false)?,
            create: options.flag("create", false)?,
        })
    }
}

/// A row of the table of counters, as it was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CounterRow {
    pub(crate) id: i64,
    pub(crate) max_id: i64,
    pub(crate) step: i64,
    pub(crate) version: i64,
}

impl CounterRow {
    /// The segment that comes next, and the `max_id` behind it.
    pub(crate) fn next(self, name: &str, count: Option<u64>, at: bool) -> Result<(Segment, i64)> {
        let Some(step) = u64::try_from(self.step).ok().filter(|step| *step > 0) else {
            let message = format!("the step of {name:?} is {}", self.step);
            return Err(Error::new(Kind::Config, message).help("set the row's step to 1 or more"));
        };
        let count = count.unwrap_or(step).max(1);
        // The last segment may be a short one.
        let max_id = self.max_id.saturating_add_unsigned(count);
        if self.max_id < 0 || max_id == self.max_id {
            let message = format!("the counter {name:?} is used up: its max_id is {}", self.max_id);
            return Err(Error::new(Kind::Limited, message).help("begin another biz_type"));
        }
        let (first, last) = if at { (self.max_id, max_id - 1) } else { (self.max_id + 1, max_id) };
        Ok((Segment { first, last, step }, max_id))
    }
}

/// There is no such counter.
pub(crate) fn no_counter(name: &str, table: &str, some: &[String]) -> Error {
    let there = match some {
        [] => "there is none yet".to_owned(),
        names if names.len() < LISTED => format!("there are {}", names.join(", ")),
        names => format!("there are {}, and more", names.get(..LISTED - 1).unwrap_or_default().join(", ")),
    };
    Error::new(Kind::NotFound, format!("no row of {table} has the biz_type {name:?}"))
        .help(format!("{there}; create=true makes a missing one"))
}

/// Two rows claim to be the counter.
pub(crate) fn ambiguous(name: &str, table: &str) -> Error {
    Error::new(Kind::Config, format!("several rows of {table} have the biz_type {name:?}"))
        .help("keep the one with the largest max_id, and set deleted_at of the others")
}

/// The table isn't there.
pub(crate) fn no_table(table: &str) -> Error {
    Error::new(Kind::NotFound, format!("there is no table {table}"))
        .help("name another with table=, or let it be made: create=true")
}

/// Others change the row faster than it can be read.
pub(crate) fn contended(name: &str) -> Error {
    Error::new(Kind::Conflict, format!("others keep changing the counter {name:?}"))
        .retry_as(Retry::Safe { after: std::time::Duration::from_millis(100) })
        .help("raise its step, so that it is changed less often")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rest: &str) -> Result<IdOptions> {
        IdOptions::take(&mut format!("sqlite:a.db?{rest}").parse()?)
    }

    #[test]
    fn options_and_mistakes() {
        let options = read("biz_type=orders&create=true&step=5&begin=at").unwrap();
        assert_eq!((options.name.as_deref(), options.step, options.at), (Some("orders"), 5, true));
        assert_eq!(options.table, "id_generator");
        let options = read("kind=auto&name=tickets").unwrap();
        assert!(options.auto && options.step == 100 && !options.create);
        for (rest, part) in [
            ("step=0", "step=0"),
            ("kind=auto&block=1001", "1 to 1000"),
            ("kind=auto&biz_type=x", "biz_type= isn't an option of kind=auto"),
            ("block=5", "block= isn't an option of kind=segment"),
            ("kind=x", "segment, auto"),
            ("biz_type=", "empty"),
        ] {
            let error = read(rest).unwrap_err();
            assert!(error.kind() == Kind::Config && error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn segments_follow_each_other_to_the_end() {
        let row = CounterRow { id: 1, max_id: 100, step: 10, version: 0 };
        let (segment, max_id) = row.next("x", None, false).unwrap();
        assert_eq!((segment.first, segment.last, segment.step, max_id), (101, 110, 10, 110));
        let (segment, max_id) = row.next("x", Some(50), true).unwrap();
        assert_eq!((segment.first, segment.last, max_id), (100, 149, 150));
        let end = CounterRow { max_id: i64::MAX - 3, ..row };
        let (segment, max_id) = end.next("x", None, false).unwrap();
        assert_eq!((segment.first, segment.last, max_id), (i64::MAX - 2, i64::MAX, i64::MAX));
        let over = CounterRow { max_id: i64::MAX, ..row }.next("x", None, false).unwrap_err();
        assert_eq!(over.kind(), Kind::Limited);
        for step in [0, -1] {
            assert_eq!(CounterRow { step, ..row }.next("x", None, false).unwrap_err().kind(), Kind::Config);
        }
    }
}
