//! The audit: the tables and the dead letters, against the input file. No counter of the run has a say in it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use csv::ByteRecord;
use linchpin::bus::{Bus, DEAD_REASON, Delivery, SubscribeOptions, dead_topic};
use linchpin::{Error, Kind, Result};
use rusqlite::Connection;
use serde::Serialize;

use super::data::{Malformed, Source, check, order_id};
use super::shop::failed;
use super::worker::Role;

/// The outcome, as `--json` prints it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub(super) struct Audit {
    /// Orders in the file.
    pub(super) orders_in: u64,
    /// Orders in the tables.
    pub(super) orders_out: u64,
    /// Order lines in the file.
    pub(super) lines_in: u64,
    /// Order lines in the tables.
    pub(super) lines_out: u64,
    /// Orders that a group didn't apply, or not wholly; one that both groups missed counts twice.
    pub(super) lost: u64,
    /// Orders that a group applied more than once, or that aren't in the file.
    pub(super) duplicated: u64,
    /// Stock codes whose balance isn't what the file says.
    pub(super) stock_mismatches: u64,
    /// Malformed rows of the file that are dead letters of every group, with the row and the reason.
    pub(super) dead_letters: u64,
    /// Deliveries with an attempt above one.
    pub(super) redelivered: u64,
    /// Workers killed.
    pub(super) kills: u32,
    /// From the first message to the last settled one.
    pub(super) seconds: f64,
    /// Whether everything is as it should be.
    pub(super) ok: bool,
}

/// What can't be told in numbers.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) audit: Audit,
    /// Malformed rows in the file.
    pub(super) malformed: u64,
    /// Stock codes in the file.
    pub(super) stock_codes: u64,
    /// Everything that is wrong, in words.
    pub(super) wrong: Vec<String>,
}

/// A line of an order; the price by its bits, so that lines can be sorted.
type Line = (String, String, i64, u64);
/// Invoice, customer, time, country.
type Head = (String, Option<String>, String, String);
/// Payload and reason.
type Letter = (Vec<u8>, String);

/// Dead letters of a group, by message id.
pub(super) type Letters = BTreeMap<String, Letter>;

/// What the file says must come out.
#[derive(Debug, Default)]
pub(super) struct Expected {
    orders: HashMap<String, (Head, Vec<Line>)>,
    /// By customer, or invoice where there is none: orders, lines, pieces.
    customers: HashMap<String, [i64; 3]>,
    stock: BTreeMap<String, i64>,
    malformed: Letters,
    lines: u64,
}

impl Expected {
    /// Reads the file row by row, by the rules of [`check`] but without the feeder's grouping.
    ///
    /// # Errors
    /// Those of reading it; `Invalid` if it has no rows.
    pub(super) fn read(source: &Source) -> Result<Self> {
        let mut rows = source.rows()?;
        let (mut expected, mut record, mut seen) = (Self::default(), ByteRecord::new(), HashMap::new());
        let (mut last, mut id) = (String::new(), String::new());
        while let Some(row) = rows.next(&mut record)? {
            let sale = match check(&record) {
                Ok(sale) => sale,
                Err(reason) => {
                    let malformed = Malformed::new(row, &record, reason);
                    expected.malformed.insert(malformed.id(), (malformed.text, malformed.reason));
                    continue;
                }
            };
            let first = sale.invoice != last;
            if first {
                id = order_id(&mut seen, &sale.invoice);
                last.clone_from(&sale.invoice);
            }
            let key = sale.customer.clone().unwrap_or_else(|| sale.invoice.clone());
            let line = sale.line;
            let [orders, lines, pieces] = expected.customers.entry(key).or_default();
            *orders += i64::from(first);
            *lines += 1;
            *pieces += line.quantity;
            *expected.stock.entry(line.stock_code.clone()).or_default() -= line.quantity;
            let head = (sale.invoice, sale.customer, sale.time, sale.country);
            let order = expected.orders.entry(id.clone()).or_insert_with(|| (head, Vec::new()));
            order.1.push((line.stock_code, line.description, line.quantity, line.unit_price.to_bits()));
            expected.lines += 1;
        }
        if expected.orders.is_empty() && expected.malformed.is_empty() {
            return Err(Error::new(Kind::Invalid, format!("{} has no rows", source.name())));
        }
        Ok(expected)
    }

    /// How many messages the feeder will send: an order each, a malformed row each.
    pub(super) fn messages(&self) -> u64 {
        (self.orders.len() + self.malformed.len()) as u64
    }

