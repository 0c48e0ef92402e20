//! Servers with settings of their own; each ends with its value.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use linchpin_core::coord::{Change, Coord, Entry, Watch};
use linchpin_core::{Error, Kind, Result};
use linchpin_engines::{ETCD, ETCD_TLS};
use linchpin_harness::Port;
use linchpin_harness::{Running, wire};
use tempfile::TempDir;

pub(crate) const SOON: Duration = Duration::from_secs(10);
/// Longer than it takes for what was sent to be there.
pub(crate) const MOMENT: Duration = Duration::from_millis(300);

pub(crate) struct Server {
    child: Child,
    settings: Vec<String>,
    pub(crate) port: u16,
    _held: [Port; 2],
    folder: TempDir,
}

impl Server {
    /// With these settings, once its port is open.
    pub(crate) fn start(settings: &[&str]) -> Self {
        Self::launch("http", tempfile::tempdir().unwrap(), settings)
    }

    /// Encrypted alone, with the files `server.pem` and `server.key` of the folder.
    pub(crate) fn encrypted(folder: TempDir, settings: &[&str]) -> Self {
        let files = ["--cert-file", "server.pem", "--key-file", "server.key"];
        Self::launch("https", folder, &[&files[..], settings].concat())
    }

    fn launch(scheme: &str, folder: TempDir, settings: &[&str]) -> Self {
        let held = [Port::free().unwrap(), Port::free().unwrap()];
        let (port, peers) = (held[0].number(), format!("http://127.0.0.1:{}", held[1].number()));
        let clients = format!("{scheme}://127.0.0.1:{port}");
        let mut words = vec!["--name", "e", "--data-dir", "data", "--listen-client-urls", &clients];
        words.extend(["--advertise-client-urls", &clients, "--listen-peer-urls", &peers]);
        let cluster = format!("e={peers}");
        words.extend(["--initial-advertise-peer-urls", &peers, "--initial-cluster", &cluster]);
        words.extend(settings);
        let settings: Vec<_> = words.into_iter().map(str::to_owned).collect();
        let child = spawn(folder.path(), &settings);
        let mut server = Self { child, settings, port, _held: held, folder };
        server.await_port();
        server
    }

    fn await_port(&mut self) {
        let patience = Instant::now() + SOON;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(self.child.try_wait().unwrap().is_none(), "etcd refuses {:?}", self.settings);
            assert!(Instant::now() < patience, "etcd doesn't listen");
            std::thread::yield_now();
        }
    }

    /// SIGKILL, and once more on the same data.
    pub(crate) fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(self.folder.path(), &self.settings);
        self.await_port();
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `rest` is what stands behind host and port.
    pub(crate) fn url(&self, login: &str, rest: &str) -> String {
        format!("etcd://{login}127.0.0.1:{}{rest}", self.port)
    }

    /// Through its own interface.
    pub(crate) fn post(&self, path: &str, body: &str) -> String {
        post(self.port, path, body)
    }

    /// Asks for names from now on: `root`, and `me`, who may use what begins with `shop/`.
    pub(crate) fn lock(&self) {
        for user in ["root", "me"] {
            self.post("auth/user/add", &format!(r#"{{"name":"{user}","password":"s3cret"}}"#));
            self.post("auth/role/add", &format!(r#"{{"name":"{user}"}}"#));
            self.post("auth/user/grant", &format!(r#"{{"user":"{user}","role":"{user}"}}"#));
        }
        let shop = r#"{"name":"me","perm":{"permType":"READWRITE","key":"c2hvcC8=","range_end":"c2hvcDA="}}"#;
        self.post("auth/role/grant", shop);
        self.post("auth/enable", "{}");
    }
}

fn spawn(folder: &Path, settings: &[String]) -> Child {
    let mut command = Command::new(linchpin_harness::locate("etcd").expect("etcd is installed"));
    command.current_dir(folder).args(settings);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// As soon as the server has elected itself.
pub(crate) fn post(port: u16, path: &str, body: &str) -> String {
    let patience = Instant::now() + SOON;
    loop {
        match wire::http(port, "POST", &format!("/v3/{path}"), body) {
            Ok(answer) => return answer,
            Err(failure) => assert!(Instant::now() < patience, "{path} {body}: {failure}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn one() -> Running {
    linchpin_harness::find("etcd").unwrap().start().unwrap()
}

pub(crate) async fn open(url: &str) -> Result<Coord> {
    Coord::open_with(url, &[ETCD, ETCD_TLS]).await
}

/// What the watcher knows, as it should.
pub(crate) struct Seen(pub(crate) BTreeMap<String, Entry>);

impl Seen {
    pub(crate) fn new(snapshot: Vec<Entry>) -> Self {
        Self(snapshot.into_iter().map(|entry| (entry.key.clone(), entry)).collect())
    }

    pub(crate) fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Put(entry) => drop(self.0.insert(entry.key.clone(), entry)),
                Change::Delete { key, rev } => {
                    let gone = self.0.remove(&key).expect("only what was there can go");
                    assert!(rev > gone.rev, "{key} went at {rev}, and was put at {}", gone.rev);
                }
            }
        }
    }

    /// Applies what comes, through errors that pass, until it is as the engine has it.
    pub(crate) async fn follow(&mut self, watch: &mut dyn Watch, coord: &Coord, prefix: &str) {
        let patience = Instant::now() + 3 * SOON;
        loop {
            match watch.next(MOMENT).await {
                Ok(changes) => self.apply(changes),
                Err(e) => assert!(matches!(e.kind(), Kind::Unavailable | Kind::Timeout), "{e}"),
            }
            let there = coord.list(prefix).await.unwrap();
            if there.iter().eq(self.0.values()) {
                return;
            }
            assert!(Instant::now() < patience, "{there:?}\n{:?}", self.0);
        }
    }
}

/// The error is of this kind, names the engine and the part, and knows a remedy.
pub(crate) fn said(error: &Error, kind: Kind, part: &str) {
    assert_eq!(error.kind(), kind, "{error}");
    let text = error.to_string();
    assert!(text.contains(part) && text.contains("etcd"), "{text:?} names {part:?}");
    assert!(error.remedy().is_some(), "{text:?} names a remedy");
    assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
}
