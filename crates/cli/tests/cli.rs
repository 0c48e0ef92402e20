//! The real binary, as a person or a script uses it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A folder with a database in it, and what a command said.
struct Tool {
    folder: TempDir,
}

struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Tool {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// A tool whose database has a topic.
    fn with_topic(topic: &str) -> Self {
        let tool = Self::new();
        tool.ok(&["topic", "create", "sqlite:a.db", topic, "--partitions", "2"]);
        tool
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn run(&self, args: &[&str], input: &str) -> Said {
        let mut child = Command::new(env!("CARGO_BIN_EXE_linchpin"))
            .args(args)
            .current_dir(self.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Commands that read nothing end before this does.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Said { code: status.code().unwrap(), out: text(stdout), err: text(stderr) }
    }

    /// Runs what must succeed, and returns its standard output.
    fn ok(&self, args: &[&str]) -> String {
        self.ok_with(args, "")
    }

    fn ok_with(&self, args: &[&str], input: &str) -> String {
        let Said { code, out, err } = self.run(args, input);
        assert_eq!(code, 0, "{args:?}: {err}");
        out
    }

    /// Runs what must fail with this code, saying this.
    fn fails(&self, args: &[&str], input: &str, code: i32, what: &str) {
        let said = self.run(args, input);
        assert_eq!(said.code, code, "{args:?}: {}", said.err);
        assert!(said.err.contains(what), "{args:?}: {}", said.err);
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn what_is_sent_is_printed_and_what_is_printed_can_be_sent() {
    let tool = Tool::with_topic("orders");
    let sent = tool.ok_with(
        &["topic", "send", "sqlite:a.db", "orders", "--json", "--header", "country=GB"],
        "{\"id\":\"o-1\",\"key\":\"c-7\",\"payload\":\"2 lanterns\",\"headers\":{\"a\":\"1\"}}\n\n{\"payload_base64\":\"/w==\"}\n",
    );
    let sent: Value = serde_json::from_str(&sent).unwrap();
    assert_eq!((&sent["stored"], &sent["failed_line"]), (&Value::from(2), &Value::Null));
    let printed = tool.ok(&["topic", "tail", "sqlite:a.db", "orders"]);
    let mut messages = lines(&printed);
    messages.sort_by_key(|message| message["id"] != "o-1");
    assert_eq!(messages[0]["payload"], "2 lanterns");
    assert_eq!(messages[0]["key"], "c-7");
    assert_eq!(messages[0]["headers"], serde_json::json!({ "a": "1", "country": "GB" }));
    assert_eq!(messages[1]["payload_base64"], "/w==");
    tool.ok(&["topic", "create", "sqlite:b.db", "copy"]);
    tool.ok_with(&["topic", "send", "sqlite:b.db", "copy"], &printed);
    let mut copied = lines(&tool.ok(&["topic", "tail", "sqlite:b.db", "copy"]));
    copied.sort_by_key(|message| message["id"] != "o-1");
    for (one, other) in messages.iter().zip(&copied) {
        for field in ["id", "key", "headers", "payload", "payload_base64"] {
            assert_eq!(one[field], other[field], "{field}");
        }
    }
}

#[test]
fn a_group_consumes_and_a_look_does_not() {
    let tool = Tool::with_topic("orders");
    tool.ok_with(&["topic", "send", "sqlite:a.db", "orders", "--lines"], "1\n2\n3\n");
    for _ in 0..2 {
        assert_eq!(lines(&tool.ok(&["topic", "tail", "sqlite:a.db", "orders"])).len(), 3);
    }
    let tail = ["topic", "tail", "sqlite:a.db", "orders", "--group", "billing"];
    assert_eq!(lines(&tool.ok(&[&tail[..], &["-n", "2"]].concat())).len(), 2);
    let stat = tool.json(&["topic", "stat", "sqlite:a.db", "orders", "--json"]);
    assert_eq!((&stat["messages"], &stat["groups"][0]["lag"]), (&Value::from(3), &Value::from(1)));
    assert_eq!(lines(&tool.ok(&tail)).len(), 1);
    assert_eq!(lines(&tool.ok(&tail)).len(), 0);
    let place = lines(&tool.ok(&["topic", "tail", "sqlite:a.db", "orders", "--from", "0/1"]));
    assert!(place.iter().all(|m| m["partition"] == 0 && m["offset"].as_u64() >= Some(1)), "{place:?}");
    assert_eq!(tool.ok(&["topic", "tail", "sqlite:a.db", "orders", "--from", "newest"]), "");
}

#[test]
fn dead_letters_go_back_to_their_group() {
    let tool = Tool::new();
    std::fs::write(tool.path().join("in.csv"), format!("{HEADER}\n{}", rows(0))).unwrap();
    tool.ok(&["demo", "--data", "in.csv", "--keep", "run", "--kills", "0", "--rate", "0"]);
    let dead = lines(&tool.ok(&["topic", "tail", "sqlite:run/bus.db", "orders.stock.dead"]));
    assert_eq!(dead.len(), 10);
    assert_eq!(dead[0]["headers"]["lp-dead-reason"], "negative quantity -3 on a sale");
    let redrive = ["topic", "redrive", "sqlite:run/bus.db", "orders", "--json", "--group", "stock"];
    let redriven = |limit: &[&str]| tool.json(&[&redrive[..], limit].concat())["redriven"].clone();
    assert_eq!((redriven(&["--limit", "4"]), redriven(&[]), redriven(&[])), (4.into(), 6.into(), 0.into()));
    let stat = tool.json(&["topic", "stat", "sqlite:run/bus.db", "orders", "--json"]);
    let of = |group: &str| {
        stat["groups"].as_array().unwrap().iter().find(|g| g["group"] == group).unwrap().clone()
    };
    assert_eq!((&of("stock")["lag"], &of("stock")["dead_letters"]), (&Value::from(10), &Value::from(0)));
    assert_eq!(of("tables")["dead_letters"], 10);
    tool.fails(
        &["topic", "redrive", "sqlite:run/bus.db", "orders", "--group", "nobody"],
        "",
        1,
        "no dead letters",
    );
}

#[test]
fn removing_asks_or_wants_to_be_told() {
    let tool = Tool::with_topic("orders");
    tool.fails(&["topic", "rm", "sqlite:a.db", "orders"], "", 2, "needs --yes");
    tool.ok(&["topic", "tail", "sqlite:a.db", "orders", "--group", "billing"]);
    tool.ok(&["topic", "rm", "sqlite:a.db", "orders", "--group", "billing", "--yes"]);
    tool.fails(&["topic", "rm", "sqlite:a.db", "orders", "--group", "billing", "--yes"], "", 1, "billing");
    tool.ok(&["topic", "rm", "sqlite:a.db", "orders", "-y"]);
    assert_eq!(tool.ok(&["topic", "ls", "sqlite:a.db"]), "");
}

#[test]
fn a_line_that_cannot_be_sent_ends_the_run_and_is_named() {
    let tool = Tool::with_topic("orders");
    let send = ["topic", "send", "sqlite:a.db", "orders"];
    let input = "{\"payload\":\"1\"}\n{\"payload\":\"2\"}\nthree\n{\"payload\":\"4\"}\n";
    tool.fails(&send, input, 1, "line 3: it isn't a JSON object");
    tool.fails(&send, "{\"payload\":\"5\",\"kee\":\"k\"}", 1, "line 1: unknown field `kee`");
    let large = "x".repeat(2 << 20);
    tool.fails(
        &[&send[..], &["--lines"]].concat(),
        &format!("6\n{large}\n7\n"),
        1,
        "line 2: the message has 20971",
    );
    let payloads = lines(&tool.ok(&["topic", "tail", "sqlite:a.db", "orders"]));
    let mut payloads: Vec<_> = payloads.iter().map(|m| m["payload"].as_str().unwrap()).collect();
    payloads.sort_unstable();
    assert_eq!(payloads, ["1", "2", "6"]);
}

#[test]
fn wrong_input_names_the_value_and_the_remedy() {
    let tool = Tool::with_topic("orders");
    let send = |url, topic| ["topic", "send", url, topic, "payload"];
    tool.fails(&send("pigeon://h", "orders"), "", 1, "unknown scheme \"pigeon\"\n help: known schemes are ");
    tool.fails(&send("sqlite:a.db?snyc=off", "orders"), "", 1, "unknown option \"snyc\"");
    tool.fails(&send("sqlite:a.db", "ordres"), "", 1, "\"ordres\" doesn't exist");
    tool.fails(&send("sqlite:missing.db", "orders"), "", 1, "there is no file \"missing.db\"");
    assert!(!tool.path().join("missing.db").exists());
    tool.fails(
        &["topic", "send", "sqlite:a.db", "orders", "x", "--partition", "2"],
        "",
        1,
        "partition 2 doesn't exist",
    );
    tool.fails(
        &["topic", "tail", "sqlite:a.db", "orders", "--from", "soon"],
        "",
        2,
        "expected oldest, newest",
    );
    tool.fails(&["topic", "create", "sqlite:a.db", "orders", "--partitions", "3"], "", 1, "has 2 partitions");
    tool.fails(&["topic", "create", "sqlite:a.db", "a b"], "", 1, "isn't allowed");
    tool.fails(&["topic"], "", 2, "Usage: linchpin topic");
}

#[test]
fn creating_again_changes_only_what_is_named() {
    let tool = Tool::with_topic("orders");
    let create = |more: &[&str]| {
        let args = ["topic", "create", "sqlite:a.db", "orders", "--json"];
        tool.json(&[&args[..], more].concat())
    };
    create(&["--retention", "none", "--max-messages", "10"]);
    let options = create(&["--max-size", "64KiB"])["options"].clone();
    assert_eq!(
        options,
        serde_json::json!({
            "partitions": 2, "retention_seconds": null, "max_messages": 10, "max_size_bytes": 65536
        })
    );
    assert_eq!(create(&["--max-messages", "0"])["options"]["max_messages"], Value::Null);
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let tool = Tool::with_topic("orders");
    let numbers: String = (0..50_000).map(|n| format!("{n}\n")).collect();
    tool.ok_with(&["topic", "send", "sqlite:a.db", "orders", "--lines"], &numbers);
    let mut tail = Command::new(env!("CARGO_BIN_EXE_linchpin"))
        .args(["topic", "tail", "sqlite:a.db", "orders", "--follow"])
        .current_dir(tool.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(tail.stdout.take());
    let Output { status, stderr, .. } = tail.wait_with_output().unwrap();
    assert_eq!((status.code(), String::from_utf8(stderr).unwrap()), (Some(0), String::new()));
}

#[test]
fn the_doctor_finds_a_healthy_file_healthy() {
    let tool = Tool::with_topic("orders");
    let report = tool.json(&["doctor", "sqlite:a.db", "--json"]);
    assert_eq!((&report[0]["ok"], &report[0]["engine"]), (&Value::from(true), &Value::from("sqlite")));
    assert!(tool.ok(&["doctor", "sqlite:a.db"]).contains("✓ integrity"));
    let said = tool.run(&["doctor", "sqlite:missing.db"], "");
    assert!(said.code == 1 && said.out.contains("✗ open"), "{}", said.out);
    assert_eq!(lines(&tool.ok(&["topic", "ls", "sqlite:a.db", "--json"]))[0].as_array().unwrap().len(), 1);
}

const HEADER: &str = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country";

/// Ten malformed rows among `orders` orders of three lines each.
fn rows(orders: u32) -> String {
    let line = |invoice: u32, code: u32, quantity: i32| {
        format!("{invoice},{code},LANTERN,{quantity},2010-12-01 08:26:00,2.55,{}.0,France\n", invoice % 17)
    };
    let order =
        |n: u32| (0..3).map(|code| line(500_000 + n, 100 + code, 1 + (n % 5) as i32)).collect::<String>();
    let malformed = |n: u32| line(400_000 + n, 99, -3);
    let all = (0..orders).map(order).chain((0..10).map(malformed));
    all.collect()
}

#[test]
fn the_demo_survives_its_kills_and_says_so() {
    let tool = Tool::new();
    std::fs::write(tool.path().join("in.csv"), format!("{HEADER}\n{}", rows(300))).unwrap();
    let audit = tool.json(&["demo", "--data", "in.csv", "--kills", "2", "--rate", "200", "--json"]);
    let mut audit = audit.as_object().unwrap().clone();
    assert!(audit.remove("seconds").unwrap().as_f64() > Some(1.0));
    assert!(audit.remove("redelivered").unwrap().is_u64());
    assert_eq!(
        Value::from(audit),
        serde_json::json!({
            "orders_in": 300, "orders_out": 300, "lines_in": 900, "lines_out": 900, "lost": 0, "duplicated": 0,
            "stock_mismatches": 0, "dead_letters": 10, "kills": 2, "ok": true
        })
    );
    tool.fails(&["demo", "--data", "missing.csv"], "", 1, "can't open missing.csv");
    tool.fails(&["demo", "--data", "."], "", 1, ". is a folder");
    tool.fails(&["demo", "--bus", "memory://"], "", 1, "lives in one");
}
