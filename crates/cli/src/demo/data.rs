//! The input: rows of Online Retail, what makes one a sale, and how rows become orders.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use csv::ByteRecord;
use linchpin::{Error, Kind, Result};
use lzma_rust2::XzReader;
use serde::{Deserialize, Serialize};

/// The columns, in their order.
pub(super) const COLUMNS: [&str; 8] = [
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
];

/// December 2010, every row of it; see `data/ATTRIBUTION.md`.
const SHIPPED: &[u8] = include_bytes!("../../data/online-retail-2010-12.csv.xz");
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];

/// Where rows come from. It can be read more than once.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Shipped,
    File(PathBuf),
}

impl Source {
    pub(super) fn name(&self) -> String {
        match self {
            Self::Shipped => "Online Retail, December 2010".into(),
            Self::File(path) => path.display().to_string(),
        }
    }

    /// The rows, read as they are asked for.
    ///
    /// # Errors
    /// `NotFound` without the file, `Invalid` if its first line isn't the header.
    pub(super) fn rows(&self) -> Result<Rows> {
        match self {
            Self::Shipped => Rows::new(Box::new(SHIPPED), self.name()),
            Self::File(path) => Rows::new(Box::new(BufReader::new(open(path)?)), self.name()),
        }
    }
}

fn open(path: &Path) -> Result<File> {
    let shown = path.display();
    let file = File::open(path).map_err(|e| {
        let kind = if e.kind() == io::ErrorKind::NotFound { Kind::NotFound } else { Kind::Invalid };
        Error::new(kind, format!("can't open {shown}")).source(e)
    })?;
    if file.metadata().is_ok_and(|meta| meta.is_dir()) {
        return Err(Error::new(Kind::Invalid, format!("{shown} is a folder")).help(HELP));
    }
    Ok(file)
}

const HELP: &str = "give the CSV of Online Retail, plain or in xz, with the header \
    InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country";

/// Rows of a file, numbered from 1.
pub(super) struct Rows {
    csv: csv::Reader<Box<dyn Read + Send>>,
    name: String,
    number: u64,
}

impl Rows {
    fn new(mut input: Box<dyn BufRead + Send>, name: String) -> Result<Self> {
        let unreadable = |e| Error::new(Kind::Invalid, format!("can't read {name}")).source(e);
        let packed = input.fill_buf().map_err(unreadable)?.starts_with(XZ);
        let plain: Box<dyn Read + Send> =
            if packed { Box::new(XzReader::new(input, true)) } else { Box::new(input) };
        let mut csv = csv::ReaderBuilder::new().flexible(true).from_reader(plain);
        let header = csv.byte_headers().map_err(|e| broken(&name, e))?;
        if header.is_empty() {
            return Err(Error::new(Kind::Invalid, format!("{name} is empty")).help(HELP));
        }
        let first = header.iter().map(String::from_utf8_lossy).collect::<Vec<_>>().join(",");
        if first.trim_start_matches('\u{feff}') != COLUMNS.join(",") {
            let begins: String =
                first.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect();
            let message = format!("{name} isn't Online Retail: its first line is {begins:?}");
            return Err(Error::new(Kind::Invalid, message).help(HELP));
        }
        Ok(Self { csv, name, number: 0 })
    }

    /// Reads the next row into `record` and says its number, or that there is none.
    ///
    /// # Errors
    /// `Invalid` if the file can't be read on: damaged, cut short.
    pub(super) fn next(&mut self, record: &mut ByteRecord) -> Result<Option<u64>> {
        let more = self.csv.read_byte_record(record).map_err(|e| broken(&self.name, e))?;
        self.number += u64::from(more);
        Ok(more.then_some(self.number))
    }
}

fn broken(name: &str, error: csv::Error) -> Error {
    Error::new(Kind::Invalid, format!("can't read {name}")).source(error)
}

/// One row that is a sale, or the cancellation of one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sale {
    pub(super) invoice: String,
    pub(super) customer: Option<String>,
    pub(super) time: String,
    pub(super) country: String,
    pub(super) line: Line,
}

/// One line of an order. Of a cancellation the quantity is negative: it gives stock back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) stock_code: String,
    pub(super) description: String,
    pub(super) quantity: i64,
    pub(super) unit_price: f64,
}

/// What a row means, or why it is malformed. These are all the rules:
///
/// 1. it has eight fields, in UTF-8;
/// 2. the invoice is digits, or C and digits for a cancellation;
/// 3. there is a stock code;
/// 4. the quantity is a whole number, positive on a sale, negative on a cancellation;
/// 5. the price is a number, and not negative;
/// 6. the date is one, as in `2010-12-01 08:26:00`.
///
/// Description, customer and country may be missing, and a line may be free of charge.
pub(super) fn check(record: &ByteRecord) -> Result<Sale, String> {
    let fields: Vec<&str> = record
        .iter()
        .map(std::str::from_utf8)
        .collect::<Result<_, _>>()
        .map_err(|_| "it isn't UTF-8".to_owned())?;
    let [invoice, stock_code, description, quantity, time, price, customer, country] = fields.as_slice()
    else {
        return Err(format!("{} fields instead of {}", fields.len(), COLUMNS.len()));
    };
    let quantity = quantity.parse().map_err(|_| format!("the quantity {quantity:?} isn't a whole number"))?;
    let unit_price = price.parse().map_err(|_| format!("the price {price:?} isn't a number"))?;
    let line = Line {
        stock_code: (*stock_code).to_owned(),
        description: (*description).to_owned(),
        quantity,
        unit_price,
    };
    line.check(invoice)?;
    if time.parse::<jiff::civil::DateTime>().is_err() {
        return Err(format!("the invoice date {time:?} isn't a date and time"));
    }
    // The source went through a program that made the numbers fractions: 17850.0.
    let customer = customer.strip_suffix(".0").unwrap_or(customer);
    Ok(Sale {
        invoice: (*invoice).to_owned(),
        customer: (!customer.is_empty()).then(|| customer.to_owned()),
        time: (*time).to_owned(),
        country: (*country).to_owned(),
        line,
    })
}