    pub(super) fn orders(&self) -> u64 {
        self.orders.len() as u64
    }

    pub(super) fn malformed(&self) -> u64 {
        self.malformed.len() as u64
    }
}

/// Holds the tables and the groups' dead letters against what the file says.
///
/// # Errors
/// What reading the tables says.
pub(super) fn audit(
    mut expected: Expected,
    shop: &Connection,
    letters: &[(Role, Letters)],
) -> Result<Findings> {
    expected.orders.values_mut().for_each(|(_, lines)| lines.sort_unstable());
    let mut findings = Findings {
        malformed: expected.malformed(),
        stock_codes: expected.stock.len() as u64,
        ..Findings::default()
    };
    findings.audit.orders_in = expected.orders();
    findings.audit.lines_in = expected.lines;
    findings.orders(&expected, shop).map_err(failed)?;
    findings.inbox(&expected, shop).map_err(failed)?;
    findings.stock(&expected, shop).map_err(failed)?;
    findings.letters(&expected, letters);
    findings.audit.ok = findings.wrong.is_empty();
    Ok(findings)
}

impl Findings {
    /// `orders`, `order_lines` and `customers`: what the pipe landed.
    fn orders(&mut self, expected: &Expected, shop: &Connection) -> rusqlite::Result<()> {
        let (mut lost, mut twice) = (BTreeSet::new(), BTreeSet::new());
        let heads = heads(shop)?;
        let mut lines = lines(shop)?;
        self.audit.orders_out = heads.len() as u64;
        self.audit.lines_out = lines.values().map(|lines| lines.len() as u64).sum();
        for (id, (head, want)) in &expected.orders {
            let mut have = lines.remove(id).unwrap_or_default();
            have.sort_unstable();
            if heads.get(id) != Some(head) || !within(want, &have) {
                lost.insert(id.clone());
            }
            if !within(&have, want) {
                twice.insert(id.clone());
            }
        }
        twice.extend(
            heads.into_keys().chain(lines.into_keys()).filter(|id| !expected.orders.contains_key(id)),
        );
        let (fewer, more) = self.customers(expected, shop)?;
        self.note("orders are missing or incomplete in the tables", &lost);
        self.note("orders are in the tables more than once, or aren't in the file", &twice);
        self.audit.lost += fewer.max(lost.len() as u64);
        self.audit.duplicated += more.max(twice.len() as u64);
        Ok(())
    }

    /// How many orders too few and too many the customers' totals hold: what was added up can't hide a repeat.
    fn customers(&mut self, expected: &Expected, shop: &Connection) -> rusqlite::Result<(u64, u64)> {
        let mut sql = shop.prepare("SELECT customer, orders, lines, pieces FROM customers")?;
        let rows = sql.query_map([], |r| Ok((r.get(0)?, [r.get(1)?, r.get(2)?, r.get(3)?])))?;
        let have: HashMap<String, [i64; 3]> = rows.collect::<Result<_, _>>()?;
        let (mut fewer, mut more, mut wrong) = (0, 0, BTreeSet::new());
        let keys: BTreeSet<_> = have.keys().chain(expected.customers.keys()).collect();
        for key in keys {
            let of = |totals: &HashMap<String, [i64; 3]>| totals.get(key).copied().unwrap_or_default();
            let (want, have) = (of(&expected.customers), of(&have));
            if want == have {
                continue;
            }
            wrong.insert(key.clone());
            // Totals that differ in lines or pieces alone are an order that came in part, or in part again.
            match want.cmp(&have) {
                std::cmp::Ordering::Greater => fewer += want[0].abs_diff(have[0]).max(1),
                _ => more += want[0].abs_diff(have[0]).max(1),
            }
        }
        self.note("customers have other totals than in the file", &wrong);
        Ok((fewer, more))
    }

    /// `inbox`: the orders the stock workers booked.
    fn inbox(&mut self, expected: &Expected, shop: &Connection) -> rusqlite::Result<()> {
        let mut sql = shop.prepare("SELECT order_id FROM inbox")?;
        let have: BTreeSet<String> = sql.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let lost = expected.orders.keys().filter(|id| !have.contains(*id)).cloned().collect();
        let strange = have.into_iter().filter(|id| !expected.orders.contains_key(id)).collect();
        self.note("orders were never booked in stock", &lost);
        self.note("orders were booked in stock that aren't in the file", &strange);
        self.audit.lost += lost.len() as u64;
        self.audit.duplicated += strange.len() as u64;
        Ok(())
    }

