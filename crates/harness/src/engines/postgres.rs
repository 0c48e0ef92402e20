//! PostgreSQL. What was committed survives a kill.

use nix::sys::signal::Signal;

use crate::engine::{Engine, Needs, locate};
use crate::error::Result;
use crate::plan::{NodePlan, Plan, Site};
use crate::process::Launch;
use crate::wire::ask;

/// Debian's, and everybody else's.
const SERVER: &[&str] = &["/usr/lib/postgresql/*/bin/postgres", "postgres"];
/// It refuses to run as root.
const USER: &str = "postgres";
/// The message that opens a session: length, protocol 3.0, parameters.
const STARTUP: &[u8] = b"\0\0\0\x29\0\x03\0\0user\0postgres\0database\0postgres\0\0";
/// Ends the sessions, then itself.
const FAST_SHUTDOWN: Signal = Signal::SIGINT;

/// One server, which trusts everybody on 127.0.0.1.
pub(crate) const ENGINE: Engine = Engine {
    name: "postgres",
    needs: Needs {
        program: SERVER,
        packages: &["postgresql"],
        jars: None,
        version: &["/usr/lib/postgresql/*/bin/postgres", "--version"],
    },
    plan,
};

fn plan(site: &Site<'_>) -> Result<Plan> {
    let port = site.port()?;
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", port.number());
    let server = SERVER.iter().find_map(|path| locate(path)).unwrap_or_default();
    site.give_to(site.folder, USER)?;
    let data = site.folder.join("data");
    let initdb = Launch::new(server.with_file_name("initdb")).user(USER);
    site.run(&initdb.arg("-D").arg(&data).words("-A trust -U postgres -E UTF8 --locale=C --no-sync"))?;
    let launch = Launch::new(server)
        .user(USER)
        .arg("-D")
        .arg(data)
        .words(&format!(
            "-h 127.0.0.1 -p {} -c max_prepared_transactions=64 -c max_connections=200",
            port.number()
        ))
        .words(site.unsynced("-c fsync=off"))
        .arg("-k")
        .arg(site.folder);
    let mut node = NodePlan::new(port, launch, answers);
    node.stop = FAST_SHUTDOWN;
    Ok(Plan::single(url, node))
}

/// `R`: the session is let in; while it recovers, the answer is an error, `E`.
fn answers(port: u16) -> Result<(), String> {
    ask(port, STARTUP, |answer| answer.starts_with(b"R")).map(drop)
}
