//! Keys, locks and elections from the command line: the real binary, killed and interrupted.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn start(folder: &Path, args: &[&str]) -> Child {
    let mut tool = Command::new(env!("CARGO_BIN_EXE_linchpin"));
    tool.args(args).current_dir(folder).stdin(Stdio::null());
    tool.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Exit code, standard output and standard error.
fn run(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = start(folder, args).wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn ok(folder: &Path, args: &[&str]) -> String {
    let (code, out, err) = run(folder, args);
    assert_eq!(code, 0, "{args:?}: {err}");
    out
}

fn fails(folder: &Path, args: &[&str], code: i32, what: &str) {
    let (is, _, err) = run(folder, args);
    assert_eq!(is, code, "{args:?}: {err}");
    assert!(err.contains(what), "{args:?}: {err}");
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

/// The first line it prints.
fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    line
}

#[test]
fn keys_are_written_read_and_watched() {
    let folder = tempfile::tempdir().unwrap();
    let (at, db) = (folder.path(), "sqlite:a.db");
    let first = ok(at, &["kv", "put", db, "shop/limits", "10", "--if-absent"]);
    let second = ok(at, &["kv", "put", db, "shop/limits", "20", "--if-rev", first.trim()]);
    assert!(second.trim().parse::<u64>().unwrap() > first.trim().parse().unwrap());
    assert_eq!(ok(at, &["kv", "get", db, "shop/limits"]), "20");
    fails(at, &["kv", "put", db, "shop/limits", "30", "--if-rev", first.trim()], 1, "revision");
    fails(at, &["kv", "put", db, "shop/limits", "30", "--if-absent"], 1, "is there");
    fails(at, &["kv", "get", db, "shop/nothing"], 1, "there is no key \"shop/nothing\"");
    fails(at, &["kv", "get", "sqlite:missing.db", "a"], 1, "there is no file \"missing.db\"");
    fails(at, &["kv", "put", db, "a//b", "x"], 1, "\"a//b\"");
    fails(at, &["kv", "put", "kafka://h", "a", "x"], 1, "kafka");

    let mut watch = start(at, &["kv", "watch", db, "shop/", "-n", "2", "--json"]);
    let there: Value = serde_json::from_str(&first_line(&mut watch)).unwrap();
    assert_eq!((&there["key"], &there["value"]), (&"shop/limits".into(), &"20".into()));
    ok(at, &["kv", "put", db, "shop/other", "x"]);
    ok(at, &["kv", "del", db, "shop/limits"]);
    let mut told = String::new();
    watch.stdout.as_mut().unwrap().read_to_string(&mut told).unwrap();
    assert!(watch.wait().unwrap().success());
    let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&told[0]["key"], &told[1]["deleted"]), (&"shop/other".into(), &true.into()));
    assert!(ok(at, &["kv", "ls", db]).contains("shop/other"));
}

#[test]
fn a_command_runs_under_a_lock_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (at, db) = (folder.path(), "sqlite:a.db");
    let under = |rest: &[&'static str]| [&["lock", "run", db, "orders/42"], rest].concat();
    let (code, out, _) = run(at, &under(&["--", "sh", "-c", "echo $LINCHPIN_LOCK_TOKEN; exit 7"]));
    assert_eq!(code, 7, "the command's own");
    let first: u64 = out.trim().parse().unwrap();
    let mut holder =
        start(at, &under(&["--ttl", "3s", "--", "sh", "-c", "echo $LINCHPIN_LOCK_TOKEN; sleep 60"]));
    let second: u64 = first_line(&mut holder).trim().parse().unwrap();
    assert!(second > first);
    fails(at, &under(&["--wait", "0s", "--", "true"]), 75, "wasn't free");
    fails(at, &under(&["--wait", "300ms", "--", "true"]), 75, "wasn't free");
    let waiting = start(at, &under(&["--", "sh", "-c", "echo $LINCHPIN_LOCK_TOKEN"]));
    // It dies without a word: the lease goes first, then the lock.
    signal(&holder, Signal::SIGKILL);
    holder.wait().unwrap();
    let killed = Instant::now();
    let third = waiting.wait_with_output().unwrap();
    assert!(killed.elapsed() < Duration::from_secs(7), "{:?}", killed.elapsed());
    assert!(String::from_utf8(third.stdout).unwrap().trim().parse::<u64>().unwrap() > second);
    fails(at, &under(&["--", "no-such-program"]), 1, "\"no-such-program\"");
    assert_eq!(ok(at, &["kv", "ls", db, "lock/", "--json"]), "", "everything was released");
}

#[test]
fn a_lost_lock_stops_the_command_and_all_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let (at, db) = (folder.path(), "sqlite:a.db");
    let script = "echo started; sleep 61 & sleep 61; echo survived";
    let mut holder = start(at, &["lock", "run", db, "a", "--ttl", "2s", "--", "sh", "-c", script]);
    assert_eq!(first_line(&mut holder), "started\n");
    // Somebody takes its lease away, as an engine does that couldn't hear it.
    let entries = ok(at, &["kv", "ls", db, "lock/", "--json"]);
    let entry: Value = serde_json::from_str(&entries).unwrap();
    signal(&holder, Signal::SIGSTOP);
    std::thread::sleep(Duration::from_millis(3_500));
    assert_eq!(ok(at, &["kv", "ls", db, "lock/", "--json"]), "", "{entry}");
    signal(&holder, Signal::SIGCONT);
    let thawed = Instant::now();
    let Output { status, stdout, stderr } = holder.wait_with_output().unwrap();
    assert!(thawed.elapsed() < Duration::from_secs(5), "{:?}", thawed.elapsed());
    assert_eq!(status.code(), Some(75));
    assert!(String::from_utf8(stdout).unwrap().is_empty());
    assert!(String::from_utf8(stderr).unwrap().contains("lost"));
}

/// Runs until SIGTERM; ends by itself some time, lest a test that finds a mistake hangs.
const PATIENT: &str = "trap 'echo bye; exit 3' TERM; echo up; for i in $(seq 400); do sleep 0.05; done";

/// Interrupts what runs a patient command, and says whether both ended as they should.
fn interrupted(tool: Child) -> bool {
    signal(&tool, Signal::SIGTERM);
    let ended = tool.wait_with_output().unwrap();
    ended.status.code() == Some(3) && ended.stdout == b"bye\n"
}

#[test]
fn the_elected_command_runs_until_it_is_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let (at, db) = (folder.path(), "sqlite:a.db");
    let elect = |value: &'static str| ["elect", db, "shop", "--value", value, "--", "sh", "-c", PATIENT];
    let mut leader = start(at, &elect("one"));
    assert_eq!(first_line(&mut leader), "up\n");
    let mut heir = start(at, &elect("two"));
    assert!(ok(at, &["kv", "ls", db, "election/"]).contains("one"));
    assert!(interrupted(leader));
    assert_eq!(first_line(&mut heir), "up\n");
    assert!(interrupted(heir));
}

#[test]
fn an_interrupt_is_heard_as_soon_as_the_command_runs() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let name = format!("job/{round}");
        let args = ["lock", "run", "sqlite:a.db", &name, "--", "sh", "-c", PATIENT];
        let mut holder = start(folder.path(), &args);
        assert_eq!(first_line(&mut holder), "up\n");
        assert!(interrupted(holder), "round {round}");
    }
}
