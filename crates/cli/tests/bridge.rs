//! `linchpin topic copy` and `move`, killed in the middle.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use linchpin::bus::{Bridge, Delivery, Message, Order, PublishOptions, Settle, SubscribeOptions, Subscriber};
use linchpin::{Bus, Open, TopicOptions};
use serde_json::Value;

const MESSAGES: usize = 20_000;
const KEYS: usize = 64;
const WAIT: Duration = Duration::from_secs(30);

fn message(n: usize) -> Message {
    let key = format!("k-{}", n * 31 % KEYS);
    Message::new(n.to_string()).id(format!("m-{n}").as_str()).key(key).header("n", n.to_string())
}

async fn open(file: &Path) -> Bus {
    Bus::open(&format!("sqlite:{}", file.display())).await.unwrap()
}

async fn fill(bus: &Bus, topic: &str) {
    bus.ensure(topic, &TopicOptions { partitions: 3, ..TopicOptions::default() }).await.unwrap();
    let messages = (0..MESSAGES).map(message).collect();
    let stored = bus.publish_all(topic, messages, &PublishOptions::default()).await;
    assert!(stored.iter().all(Result::is_ok));
}

/// Reads the target while it fills, and keeps what it saw.
struct Audit {
    reader: Subscriber,
    /// Partition and numbers of each key, in the order they were first stored.
    keys: HashMap<Vec<u8>, (u32, Vec<usize>)>,
    ids: HashSet<usize>,
    copies: usize,
}

impl Audit {
    async fn start(to: &Bus, topic: &str) -> Self {
        to.ensure(topic, &TopicOptions { partitions: 5, ..TopicOptions::default() }).await.unwrap();
        let options = SubscribeOptions { order: Order::Partition, ..SubscribeOptions::group("audit") };
        let reader = to.subscribe(topic, &options).await.unwrap();
        Self { reader, keys: HashMap::new(), ids: HashSet::new(), copies: 0 }
    }

    /// Waits until so many different messages are there.
    async fn until(&mut self, ids: usize) {
        while self.ids.len() < ids {
            let batch = self.reader.next(500, WAIT).await.unwrap();
            assert!(!batch.is_empty(), "{} of {ids} are there", self.ids.len());
            self.note(batch).await;
        }
    }

    async fn note(&mut self, mut batch: Vec<Delivery>) {
        batch.sort_by_key(|delivery| delivery.position);
        for delivery in &batch {
            let n: usize = std::str::from_utf8(&delivery.message.payload).unwrap().parse().unwrap();
            assert_eq!(delivery.message, message(n));
            let key = delivery.message.key.as_ref().unwrap().to_vec();
            let (partition, numbers) =
                self.keys.entry(key).or_insert_with(|| (delivery.position.partition, Vec::new()));
            assert_eq!(*partition, delivery.position.partition, "a key in two partitions");
            if self.ids.insert(n) {
                numbers.push(n);
            }
            self.copies += 1;
        }
        let acks = batch.into_iter().map(|delivery| (delivery, Settle::Ack)).collect();
        assert!(self.reader.settle(acks).await.iter().all(Result::is_ok));
    }

    /// Nothing lost, and every key in order; gives the number of repeats.
    async fn finish(mut self) -> usize {
        self.until(MESSAGES).await;
        let rest = self.reader.next(500, Duration::from_millis(200)).await.unwrap();
        self.note(rest).await;
        assert_eq!((self.ids.len(), self.keys.len()), (MESSAGES, KEYS));
        for (key, (_, numbers)) in &self.keys {
            assert!(numbers.is_sorted(), "{} is out of order", String::from_utf8_lossy(key));
        }
        self.copies - MESSAGES
    }
}

fn tool(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linchpin"));
    command.args(args).args(["--batch", "100", "--ack-wait", "2s", "--json"]).current_dir(folder);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    command
}

const KILLS: usize = 8;

