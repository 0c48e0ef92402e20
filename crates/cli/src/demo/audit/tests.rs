use std::path::PathBuf;

use linchpin::Timestamp;
use linchpin::bus::{DEAD_REASON, Message, Position};
use linchpin::engines::sqlite::SqliteSink;
use linchpin::pipe::{Item, Landed, Sink};
use tempfile::TempDir;

use super::*;
use crate::demo::data::{COLUMNS, Entries, Entry};
use crate::demo::{shop, wire};

const ROWS: &str = "\
536365,85123A,WHITE HANGING HEART,6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom
536365,71053,WHITE METAL LANTERN,6,2010-12-01 08:26:00,3.39,17850.0,United Kingdom
536365,71053,WHITE METAL LANTERN,6,2010-12-01 08:26:00,3.39,17850.0,United Kingdom
536366,22633,HAND WARMER,-6,2010-12-01 08:28:00,1.85,17850.0,United Kingdom
536367,22633,HAND WARMER,12,2010-12-01 08:34:00,1.85,,France
C536368,22633,HAND WARMER,-2,2010-12-01 08:40:00,1.85,,France
536365,85123A,WHITE HANGING HEART,1,2010-12-01 08:41:00,2.55,17850.0,United Kingdom
A536369,B,Adjust bad debt,1,2010-12-01 08:50:00,11062.06,,United Kingdom
";

/// A run in which everything went well, to be tampered with.
struct Ran {
    _folder: TempDir,
    source: Source,
    shop: Connection,
    letters: [(Role, Letters); 2],
}

impl Ran {
    async fn well() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (csv, file) = (folder.path().join("in.csv"), folder.path().join("shop.db"));
        std::fs::write(&csv, format!("{}\n{ROWS}", COLUMNS.join(","))).unwrap();
        let source = Source::File(csv);
        shop::create(&file).unwrap();
        let mut conn = shop::connect(&file).unwrap();
        let sink = SqliteSink::open(file.to_str().unwrap(), "tables", &shop::TABLES).await.unwrap();
        let mut letters = Letters::new();
        let mut entries = Entries::new(source.rows().unwrap());
        let mut offset = 0;
        while let Some(entry) = entries.next().unwrap() {
            let message = wire::message(&entry).unwrap();
            match (wire::read(&message), entry) {
                (Ok(order), Entry::Order(_)) => {
                    shop::book(&mut conn, std::iter::once(&order)).unwrap();
                    shop::book(&mut conn, std::iter::once(&order)).unwrap();
                    let item = Item {
                        position: Position::new(0, offset),
                        time: Timestamp::UNIX_EPOCH,
                        fence: 1,
                        message,
                        rows: shop::rows(&order),
                    };
                    assert_eq!(sink.write("orders", &[item]).await.unwrap(), [Landed::Applied]);
                }
                (Err(reason), Entry::Malformed(row)) => {
                    letters.insert(row.id(), (message.payload.to_vec(), reason));
                }
                other => panic!("{other:?}"),
            }
            offset += 1;
        }
        let letters = Role::ALL.map(|role| (role, letters.clone()));
        Self { _folder: folder, source, shop: conn, letters }
    }

    fn audit(&self) -> Findings {
        audit(Expected::read(&self.source).unwrap(), &self.shop, &self.letters).unwrap()
    }

    /// The audit after something was done to the tables behind everybody's back.
    fn after(&self, sql: &str) -> Audit {
        self.shop.execute_batch(sql).unwrap();
        let findings = self.audit();
        assert!(!findings.audit.ok && !findings.wrong.is_empty(), "{sql} went unnoticed");
        findings.audit
    }
}

const GOOD: Audit = Audit {
    orders_in: 4,
    orders_out: 4,
    lines_in: 6,
    lines_out: 6,
    lost: 0,
    duplicated: 0,
    stock_mismatches: 0,
    dead_letters: 2,
    redelivered: 0,
    kills: 0,
    seconds: 0.0,
    ok: true,
};

#[tokio::test]
async fn a_run_that_went_well_is_ok() {
    let ran = Ran::well().await;
    let findings = ran.audit();
    assert_eq!((findings.audit, findings.wrong), (GOOD, Vec::new()));
    assert_eq!((findings.malformed, findings.stock_codes), (2, 3));
}

#[tokio::test]
async fn a_missing_line_is_a_lost_order() {
    let ran = Ran::well().await;
    let found = ran.after("DELETE FROM order_lines WHERE order_id = '536365' AND line = 3");
    assert_eq!(found, Audit { lines_out: 5, lost: 1, ok: false, ..GOOD });
}

#[tokio::test]
async fn a_missing_order_is_lost() {
    let ran = Ran::well().await;
    let found = ran.after("DELETE FROM orders WHERE order_id = '536365/2'");
    assert_eq!(found, Audit { orders_out: 3, lost: 1, ok: false, ..GOOD });
}

