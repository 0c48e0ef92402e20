use super::*;

fn rows(text: &str) -> Result<Rows> {
    Rows::new(Box::new(io::Cursor::new(text.as_bytes().to_vec())), "test.csv".into())
}

fn entries(lines: &[&str]) -> Vec<Entry> {
    let text = format!("{}\n{}\n", COLUMNS.join(","), lines.join("\n"));
    let mut entries = Entries::new(rows(&text).unwrap());
    std::iter::from_fn(|| entries.next().unwrap()).collect()
}

const LANTERN: &str = "536365,71053,WHITE METAL LANTERN,6,2010-12-01 08:26:00,3.39,17850.0,United Kingdom";

fn with(field: usize, value: &str) -> String {
    let mut fields: Vec<_> = LANTERN.split(',').collect();
    fields[field] = value;
    fields.join(",")
}

#[test]
fn every_row_of_the_shipped_month_is_an_order_line_or_malformed() {
    let mut entries = Entries::new(Source::Shipped.rows().unwrap());
    let (mut orders, mut lines, mut malformed, mut pieces) = (0, 0, 0, 0);
    while let Some(entry) = entries.next().unwrap() {
        match entry {
            Entry::Order(order) => {
                assert_eq!(order.check(), Ok(()));
                orders += 1;
                lines += order.lines.len();
                pieces += order.lines.iter().map(|line| line.quantity).sum::<i64>();
            }
            Entry::Malformed(_) => malformed += 1,
        }
    }
    // Counted by another program.
    assert_eq!((orders, lines, malformed, pieces), (1_955, 42_411, 70, 346_274));
    assert_eq!(lines + malformed, 42_481);
}

#[test]
fn each_rule_gives_its_reason() {
    for (row, reason) in [
        ("536365,71053,LANTERN,6".to_owned(), "4 fields instead of 8"),
        (with(0, "A563185"), "neither digits nor C"),
        (with(0, ""), "neither digits nor C"),
        (with(1, ""), "no stock code"),
        (with(3, "six"), "\"six\" isn't a whole number"),
        (with(3, "1.5"), "\"1.5\" isn't a whole number"),
        (with(3, "0"), "the quantity is 0"),
        (with(3, "-6"), "negative quantity -6 on a sale"),
        (with(0, "C536365"), "positive quantity 6 on a cancellation"),
        (with(4, "yesterday"), "\"yesterday\" isn't a date"),
        (with(5, "NaN"), "isn't a number"),
        (with(5, "free"), "\"free\" isn't a number"),
        (with(5, "-1"), "negative price -1"),
    ] {
        let entries = entries(&[&row]);
        let [Entry::Malformed(found)] = entries.as_slice() else { panic!("{row}: {entries:?}") };
        assert!(found.reason.contains(reason), "{row}: {}", found.reason);
        assert_eq!(String::from_utf8_lossy(&found.text).trim_end(), row);
    }
    let record = ByteRecord::from(vec![&b"\xff"[..]; 8]);
    assert_eq!(check(&record), Err("it isn't UTF-8".into()));
}

#[test]
fn a_malformed_row_leaves_the_rest_of_its_invoice_alone() {
    let found = entries(&[LANTERN, &with(3, "-1"), &with(1, "B"), &with(0, "536366"), LANTERN]);
    let ids = |entry: &Entry| match entry {
        Entry::Order(order) => format!("{} {}", order.id, order.lines.len()),
        Entry::Malformed(row) => row.id(),
    };
    // An invoice that comes up again is another order.
    assert_eq!(found.iter().map(ids).collect::<Vec<_>>(), ["row-2", "536365 2", "536366 1", "536365/2 1"]);
}

#[test]
fn customers_order_orders() {
    let Entry::Order(order) = entries(&[LANTERN]).remove(0) else { panic!() };
    assert_eq!((order.key(), order.customer.as_deref()), ("17850", Some("17850")));
    let Entry::Order(order) = entries(&[&with(6, "")]).remove(0) else { panic!() };
    assert_eq!((order.key(), &order.customer), ("536365", &None));
}

#[test]
fn wrong_files_are_refused() {
    for (text, what) in [
        ("", "is empty"),
        ("a,b,c\n1,2,3\n", "its first line is \"a,b,c\""),
        ("InvoiceNo,StockCode\n", "isn't Online Retail"),
        ("\u{1}\u{2}\u{3}\n", "isn't Online Retail"),
    ] {
        let error = rows(text).err().unwrap();
        assert!(error.to_string().contains(what), "{error}");
    }
    let error = Source::File("/nowhere/at-all.csv".into()).rows().err().unwrap();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(Source::File("/".into()).rows().err().unwrap().to_string().contains("is a folder"));
}

#[test]
fn a_damaged_xz_file_is_an_error_not_an_end() {
    let cut = SHIPPED.get(..SHIPPED.len() / 2).unwrap();
    let mut rows = Rows::new(Box::new(cut), "cut.csv.xz".into()).unwrap();
    let mut record = ByteRecord::new();
    let end = loop {
        match rows.next(&mut record) {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert!(end.is_err(), "{end:?}");
}
