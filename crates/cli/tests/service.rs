//! Services on a file, by the real binary.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const URL: &str = "sqlite:a.db";

fn linchpin(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linchpin"));
    command.args(args).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn json(folder: &Path, args: &[&str]) -> Value {
    let said = linchpin(folder, &[args, &["--json"]].concat()).output().unwrap();
    assert!(said.status.success(), "{args:?}: {}", String::from_utf8_lossy(&said.stderr));
    serde_json::from_slice(&said.stdout).unwrap()
}

/// A process that has registered an instance. Killed when dropped.
struct Server(Child);

impl Server {
    fn start(folder: &Path, address: &str) -> Self {
        let args = ["service", "register", URL, "time", address, "--ttl", "1s", "--json", "--meta", "v=3"];
        let mut child = linchpin(folder, &args).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&said["service"], &said["instance"]["metadata"]["v"]), (&"time".into(), &"3".into()));
        Self(child)
    }

    fn end(&mut self, signal: Signal) -> Option<i32> {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), signal).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn health(folder: &Path) -> Vec<(String, String)> {
    let all = json(folder, &["service", "ls", URL, "time"]);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    all.as_array().unwrap().iter().map(|one| (text(&one["id"]), text(&one["health"]))).collect()
}

fn within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn three_servers_share_a_hundred_calls_and_one_dies() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut servers: Vec<_> = (7001..7004).map(|n| Server::start(path, &format!("127.0.0.1:{n}"))).collect();
    assert_eq!(json(path, &["service", "ls", URL])["time"].as_array().unwrap().len(), 3);
    let watched = json(path, &["service", "watch", URL, "time", "-n", "1"]);
    assert_eq!(watched["endpoints"].as_array().unwrap().len(), 3);

    let calls = |servers: u64| {
        let args =
            ["service", "call", URL, "time", "-n", "100", "--balance", "round-robin", "--json", "--", "true"];
        let said = linchpin(path, &args).output().unwrap();
        let said: Value = serde_json::from_slice(&said.stdout).unwrap();
        assert_eq!((&said["calls"], &said["failed"]), (&100.into(), &0.into()));
        let counts: Vec<_> = said["by_address"].as_object().unwrap().values().cloned().collect();
        counts.len() as u64 == servers && counts.iter().all(|n| n.as_u64().unwrap() >= 100 / servers)
    };
    assert!(calls(3), "evenly spread");

    servers[0].end(Signal::SIGKILL);
    within(Duration::from_secs(5), "the dead one is gone", || health(path).len() == 2);
    assert!(calls(2));

    assert_eq!(servers[1].end(Signal::SIGTERM), Some(0));
    let said = health(path);
    assert!(said.len() < 2 || said[0] == ("127.0.0.1:7002".into(), "leaving".into()), "{said:?}");
    assert!(calls(1));
}

#[test]
fn a_failed_call_is_tried_on_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let _servers: Vec<_> = (7001..7003).map(|n| Server::start(path, &format!("127.0.0.1:{n}"))).collect();
    let call = |tries: &str| {
        let args = [
            "service",
            "call",
            URL,
            "time",
            "-n",
            "4",
            "--balance",
            "round-robin",
            "--tries",
            tries,
            "--json",
            "--",
            "sh",
            "-c",
            "test {} = 127.0.0.1:7002",
        ];
        let said = linchpin(path, &args).output().unwrap();
        (said.status.code(), serde_json::from_slice::<Value>(&said.stdout).unwrap()["failed"].clone())
    };
    assert_eq!(call("2"), (Some(0), 0.into()));
    assert_eq!(call("1"), (Some(1), 2.into()));
}

#[test]
fn nobody_to_call_and_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let fails = |args: &[&str], what: &str| {
        let said = linchpin(path, args).output().unwrap();
        let err = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.status.code() == Some(1) && err.contains(what), "{args:?}: {err}");
    };
    fails(&["service", "ls", URL], "there is no file");
    drop(Server::start(path, "127.0.0.1:7001"));
    within(Duration::from_secs(5), "the dead one is gone", || health(path).is_empty());
    fails(&["service", "call", URL, "time", "--", "true"], "no instance of \"time\" takes calls");
    fails(&["service", "register", URL, "a//b", "x:1"], "segment that is empty");
}