#[tokio::test]
async fn a_changed_line_is_both() {
    let ran = Ran::well().await;
    let found = ran.after("UPDATE order_lines SET unit_price = 2.54 WHERE order_id = '536365' AND line = 1");
    assert_eq!(found, Audit { lost: 1, duplicated: 1, ok: false, ..GOOD });
}

#[tokio::test]
async fn a_changed_order_is_lost() {
    let ran = Ran::well().await;
    let found = ran.after("UPDATE orders SET country = 'Spain' WHERE order_id = '536367'");
    assert_eq!(found, Audit { lost: 1, ok: false, ..GOOD });
}

#[tokio::test]
async fn an_order_that_is_there_twice_is_found() {
    let ran = Ran::well().await;
    let found = ran.after(
        "INSERT INTO orders SELECT '536367+', invoice, customer, time, country FROM orders WHERE order_id = '536367'",
    );
    assert_eq!(found, Audit { orders_out: 5, duplicated: 1, ok: false, ..GOOD });
}

#[tokio::test]
async fn a_line_that_is_there_twice_is_found() {
    let ran = Ran::well().await;
    let found = ran.after(
        "INSERT INTO order_lines SELECT order_id, 9, stock_code, description, quantity, unit_price
         FROM order_lines WHERE order_id = '536365' AND line = 2",
    );
    assert_eq!(found, Audit { lines_out: 7, duplicated: 1, ok: false, ..GOOD });
}

#[tokio::test]
async fn totals_that_were_added_twice_are_found() {
    let ran = Ran::well().await;
    let found =
        ran.after("UPDATE customers SET orders = orders + 1, pieces = pieces + 12 WHERE customer = '536367'");
    assert_eq!(found, Audit { duplicated: 1, ok: false, ..GOOD });
    let found = ran.after("UPDATE customers SET orders = orders - 1, pieces = 0 WHERE customer = '17850'");
    assert_eq!(found, Audit { lost: 1, duplicated: 1, ok: false, ..GOOD });
}

#[tokio::test]
async fn an_order_that_was_never_booked_is_lost() {
    let ran = Ran::well().await;
    let found = ran.after("DELETE FROM inbox WHERE order_id = 'C536368'");
    assert_eq!(found, Audit { lost: 1, ok: false, ..GOOD });
    let found = ran.after("INSERT INTO inbox VALUES ('C536368'), ('536399')");
    assert_eq!(found, Audit { duplicated: 1, ok: false, ..GOOD });
}

#[tokio::test]
async fn a_balance_that_is_off_is_found() {
    let ran = Ran::well().await;
    let found = ran.after("UPDATE stock SET balance = balance - 1 WHERE stock_code = '22633'");
    assert_eq!(found, Audit { stock_mismatches: 1, ok: false, ..GOOD });
    let found = ran.after("DELETE FROM stock WHERE stock_code = '71053'; INSERT INTO stock VALUES ('X', 0)");
    assert_eq!(found, Audit { stock_mismatches: 3, ok: false, ..GOOD });
}

#[tokio::test]
async fn dead_letters_that_are_missing_strange_or_altered_are_found() {
    let found = |change: fn(&mut Letters)| async move {
        let mut ran = Ran::well().await;
        change(&mut ran.letters[1].1);
        ran.audit()
    };
    let missing = found(|letters| drop(letters.remove("row-4"))).await;
    assert_eq!(missing.audit, Audit { dead_letters: 1, ok: false, ..GOOD });
    assert_eq!(missing.wrong, ["1 malformed rows aren't dead letters of group tables: row-4"]);
    let strange = found(|letters| drop(letters.insert("row-9".into(), (Vec::new(), "?".into())))).await;
    assert_eq!(strange.audit, Audit { ok: false, ..GOOD });
    let altered = found(|letters| letters.get_mut("row-8").unwrap().1.push('!')).await;
    assert_eq!(altered.audit, Audit { dead_letters: 1, ok: false, ..GOOD });
}

#[tokio::test]
async fn dead_letters_are_read_from_the_bus() {
    let bus = crate::open("memory://").await.unwrap();
    assert_eq!(letters(&bus, "orders", Role::Stock).await.unwrap(), Letters::new());
    bus.ensure("orders.stock.dead", &linchpin::TopicOptions::default()).await.unwrap();
    for n in 0..1500 {
        let letter = Message::new("a,b").id(format!("row-{n}").as_str()).header(DEAD_REASON, "no sale");
        bus.publish("orders.stock.dead", letter).await.unwrap();
    }
    let letters = letters(&bus, "orders", Role::Stock).await.unwrap();
    assert_eq!((letters.len(), &letters["row-7"]), (1500, &(b"a,b".to_vec(), "no sale".to_owned())));
}

#[test]
fn a_file_without_rows_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file: PathBuf = folder.path().join("empty.csv");
    std::fs::write(&file, format!("{}\n", COLUMNS.join(","))).unwrap();
    let error = Expected::read(&Source::File(file)).unwrap_err();
    assert!(error.to_string().contains("has no rows"), "{error}");
}