/// Kills it each time a ninth more is there, then lets it end.
async fn kill_and_finish(args: &[&str]) -> (tempfile::TempDir, Value, usize) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let from = open(&path.join("from.db")).await;
    fill(&from, "orders").await;
    let to = open(&path.join("to.db")).await;
    let mut audit = Audit::start(&to, "copies").await;
    for kill in 1..=KILLS {
        let mut child = tool(path, args).spawn().unwrap();
        audit.until(MESSAGES * kill / (KILLS + 1)).await;
        // Left to chance: before the target has the batch, or before the source knows.
        tokio::time::sleep(Duration::from_micros(fastrand::u64(..20_000))).await;
        child.kill().unwrap();
        let Output { status, stdout, .. } = child.wait_with_output().unwrap();
        assert!(status.code().is_none() && stdout.is_empty(), "it ended before it was killed");
    }
    let Output { status, stdout, stderr } = tool(path, args).output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let result = serde_json::from_slice(&stdout).unwrap();
    let repeats = audit.finish().await;
    from.close().await.unwrap();
    to.close().await.unwrap();
    (folder, result, repeats)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_killed_goes_on_and_loses_nothing() {
    let args = ["topic", "copy", "sqlite:from.db", "orders", "sqlite:to.db", "copies"];
    let (folder, result, repeats) = kill_and_finish(&args).await;
    assert_eq!((&result["complete"], &result["ordered"]), (&true.into(), &true.into()));
    assert!(repeats <= KILLS * 100, "{repeats} repeats");
    let from = open(&folder.path().join("from.db")).await;
    let source = from.stats(Some("orders")).await.unwrap().remove(0);
    assert_eq!((source.messages, source.groups.len()), (MESSAGES as u64, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_killed_goes_on_and_is_for_good() {
    let args = ["topic", "move", "sqlite:from.db", "orders", "sqlite:to.db", "copies", "--group", "billing"];
    let (folder, result, repeats) = kill_and_finish(&args).await;
    assert_eq!((&result["complete"], &result["group"]), (&true.into(), &"billing".into()));
    assert!(repeats <= KILLS * 100, "{repeats} repeats");
    let Output { stdout, .. } = tool(folder.path(), &args).output().unwrap();
    let again: Value = serde_json::from_slice(&stdout).unwrap();
    assert_eq!((&again["complete"], &again["stored"]), (&true.into(), &0.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polite_end_repeats_nothing_and_says_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fill(&open(&path.join("from.db")).await, "orders").await;
    let to = open(&path.join("to.db")).await;
    let mut audit = Audit::start(&to, "orders").await;
    let args = ["topic", "copy", "sqlite:from.db", "orders", "sqlite:to.db"];
    let child = tool(path, &args).spawn().unwrap();
    audit.until(MESSAGES / 4).await;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let first: Value = serde_json::from_slice(&stdout).unwrap();
    assert_eq!((status.code(), &first["complete"]), (Some(1), &false.into()));
    assert!(String::from_utf8(stderr).unwrap().contains("run the same command again"));
    let Output { status, stdout, .. } = tool(path, &args).output().unwrap();
    let second: Value = serde_json::from_slice(&stdout).unwrap();
    assert!(status.success());
    assert_eq!(first["stored"].as_u64().unwrap() + second["stored"].as_u64().unwrap(), MESSAGES as u64);
    assert_eq!(audit.finish().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn from_memory_to_a_file_in_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let from = Bus::open("memory://").await.unwrap();
    fill(&from, "orders").await;
    let to = open(&folder.path().join("to.db")).await;
    let audit = Audit::start(&to, "orders").await;
    let mut bridging = Bridge::new(&from, "orders", &to, "orders").run().await.unwrap();
    bridging.wait().await.unwrap();
    assert_eq!(audit.finish().await, 0);
}

#[test]
fn wrong_input_names_the_value_and_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let Output { status, stderr, .. } = tool(folder.path(), args).output().unwrap();
        (status.code().unwrap(), String::from_utf8(stderr).unwrap())
    };
    let create = |topic: &str, file: &str| {
        let mut create = Command::new(env!("CARGO_BIN_EXE_linchpin"));
        create.args(["topic", "create", file, topic]).current_dir(folder.path());
        assert!(create.output().unwrap().status.success());
    };
    create("orders", "sqlite:a.db");
    create("orders", "sqlite:b.db");
    let fails = |args: &[&str], code: i32, what: &str, help: &str| {
        let (got, said) = run(args);
        assert!(got == code && said.contains(what) && said.contains(help), "{args:?}: {said}");
    };
    let copy = |more: &[&'static str]| [&["topic", "copy"], more].concat();
    fails(
        &copy(&["sqlite:a.db", "orders", "sqlite:./a.db"]),
        1,
        "both source and target",
        "help: name another",
    );
    fails(&copy(&["sqlite:a.db", "ordres", "sqlite:b.db"]), 1, "\"ordres\" doesn't exist", "help: create it");
    fails(&copy(&["sqlite:c.db", "orders", "sqlite:b.db"]), 1, "there is no file \"c.db\"", "help: ");
    fails(&copy(&["sqlite:a.db", "orders", "nothing:b"]), 1, "unknown scheme", "help: known schemes");
    fails(
        &copy(&["sqlite:a.db", "orders", "sqlite:b.db", "--partitions", "9"]),
        1,
        "has 4 partitions",
        "help: the number",
    );
    fails(&copy(&["sqlite:a.db", "orders"]), 2, "<TO_URL>", "Usage");
}
