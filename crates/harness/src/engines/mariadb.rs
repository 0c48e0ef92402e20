//! MariaDB. What was committed survives a kill.

use crate::engine::{Engine, Needs, locate};
use crate::error::Result;
use crate::plan::{NodePlan, Plan, Site};
use crate::process::Launch;
use crate::wire::ask;

/// It starts as root only when told to, and `root` here is also the name of the database's user.
const USER: &str = "mysql";

/// One server, with a binary log and an empty database `linchpin`; its user `root` has no password.
pub(crate) const ENGINE: Engine = Engine {
    name: "mariadb",
    needs: Needs {
        program: &["mariadbd"],
        packages: &["mariadb-server"],
        jars: None,
        version: &["mariadbd", "--version"],
    },
    plan,
};

fn plan(site: &Site<'_>) -> Result<Plan> {
    let port = site.port()?;
    let url = format!("mysql://root@127.0.0.1:{}/linchpin", port.number());
    site.give_to(site.folder, USER)?;
    let option = |name: &str, value: &str| format!("--{name}={}", site.folder.join(value).display());
    let install = Launch::new(locate("mariadb-install-db").unwrap_or_default())
        .user(USER)
        .words("--no-defaults --auth-root-authentication-method=normal --skip-test-db")
        .arg(option("datadir", "data"));
    site.run(&install)?;
    site.file("init.sql", "CREATE DATABASE IF NOT EXISTS linchpin;\n")?;
    let launch = Launch::new(locate("mariadbd").unwrap_or_default())
        .user(USER)
        .words(&format!("--no-defaults --port={} --bind-address=127.0.0.1", port.number()))
        .arg(option("datadir", "data"))
        .arg(option("socket", "mariadb.sock"))
        .arg(option("pid-file", "mariadb.pid"))
        .arg(option("init-file", "init.sql"))
        .words("--server-id=1 --log-bin=bin --binlog-format=ROW --gtid-strict-mode=1 --log-slave-updates=1")
        .words("--skip-name-resolve --local-infile=1");
    Ok(Plan::single(url, NodePlan::new(port, launch, greets)))
}

/// A greeting of protocol 10 behind the packet's four bytes of length and number; a refusal has 255 there.
fn greets(port: u16) -> Result<(), String> {
    ask(port, b"", |greeting| greeting.get(4) == Some(&10)).map(drop)
}
