//! TLS, on a server that asks for the client's certificate.

use std::fs::{read_to_string, write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use linchpin_core::coord::When;
use linchpin_core::{Kind, Status};
use linchpin_engines::zookeeper::examine;
use linchpin_harness::{Port, certificates, locate};
use tempfile::TempDir;

use crate::tools::{open, said};

/// What encrypted ports need beside ZooKeeper itself.
const JARS: &[&str] = &[
    "zookeeper",
    "slf4j-simple",
    "netty-buffer",
    "netty-codec",
    "netty-common",
    "netty-handler",
    "netty-resolver",
    "netty-transport",
    "netty-transport-native-epoll",
    "netty-transport-native-unix-common",
];

/// A server whose one port is encrypted. It ends with its value.
struct Server {
    child: Child,
    port: u16,
    _held: Port,
    folder: TempDir,
}

impl Server {
    fn start() -> Self {
        let folder = certificates().unwrap();
        let file = |name: &str| folder.path().join(name).display().to_string();
        let text = |name: &str| read_to_string(file(name)).unwrap();
        write(file("both.pem"), text("server.key") + &text("server.pem")).unwrap();
        let held = Port::free().unwrap();
        let port = held.number();
        let settings = format!(
            "tickTime=500\ndataDir={}\nsecureClientPort={port}\nsecureClientPortAddress=127.0.0.1\nadmin.enableServer=false\n\
             serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n\
             ssl.keyStore.location={}\nssl.keyStore.type=PEM\nssl.trustStore.location={}\nssl.trustStore.type=PEM\n",
            file("data"),
            file("both.pem"),
            file("ca.pem"),
        );
        write(file("zoo.cfg"), settings).unwrap();
        let mut command = Command::new(locate("java").expect("java is installed"));
        let classes: Vec<_> = JARS.iter().map(|jar| format!("/usr/share/java/{jar}.jar")).collect();
        command.args([
            "-Xmx128m",
            "-cp",
            &classes.join(":"),
            "org.apache.zookeeper.server.ZooKeeperServerMain",
        ]);
        command.arg(file("zoo.cfg")).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(std::fs::File::create(file("log")).unwrap());
        let mut child = command.spawn().unwrap();
        let patience = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < patience && child.try_wait().unwrap().is_none(), "{}", text("log"));
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, port, _held: held, folder }
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn url(&self, files: &[(&str, &str)]) -> String {
        let file =
            |(option, file): &(&str, &str)| format!("&{option}={}", self.folder().join(file).display());
        format!(
            "zookeeper+tls://127.0.0.1:{}/tls?timeout=5s{}",
            self.port,
            files.iter().map(file).collect::<String>()
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_if_it_is_named() {
    let server = Server::start();
    let mine = [("tls_ca", "ca.pem"), ("tls_cert", "client.pem"), ("tls_key", "client.key")];
    let coord = open(&server.url(&mine)).await.unwrap();
    let lease = coord.engine().grant(coord.caps().min_ttl * 5).await.unwrap();
    coord.engine().put("a", vec![7; 500_000].into(), When::Absent, Some(&lease)).await.unwrap();
    coord.engine().renew(&lease).await.unwrap();
    assert_eq!(coord.get("a").await.unwrap().unwrap().value.len(), 500_000);
    let report = examine(server.url(&mine).parse().unwrap()).await;
    assert!(report.iter().all(|finding| finding.status != Status::Wrong), "{report:?}");
    open(&server.url(&mine).replace("zookeeper+tls://", "zookeeper://").replace('?', "?tls=true&"))
        .await
        .unwrap();

    for ca in [&[][..], &[("tls_ca", "other.pem")]] {
        let error = open(&server.url(&[ca, &mine[1..]].concat())).await.unwrap_err();
        said(&error, Kind::Config, "isn't trusted");
    }
    for (files, part) in [
        (&[("tls_ca", "nowhere.pem")][..], "nowhere.pem"),
        (&[("tls_ca", "server.key")], "has no certificate"),
        (&[mine[0], mine[1], ("tls_key", "server.key")], "don't go together"),
    ] {
        said(&open(&server.url(files)).await.unwrap_err(), Kind::Config, part);
    }
    let nameless = open(&server.url(&mine[..1])).await.unwrap_err();
    assert!(matches!(nameless.kind(), Kind::Config | Kind::Unavailable), "{nameless}");
    let plain = server.url(&[]).replace("zookeeper+tls://", "zookeeper://");
    assert!(matches!(open(&plain).await.unwrap_err().kind(), Kind::Unavailable | Kind::Timeout));
}
