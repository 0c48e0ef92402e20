//! Consul, one server. Debian has no package of it, and neither has Maven Central.

use crate::engine::{Engine, Needs, locate};
use crate::error::Result;
use crate::plan::{NodePlan, Plan, Site};
use crate::process::Launch;
use crate::wire::http;

pub(crate) const ENGINE: Engine = Engine {
    name: "consul",
    needs: Needs { program: &["consul"], packages: &[], jars: None, version: &["consul", "version"] },
    plan,
};

fn plan(site: &Site<'_>) -> Result<Plan> {
    let (port, server, serf) = (site.port()?, site.port()?, site.port()?);
    let url = format!("consul://127.0.0.1:{}", port.number());
    let launch = Launch::new(locate("consul").unwrap_or_default())
        .words("agent -server -bootstrap-expect=1 -node=c1 -bind=127.0.0.1 -client=127.0.0.1")
        .words(&format!("-http-port={} -server-port={}", port.number(), server.number()))
        .words(&format!("-serf-lan-port={} -serf-wan-port=-1 -dns-port=-1 -data-dir", serf.number()))
        .arg(site.subfolder("data")?);
    let mut node = NodePlan::new(port, launch, leads);
    node.inner_ports = vec![server, serf];
    Ok(Plan::single(url, node))
}

/// It has elected itself.
fn leads(port: u16) -> Result<(), String> {
    let leader = http(port, "GET", "/v1/status/leader", "")?;
    if leader.contains(':') { Ok(()) } else { Err("there is no leader".to_owned()) }
}
