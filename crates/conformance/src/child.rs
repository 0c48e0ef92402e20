//! Another process on the same engine, to be commanded, killed and frozen.

use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{self, ChildStdin, ChildStdout};

use crate::protocol::{Command, Event, Seen};

/// How long a child may take for an answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// A running child. It is killed when dropped.
pub(crate) struct Child {
    process: process::Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// Starts it; it has opened the engine as this capability when this returns.
    pub(crate) async fn start(program: &str, capability: &str, url: &str) -> Self {
        let mut process = process::Command::new(program)
            .args([capability, url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdin = process.stdin.take().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut child = Self { process, stdin, stdout };
        child.done().await;
        child
    }

    /// Tells it what to do, without waiting for the answer.
    pub(crate) async fn tell(&mut self, command: &impl Serialize) {
        let line = serde_json::to_string(command).unwrap() + "\n";
        self.stdin.write_all(line.as_bytes()).await.unwrap();
    }

    /// Its next event; `None` once it is dead and everything it said was read.
    pub(crate) async fn event(&mut self) -> Option<Event> {
        tokio::time::timeout(PATIENCE, self.long_event()).await.expect("the child is silent")
    }

    /// The same, however long it takes.
    pub(crate) async fn long_event(&mut self) -> Option<Event> {
        // A line cut short by a kill wasn't said.
        serde_json::from_str(&self.stdout.next_line().await.unwrap()?).ok()
    }

    /// Tells it what to do and waits for its answer.
    pub(crate) async fn ask(&mut self, command: &impl Serialize) -> Event {
        self.tell(command).await;
        self.event().await.expect("the child is alive")
    }

    async fn done(&mut self) {
        let event = self.event().await;
        assert!(matches!(event, Some(Event::Done)), "the child said {event:?}");
    }

    /// Lets it join a group.
    pub(crate) async fn join(&mut self, topic: &str, group: &str, by_key: bool, ack_wait_ms: u64) {
        let (topic, group) = (topic.to_owned(), group.to_owned());
        self.tell(&Command::Join { topic, group, by_key, ack_wait_ms }).await;
        self.done().await;
    }

    /// Lets it fetch until it holds `count` deliveries.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<Seen> {
        let mut all = Vec::new();
        while all.len() < count {
            match self.ask(&Command::Next { max: count - all.len(), wait_ms: 5_000 }).await {
                Event::Taken(taken) if !taken.is_empty() => all.extend(taken),
                other => panic!("the child has {all:?} of {count} and then said {other:?}"),
            }
        }
        all
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub(crate) async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }

    /// Stops it with SIGSTOP: it lives, and does nothing.
    pub(crate) fn freeze(&self) {
        linchpin_harness::freeze(self.process.id().expect("the child is alive")).unwrap();
    }

    /// Lets it go on, with SIGCONT.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = self.process.id().expect("the child is alive");
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }
}
