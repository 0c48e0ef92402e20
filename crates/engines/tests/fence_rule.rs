//! The fencing statement on SQLite, and tokens beyond floating point on Redis.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::process::Command;

use linchpin_core::coord::Rev;
use linchpin_core::coord::fence::{self, Marks};
use linchpin_harness::find;

const TABLE: &str =
    "CREATE TABLE stock (id BIGINT PRIMARY KEY, amount BIGINT, fence BIGINT NOT NULL DEFAULT 0)";

/// A holder's writes: token, what it writes, and whether it passes. The holder of 7 was frozen while 12 had the lock.
const WRITES: [(u64, i64, bool); 5] =
    [(7, 1, true), (7, 2, true), (12, 3, true), (7, 4, false), (12, 3, true)];

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn sqlite_refuses_smaller_tokens() {
    let file = rusqlite::Connection::open_in_memory().unwrap();
    file.execute(TABLE, ()).unwrap();
    file.execute("INSERT INTO stock (id, amount) VALUES (1, 0)", ()).unwrap();
    let update = fence::update("stock", &["amount"], "id", Marks::Question).unwrap();
    for (token, amount, passes) in WRITES {
        let token_sql = fence::sql(Rev(token)).unwrap();
        let rows = file.execute(&update, (amount, token_sql, 1, token_sql)).unwrap();
        assert_eq!(fence::check(rows as u64, Rev(token)).is_ok(), passes, "{token} writes {amount}");
    }
    let row: (i64, i64) =
        file.query_row("SELECT amount, fence FROM stock", (), |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(row, (3, 12));
}

#[test]
fn redis_refuses_smaller_tokens() {
    let server = find("redis").unwrap().start().unwrap();
    let port = server.ports()[0].to_string();
    let redis = |words: &[&str]| said(Command::new("redis-cli").args(["-p", &port]).args(words));
    let write = |token: &str, amount: &str| {
        redis(&["EVAL", fence::REDIS, "1", "stock:1", token, "amount", amount, "note", "x"])
    };
    for (token, amount, passes) in WRITES {
        let passed = write(&token.to_string(), &amount.to_string());
        assert_eq!(passed, if passes { "1" } else { "0" }, "{token} writes {amount}");
    }
    assert_eq!(redis(&["HMGET", "stock:1", "amount", "fence", "note"]), "3\n12\nx");
    // Where floating point sees no difference.
    let (small, large) = ("9007199254740992", "9007199254740993");
    assert_eq!(
        (write(large, "5").as_str(), write(small, "6").as_str(), write(large, "7").as_str()),
        ("1", "0", "1")
    );
}
