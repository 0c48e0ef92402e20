//! etcd, one and three nodes. What was acknowledged survives a kill.

use crate::engine::{Engine, Needs, locate};
use crate::error::Result;
use crate::plan::{NodePlan, Plan, Site, addresses};
use crate::port::Port;
use crate::process::Launch;
use crate::wire::http;

const NEEDS: Needs =
    Needs { program: &["etcd"], packages: &["etcd-server"], jars: None, version: &["etcd", "--version"] };

/// One node.
pub(crate) const ENGINE: Engine = Engine { name: "etcd", needs: NEEDS, plan: |site| plan(site, 1) };
/// Three nodes.
pub(crate) const THREE: Engine = Engine { name: "etcd-3", needs: NEEDS, plan: |site| plan(site, 3) };

fn plan(site: &Site<'_>, count: usize) -> Result<Plan> {
    let (ports, peers) = (site.ports(count)?, site.ports(count)?);
    let url = format!("etcd://{}", addresses(&ports));
    let members = peers.iter().enumerate().map(|(n, peer)| format!("e{n}={}", address(peer)));
    let members = members.collect::<Vec<_>>().join(",");
    let mut nodes = Vec::new();
    for (n, (port, peer)) in ports.into_iter().zip(peers).enumerate() {
        let (client_url, peer_url) = (address(&port), address(&peer));
        let launch = Launch::new(locate("etcd").unwrap_or_default())
            .words(&format!(
                "--name e{n} --listen-client-urls {client_url} --advertise-client-urls {client_url}"
            ))
            .words(&format!("--listen-peer-urls {peer_url} --initial-advertise-peer-urls {peer_url}"))
            .words(&format!("--initial-cluster {members} --data-dir"))
            .arg(site.subfolder(&format!("data-{}", n + 1))?);
        let mut node = NodePlan::new(port, launch, healthy);
        node.inner_ports = vec![peer];
        nodes.push(node);
    }
    Ok(Plan { url, nodes, form: None, formed: None })
}

fn address(port: &Port) -> String {
    format!("http://127.0.0.1:{}", port.number())
}

/// It has a leader, and can agree with it.
fn healthy(port: u16) -> Result<(), String> {
    http(port, "GET", "/health", "").map(drop)
}
