//! Servers with settings of their own; each ends with its value.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use linchpin_core::bus::{Bus, Delivery, Subscriber, TopicOptions};
use linchpin_core::{Error, Kind, Result};
use linchpin_engines::{REDIS, REDIS_LIST, REDIS_PUBSUB, REDISS};
use linchpin_harness::Port;
use tempfile::TempDir;

pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    _held: Port,
    folder: TempDir,
}

impl Server {
    /// With these settings, once its port is open.
    pub(crate) fn start(settings: &[&str]) -> Self {
        Self::launch("--port", tempfile::tempdir().unwrap(), settings)
    }

    /// Encrypted alone, with the files `server.pem`, `server.key` and `ca.pem` of the folder.
    pub(crate) fn encrypted(folder: TempDir, settings: &[&str]) -> Self {
        let files =
            ["--tls-cert-file", "server.pem", "--tls-key-file", "server.key", "--tls-ca-cert-file", "ca.pem"];
        Self::launch("--tls-port", folder, &[&["--port", "0"], &files[..], settings].concat())
    }

    fn launch(listens: &str, folder: TempDir, settings: &[&str]) -> Self {
        let held = Port::free().unwrap();
        let port = held.number();
        let mut command =
            Command::new(linchpin_harness::locate("redis-server").expect("redis-server is installed"));
        command.current_dir(folder.path()).args([listens, &port.to_string(), "--bind", "127.0.0.1"]);
        command.args(["--save", ""]).args(settings);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut server = Self { child, port, _held: held, folder };
        let patience = Instant::now() + SOON;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(server.child.try_wait().unwrap().is_none(), "redis-server refuses {settings:?}");
            assert!(Instant::now() < patience, "redis-server doesn't listen");
            std::thread::yield_now();
        }
        server
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `rest` is what stands behind host and port.
    pub(crate) fn url(&self, login: &str, rest: &str) -> String {
        format!("redis://{login}127.0.0.1:{}{rest}", self.port)
    }

    pub(crate) async fn bus(&self, rest: &str) -> Bus {
        open(&self.url("", rest)).await.unwrap()
    }

    /// What the server's own client prints: a line per value, nested or not.
    pub(crate) fn cli(&self, words: &[&str]) -> Vec<String> {
        let mut command =
            Command::new(linchpin_harness::locate("redis-cli").expect("redis-cli is installed"));
        let output = command.args(["-p", &self.port.to_string()]).args(words).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{words:?}: {text}");
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

pub(crate) async fn open(url: &str) -> Result<Bus> {
    Bus::open_with(url, &[REDIS, REDISS, REDIS_LIST, REDIS_PUBSUB]).await
}

pub(crate) fn topic(partitions: u32) -> TopicOptions {
    TopicOptions { partitions, ..TopicOptions::default() }
}

pub(crate) async fn one(sub: &Subscriber) -> Delivery {
    sub.next(1, SOON).await.unwrap().pop().expect("a message comes")
}

/// The error is of this kind, names the engine and the part, and knows a remedy.
pub(crate) fn said(error: &Error, kind: Kind, part: &str) {
    assert_eq!(error.kind(), kind, "{error}");
    let text = error.to_string();
    assert!(text.contains(part) && text.contains("redis"), "{text:?} names {part:?}");
    assert!(error.remedy().is_some(), "{text:?} names a remedy");
    assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
}
