//! `linchpin topic copy` and `move`, killed in the middle.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use linchpin::bus::Bridge;
use linchpin::{Bus, Open};
use serde_json::Value;

use audit::{Audit, MESSAGES, fill, open};

mod audit;
#[cfg(feature = "full")]
mod servers;

fn tool(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linchpin"));
    command.args(args).args(["--batch", "100", "--ack-wait", "2s", "--json"]).current_dir(folder);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    command
}

const KILLS: usize = 8;

fn file(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

/// Kills it each time a part more is there, then lets it end; gives what it said, and the number of repeats.
async fn kill_and_finish(folder: &Path, args: &[&str], mut audit: Audit, kills: usize) -> (Value, usize) {
    for kill in 1..=kills {
        let mut child = tool(folder, args).spawn().unwrap();
        audit.until(MESSAGES * kill / (kills + 1)).await;
        // Left to chance: before the target has the batch, or before the source knows.
        tokio::time::sleep(Duration::from_micros(fastrand::u64(..20_000))).await;
        child.kill().unwrap();
        let Output { status, stdout, .. } = child.wait_with_output().unwrap();
        assert!(status.code().is_none() && stdout.is_empty(), "it ended before it was killed");
    }
    let Output { status, stdout, stderr } = tool(folder, args).output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    (serde_json::from_slice(&stdout).unwrap(), audit.finish().await)
}

/// From one file in a new folder to another.
async fn between_files(args: &[&str]) -> (tempfile::TempDir, Value, usize) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let from = open(&file(&path.join("from.db"))).await;
    fill(&from, "orders").await;
    let to = open(&file(&path.join("to.db"))).await;
    let audit = Audit::start(&to, "copies").await;
    let (result, repeats) = kill_and_finish(path, args, audit, KILLS).await;
    from.close().await.unwrap();
    to.close().await.unwrap();
    (folder, result, repeats)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_killed_goes_on_and_loses_nothing() {
    let args = ["topic", "copy", "sqlite:from.db", "orders", "sqlite:to.db", "copies"];
    let (folder, result, repeats) = between_files(&args).await;
    assert_eq!((&result["complete"], &result["ordered"]), (&true.into(), &true.into()));
    assert!(repeats <= KILLS * 100, "{repeats} repeats");
    let from = open(&file(&folder.path().join("from.db"))).await;
    let source = from.stats(Some("orders")).await.unwrap().remove(0);
    assert_eq!((source.messages, source.groups.len()), (MESSAGES as u64, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_killed_goes_on_and_is_for_good() {
    let args = ["topic", "move", "sqlite:from.db", "orders", "sqlite:to.db", "copies", "--group", "billing"];
    let (folder, result, repeats) = between_files(&args).await;
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
    fill(&open(&file(&path.join("from.db"))).await, "orders").await;
    let to = open(&file(&path.join("to.db"))).await;
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
    let to = open(&file(&folder.path().join("to.db"))).await;
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
