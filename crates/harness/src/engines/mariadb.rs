//! MariaDB, alone and with a replica. What was committed survives a kill; a replica follows asynchronously.

use std::path::PathBuf;
use std::process::Command;

use crate::engine::{Engine, Needs, locate};
use crate::error::Result;
use crate::plan::{NodePlan, Plan, Site, addresses};
use crate::port::Port;
use crate::process::Launch;
use crate::wire::ask;

/// It starts as root only when told to.
const USER: &str = "mysql";
const NEEDS: Needs = Needs {
    program: &["mariadbd"],
    packages: &["mariadb-server"],
    jars: None,
    version: &["mariadbd", "--version"],
};

/// One server, with a binary log and an empty database `linchpin`; its user `root` has no password.
pub(crate) const ENGINE: Engine = Engine { name: "mariadb", needs: NEEDS, plan: alone };
/// A primary, then a replica that only reads and follows it by GTID.
pub(crate) const REPLICA: Engine = Engine { name: "mariadb-replica", needs: NEEDS, plan: replicated };

fn alone(site: &Site<'_>) -> Result<Plan> {
    install(site, "data-1")?;
    let port = site.port()?;
    let url = format!("mysql://root@127.0.0.1:{}/linchpin", port.number());
    let launch = primary(site, &port)?;
    Ok(Plan::single(url, NodePlan::new(port, launch, greets)))
}

fn replicated(site: &Site<'_>) -> Result<Plan> {
    install(site, "data-1")?;
    install(site, "data-2")?;
    let ports = site.ports(2)?;
    let url = format!("mysql://root@{}/linchpin", addresses(&ports));
    let mut nodes = Vec::new();
    for (n, port) in ports.into_iter().enumerate() {
        let follower = || server(site, 2, &port).words("--relay-log=relay --read-only=1");
        let launch = if n == 0 { primary(site, &port)? } else { follower() };
        nodes.push(NodePlan::new(port, launch, greets));
    }
    Ok(Plan { url, nodes, form: Some(follow), formed: Some(follows) })
}

fn install(site: &Site<'_>, data: &str) -> Result<()> {
    site.give_to(site.folder, USER)?;
    let scratch = site.subfolder(&scratch(data))?;
    site.give_to(&scratch, USER)?;
    let launch = Launch::new(locate("mariadb-install-db").unwrap_or_default())
        .user(USER)
        .env("TMPDIR", scratch)
        .words("--no-defaults --auth-root-authentication-method=normal --skip-test-db")
        .arg(format!("--datadir={}", site.folder.join(data).display()));
    site.run(&launch)
}

/// Its own folder for temporary tables: a server that starts removes all it finds there, its neighbours' too.
fn scratch(data: &str) -> String {
    format!("{data}-tmp")
}

/// The database comes to a replica by replication: one of its own would be a transaction that the primary hasn't.
fn primary(site: &Site<'_>, port: &Port) -> Result<Launch> {
    let init = site.file("init.sql", "CREATE DATABASE IF NOT EXISTS linchpin;\n")?;
    Ok(server(site, 1, port).arg(format!("--init-file={}", init.display())))
}

fn server(site: &Site<'_>, id: u32, port: &Port) -> Launch {
    let option = |name: &str, value: &str| format!("--{name}={}", site.folder.join(value).display());
    Launch::new(locate("mariadbd").unwrap_or_default())
        .user(USER)
        .words(&format!("--no-defaults --server-id={id} --port={} --bind-address=127.0.0.1", port.number()))
        .arg(option("datadir", &format!("data-{id}")))
        .env("TMPDIR", site.folder.join(scratch(&format!("data-{id}"))))
        .arg(option("socket", &format!("mariadb-{id}.sock")))
        .arg(option("pid-file", &format!("mariadb-{id}.pid")))
        .words("--log-bin=bin --binlog-format=ROW --gtid-strict-mode=1 --log-slave-updates=1")
        .words("--skip-name-resolve --local-infile=1 --max-connections=500")
        .words(site.unsynced("--innodb-flush-log-at-trx-commit=2 --sync-binlog=0"))
}

/// A greeting of protocol 10 behind the packet's four bytes of length and number; a refusal has 255 there.
fn greets(port: u16) -> Result<(), String> {
    ask(port, b"", |greeting| greeting.get(4) == Some(&10)).map(drop)
}

fn client() -> PathBuf {
    locate("mariadb").unwrap_or_default()
}

fn place(port: u16) -> String {
    format!("--no-defaults --connect-timeout=2 -h 127.0.0.1 -P {port} -u root")
}

fn follow(site: &Site<'_>, ports: &[u16]) -> Result<()> {
    let [primary, replica] = ports else { return Ok(()) };
    let statement = format!(
        "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={primary}, MASTER_USER='root', \
         MASTER_CONNECT_RETRY=1, MASTER_USE_GTID=slave_pos; START SLAVE"
    );
    site.run(&Launch::new(client()).words(&place(*replica)).arg("-e").arg(statement))
}

/// Both of the replica's threads run.
fn follows(ports: &[u16]) -> Result<(), String> {
    let [_, replica] = ports else { return Ok(()) };
    let mut status = Command::new("timeout");
    status.arg("5").arg(client()).args(place(*replica).split(' ')).args(["-e", "SHOW SLAVE STATUS\\G"]);
    let status = status.output().map_err(|failure| failure.to_string())?;
    let status = String::from_utf8_lossy(&status.stdout);
    if ["Slave_IO_Running: Yes", "Slave_SQL_Running: Yes"].iter().all(|line| status.contains(line)) {
        return Ok(());
    }
    Err(format!("the replica doesn't follow: {status}"))
}
