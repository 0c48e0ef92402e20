//! Redis, alone and as a cluster. What was acknowledged survives a kill: the log of writes is on.

use crate::engine::{Engine, Needs, locate};
use crate::error::{Error, Result};
use crate::plan::{NodePlan, Plan, Site, addresses};
use crate::port::Port;
use crate::process::Launch;
use crate::wire::{ask, contains};

const NEEDS: Needs = Needs {
    program: &["redis-server"],
    packages: &["redis-server"],
    jars: None,
    version: &["redis-server", "--version"],
};

/// One server.
pub(crate) const ENGINE: Engine = Engine { name: "redis", needs: NEEDS, plan: alone };
/// Three primaries, each with a replica.
pub(crate) const CLUSTER: Engine = Engine { name: "redis-cluster", needs: NEEDS, plan: cluster };

const PONG: &[u8] = b"+PONG\r\n";
const CLUSTER_NODES: usize = 6;
/// A replica promotes itself after this, and an election.
const NODE_TIMEOUT_MS: u32 = 2000;

fn alone(site: &Site<'_>) -> Result<Plan> {
    let port = site.port()?;
    let url = format!("redis://127.0.0.1:{}", port.number());
    let folder = site.subfolder("data")?;
    let launch = server(site, &port).arg("--dir").arg(folder);
    Ok(Plan::single(url, NodePlan::new(port, launch, answers)))
}

fn cluster(site: &Site<'_>) -> Result<Plan> {
    let ports = site.ports(CLUSTER_NODES)?;
    let url = format!("redis-cluster://{}", addresses(&ports));
    let mut nodes = Vec::new();
    for (n, port) in ports.into_iter().enumerate() {
        let bus = site.port()?;
        let launch = server(site, &port)
            .arg("--dir")
            .arg(site.subfolder(&format!("data-{}", n + 1))?)
            .words(&format!(
                "--cluster-enabled yes --cluster-config-file nodes.conf --cluster-port {}",
                bus.number()
            ))
            .words(&format!("--cluster-node-timeout {NODE_TIMEOUT_MS} --repl-diskless-sync-delay 0"));
        let mut node = NodePlan::new(port, launch, answers);
        node.inner_ports = vec![bus];
        nodes.push(node);
    }
    Ok(Plan { url, nodes, form: Some(form), formed: Some(formed) })
}

/// With the default of syncing once a second Redis puts writes off while a sync is slow, and a kill takes them.
fn server(site: &Site<'_>, port: &Port) -> Launch {
    Launch::new(locate("redis-server").unwrap_or_default())
        .words(site.unsynced("--appendfsync no"))
        .words(&format!(
            "--port {} --bind 127.0.0.1 --daemonize no --appendonly yes --shutdown-timeout 0 --save",
            port.number()
        ))
        .arg("")
}

fn answers(port: u16) -> Result<(), String> {
    let answer = ask(port, b"PING\r\n", |answer| answer.ends_with(b"\r\n"))?;
    if answer == PONG { Ok(()) } else { Err(format!("answers {:?}", String::from_utf8_lossy(&answer))) }
}

/// The answer ends where that to the next command begins.
fn tell(port: u16, command: &str) -> Result<Vec<u8>, String> {
    ask(port, format!("{command}\r\nPING\r\n").as_bytes(), |answer| answer.ends_with(PONG))
}

fn form(site: &Site<'_>, ports: &[u16]) -> Result<()> {
    let client =
        locate("redis-cli").ok_or_else(|| Error::new(site.engine, "redis-cli isn't on this machine"))?;
    let mut create = Launch::new(client).words("--cluster create");
    for port in ports {
        create = create.arg(format!("127.0.0.1:{port}"));
    }
    site.run(&create.words("--cluster-replicas 1 --cluster-yes"))
}

/// A primary that dies before its replica's first synchronisation is never replaced: the replicas are waited for too.
fn formed(ports: &[u16]) -> Result<(), String> {
    let mut replicas = 0;
    for &port in ports {
        if !contains(&tell(port, "CLUSTER INFO")?, b"cluster_state:ok") {
            return Err(format!("the node on port {port} doesn't see a whole cluster"));
        }
        let role = tell(port, "INFO replication")?;
        if contains(&role, b"role:slave") {
            replicas += 1;
            if !contains(&role, b"master_link_status:up") {
                return Err(format!("the replica on port {port} isn't in step"));
            }
        }
    }
    if replicas == ports.len() / 2 {
        Ok(())
    } else {
        Err(format!("{replicas} of {} are replicas", ports.len()))
    }
}