impl Line {
    /// The rules that hold for a line of this invoice.
    fn check(&self, invoice: &str) -> Result<(), String> {
        let digits = invoice.strip_prefix('C').unwrap_or(invoice);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("the invoice {invoice:?} is neither digits nor C and digits"));
        }
        if self.stock_code.is_empty() {
            return Err("it has no stock code".into());
        }
        match (invoice.starts_with('C'), self.quantity) {
            (_, 0) => Err("the quantity is 0".into()),
            (false, ..0) => Err(format!("negative quantity {} on a sale", self.quantity)),
            (true, 1..) => Err(format!("positive quantity {} on a cancellation", self.quantity)),
            _ if !self.unit_price.is_finite() => Err(format!("the price {} isn't a number", self.unit_price)),
            _ if self.unit_price < 0.0 => Err(format!("negative price {}", self.unit_price)),
            _ => Ok(()),
        }
    }
}

/// A run of rows of one invoice. Should the invoice come up again later in the file, that is another order: its id is
/// `<invoice>/2`, and so on. Customer, time and country are those of its first row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) id: String,
    pub(super) invoice: String,
    pub(super) customer: Option<String>,
    pub(super) time: String,
    pub(super) country: String,
    pub(super) lines: Vec<Line>,
}

impl Order {
    /// What orders it among others: its customer, or its invoice if there is none.
    pub(super) fn key(&self) -> &str {
        self.customer.as_deref().unwrap_or(&self.invoice)
    }

    /// Whether every line obeys the rules of [`check`].
    pub(super) fn check(&self) -> Result<(), String> {
        if self.lines.is_empty() {
            return Err("the order has no lines".into());
        }
        self.lines.iter().try_for_each(|line| line.check(&self.invoice))
    }
}

/// A row that is no sale, as it stood in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Malformed {
    pub(super) row: u64,
    pub(super) text: Vec<u8>,
    pub(super) reason: String,
    /// The invoice it names, if it can be read.
    pub(super) invoice: String,
}

impl Malformed {
    pub(super) fn new(row: u64, record: &ByteRecord, reason: String) -> Self {
        let mut writer = csv::Writer::from_writer(Vec::new());
        // Neither can fail: writing to memory, fields of any number the first time.
        let _ = writer.write_byte_record(record);
        let text = writer.into_inner().unwrap_or_default();
        let invoice = String::from_utf8_lossy(record.get(0).unwrap_or_default()).into_owned();
        Self { row, text, reason, invoice }
    }

    /// The id of the message that carries it.
    pub(super) fn id(&self) -> String {
        format!("row-{}", self.row)
    }
}

/// What the feeder publishes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Entry {
    Order(Order),
    Malformed(Malformed),
}

/// The orders of a file, one after another, and its malformed rows as they are met.
pub(super) struct Entries {
    rows: Rows,
    record: ByteRecord,
    open: Option<Order>,
    /// How many orders each invoice has had.
    seen: HashMap<String, u32>,
}

impl Entries {
    pub(super) fn new(rows: Rows) -> Self {
        Self { rows, record: ByteRecord::new(), open: None, seen: HashMap::new() }
    }

    /// The next one; none at the end.
    ///
    /// # Errors
    /// Those of [`Rows::next`].
    pub(super) fn next(&mut self) -> Result<Option<Entry>> {
        while let Some(row) = self.rows.next(&mut self.record)? {
            let sale = match check(&self.record) {
                Ok(sale) => sale,
                Err(reason) => {
                    return Ok(Some(Entry::Malformed(Malformed::new(row, &self.record, reason))));
                }
            };
            match &mut self.open {
                Some(order) if order.invoice == sale.invoice => order.lines.push(sale.line),
                _ => {
                    let next = self.begin(sale);
                    if let Some(done) = self.open.replace(next) {
                        return Ok(Some(Entry::Order(done)));
                    }
                }
            }
        }
        Ok(self.open.take().map(Entry::Order))
    }

    fn begin(&mut self, sale: Sale) -> Order {
        let Sale { invoice, customer, time, country, line } = sale;
        let id = order_id(&mut self.seen, &invoice);
        Order { id, invoice, customer, time, country, lines: vec![line] }
    }
}

/// The id of the next order of an invoice.
pub(super) fn order_id(seen: &mut HashMap<String, u32>, invoice: &str) -> String {
    let nth = seen.entry(invoice.to_owned()).or_insert(0);
    *nth += 1;
    if *nth == 1 { invoice.to_owned() } else { format!("{invoice}/{nth}") }
}

#[cfg(test)]
mod tests;
