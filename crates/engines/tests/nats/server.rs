//! Servers with settings of their own; each ends with its value.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use linchpin_core::bus::Bus;
use linchpin_core::{Kind, Result};
use linchpin_engines::{NATS, NATS_TLS};
use linchpin_harness::Port;
use tempfile::TempDir;

pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    _held: Port,
    folder: TempDir,
}

impl Server {
    /// With JetStream and these arguments, once its port is open.
    pub(crate) fn start(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("data");
        Self::launch(folder, &[&["-js", "-sd", store.to_str().unwrap()], args].concat())
    }

    /// Without JetStream.
    pub(crate) fn plain() -> Self {
        Self::launch(tempfile::tempdir().unwrap(), &[])
    }

    fn launch(folder: TempDir, args: &[&str]) -> Self {
        let held = Port::free().unwrap();
        let port = held.number();
        let mut command =
            Command::new(linchpin_harness::locate("nats-server").expect("nats-server is installed"));
        command.args(["-a", "127.0.0.1", "-p", &port.to_string()]).args(args);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let server = Self { child, port, _held: held, folder };
        let patience = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < patience, "nats-server doesn't listen");
            std::thread::yield_now();
        }
        server
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn url(&self, options: &str) -> String {
        format!("nats://127.0.0.1:{}?timeout=5s{options}", self.port)
    }

    /// A bus, once JetStream is up.
    pub(crate) async fn bus(&self, options: &str) -> Bus {
        self.until_up(&self.url(options)).await
    }

    /// The same at this URL.
    pub(crate) async fn until_up(&self, url: &str) -> Bus {
        let patience = Instant::now() + Duration::from_secs(10);
        loop {
            match open(url).await {
                Err(e) if e.kind() == Kind::Unavailable && Instant::now() < patience => {}
                bus => return bus.unwrap(),
            }
        }
    }

    pub(crate) async fn client(&self) -> async_nats::Client {
        async_nats::connect(format!("127.0.0.1:{}", self.port)).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

pub(crate) async fn open(url: &str) -> Result<Bus> {
    Bus::open_with(url, &[NATS, NATS_TLS]).await
}
