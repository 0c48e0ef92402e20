//! The process that is frozen: this program once more, which runs the test `process` below.

use std::env;
use std::process::Stdio;
use std::time::Duration;

use linchpin_core::coord::{Coord, Rev};
use linchpin_engines::{MYSQL, POSTGRES, ZOOKEEPER};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::store::Store;

const LOCK: &str = "LINCHPIN_FENCE_LOCK";
const STORE: &str = "LINCHPIN_FENCE_STORE";
/// What it says, among what the test's runner prints.
const SAYS: &str = "holder: ";

pub(crate) async fn open(url: &str) -> Coord {
    Coord::open_with(url, &[POSTGRES, MYSQL, ZOOKEEPER]).await.unwrap()
}

/// It is killed when this is dropped.
pub(crate) struct Holder {
    child: Child,
    orders: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl Holder {
    pub(crate) async fn start(lock: &str, store: &str) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "holder::process", "--ignored", "--nocapture"]);
        command.env(LOCK, lock).env(STORE, store).kill_on_drop(true);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (orders, said) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, orders, said: BufReader::new(said).lines() }
    }

    pub(crate) async fn ask(&mut self, order: &str) {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.unwrap();
    }

    pub(crate) async fn answer(&mut self) -> String {
        let answer = async {
            loop {
                let line = self.said.next_line().await.unwrap().expect("the holder lives");
                if let Some((_, said)) = line.split_once(SAYS) {
                    return said.to_owned();
                }
            }
        };
        timeout(Duration::from_secs(30), answer).await.expect("the holder answers")
    }

    pub(crate) async fn acquire(&mut self) -> Rev {
        self.ask("acquire").await;
        Rev(self.answer().await.parse().unwrap())
    }

    /// The kind of the error if it is refused.
    pub(crate) async fn write(&mut self, amount: &str) -> Result<(), String> {
        self.ask(&format!("write {amount}")).await;
        match self.answer().await {
            said if said == "written" => Ok(()),
            kind => Err(kind),
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().expect("it lives").cast_signed());
        kill(pid, signal).unwrap();
    }

    pub(crate) fn freeze(&self) {
        linchpin_harness::freeze(self.child.id().expect("it lives")).unwrap();
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the process that the other tests freeze"]
async fn process() {
    let coord = open(&env::var(LOCK).expect("another test starts it")).await;
    let store = Store::open(&env::var(STORE).unwrap()).await;
    let ttl = coord.caps().min_ttl.max(Duration::from_secs(2));
    let session = coord.session(ttl).await.unwrap();
    let mut guard = None;
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    while let Some(order) = orders.next_line().await.unwrap() {
        match order.split_once(' ') {
            Some((_, amount)) => {
                let token = session_token(&guard);
                match store.write(amount, token).await {
                    Ok(()) => println!("{SAYS}written"),
                    Err(error) => println!("{SAYS}{:?}", error.kind()),
                }
            }
            None => {
                guard = Some(session.lock("stock").acquire().await.unwrap());
                println!("{SAYS}{}", session_token(&guard));
            }
        }
    }
}

/// The token it has, whether it still holds the lock or not.
fn session_token(guard: &Option<linchpin_core::coord::LockGuard>) -> Rev {
    guard.as_ref().expect("acquired before").token()
}