    /// `stock`: the balances.
    fn stock(&mut self, expected: &Expected, shop: &Connection) -> rusqlite::Result<()> {
        let mut sql = shop.prepare("SELECT stock_code, balance FROM stock")?;
        let rows = sql.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let have: BTreeMap<String, i64> = rows.collect::<Result<_, _>>()?;
        let codes: BTreeSet<_> = have.keys().chain(expected.stock.keys()).collect();
        let off =
            codes.into_iter().filter(|code| have.get(*code) != expected.stock.get(*code)).cloned().collect();
        self.note("stock codes have another balance than in the file", &off);
        self.audit.stock_mismatches = off.len() as u64;
        Ok(())
    }

    /// The dead letters of each group: the malformed rows, neither more nor fewer, each with its row and reason.
    fn letters(&mut self, expected: &Expected, groups: &[(Role, Letters)]) {
        let kept =
            |(id, letter): &(&String, &Letter)| groups.iter().all(|(_, have)| have.get(*id) == Some(letter));
        self.audit.dead_letters = expected.malformed.iter().filter(kept).count() as u64;
        for (role, have) in groups {
            let wrong = |a: &Letters, b: &Letters| {
                a.iter().filter(|(id, l)| b.get(*id) != Some(l)).map(|(id, _)| id.clone()).collect()
            };
            let (missing, strange) = (wrong(&expected.malformed, have), wrong(have, &expected.malformed));
            self.note(&format!("malformed rows aren't dead letters of group {}", role.group()), &missing);
            self.note(&format!("dead letters of group {} are no malformed rows", role.group()), &strange);
        }
    }

    fn note(&mut self, what: &str, which: &BTreeSet<String>) {
        if !which.is_empty() {
            let some: Vec<_> = which.iter().take(3).map(String::as_str).collect();
            let more = if which.len() > some.len() { ", …" } else { "" };
            self.wrong.push(format!("{} {what}: {}{more}", which.len(), some.join(", ")));
        }
    }
}

/// Whether every line of `part` is in `whole`, as often. Both are sorted.
fn within(part: &[Line], whole: &[Line]) -> bool {
    let mut rest = whole.iter();
    part.iter().all(|line| rest.by_ref().any(|other| other == line))
}

fn heads(shop: &Connection) -> rusqlite::Result<HashMap<String, Head>> {
    let mut sql = shop.prepare("SELECT order_id, invoice, customer, time, country FROM orders")?;
    let rows = sql.query_map([], |r| Ok((r.get(0)?, (r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?))))?;
    rows.collect()
}

fn lines(shop: &Connection) -> rusqlite::Result<HashMap<String, Vec<Line>>> {
    let mut sql =
        shop.prepare("SELECT order_id, stock_code, description, quantity, unit_price FROM order_lines")?;
    let mut rows = sql.query([])?;
    let mut lines: HashMap<String, Vec<Line>> = HashMap::new();
    while let Some(row) = rows.next()? {
        let line = (row.get(1)?, row.get(2)?, row.get(3)?, row.get::<_, f64>(4)?.to_bits());
        lines.entry(row.get(0)?).or_default().push(line);
    }
    Ok(lines)
}

/// The dead letters of a group of `topic`, read from its dead-letter topic.
///
/// # Errors
/// What the engine says.
pub(super) async fn letters(bus: &Bus, topic: &str, role: Role) -> Result<Letters> {
    let dead = dead_topic(topic, role.group());
    let mut left = match bus.stats(Some(&dead)).await {
        Err(e) if e.kind() == Kind::NotFound => return Ok(Letters::new()),
        stats => stats?.first().map_or(0, |stats| stats.messages),
    };
    // Some engines keep nothing for who comes later, but for the first group. It hands everything back.
    let all = usize::try_from(left).unwrap_or(usize::MAX).max(1);
    let options = SubscribeOptions { max_in_flight: all, ..SubscribeOptions::group("audit") };
    let subscriber = bus.subscribe(&dead, &options).await?;
    let mut letters = Letters::new();
    while left > 0 {
        let batch = subscriber.next(1000, Duration::from_secs(5)).await?;
        if batch.is_empty() {
            break;
        }
        left = left.saturating_sub(batch.len() as u64);
        for Delivery { message, .. } in &batch {
            let reason = message.headers.text(DEAD_REASON).unwrap_or_default().to_owned();
            letters.insert(message.id.to_string(), (message.payload.to_vec(), reason));
        }
    }
    subscriber.close(Duration::from_secs(5)).await?;
    Ok(letters)
}

#[cfg(test)]
mod tests;
