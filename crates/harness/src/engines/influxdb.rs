//! InfluxDB 1. What was acknowledged survives a kill.

use crate::engine::{Engine, Needs, locate};
use crate::error::Result;
use crate::plan::{NodePlan, Plan, Site};
use crate::process::Launch;
use crate::wire::http;

/// One server, without users.
pub(crate) const ENGINE: Engine = Engine {
    name: "influxdb",
    needs: Needs {
        program: &["influxd"],
        packages: &["influxdb"],
        jars: None,
        version: &["dpkg-query", "-W", "-f", "v${Version}", "influxdb"],
    },
    plan,
};

fn plan(site: &Site<'_>) -> Result<Plan> {
    let (port, backup) = (site.port()?, site.port()?);
    let url = format!("influxdb://127.0.0.1:{}", port.number());
    let data = site.subfolder("data")?;
    let settings = format!(
        "reporting-disabled = true\nbind-address = \"127.0.0.1:{}\"\n[meta]\ndir = \"{data}/meta\"\n\
         [data]\ndir = \"{data}/data\"\nwal-dir = \"{data}/wal\"\n[http]\nbind-address = \"127.0.0.1:{}\"\n\
         log-enabled = false\n[monitor]\nstore-enabled = false\n",
        backup.number(),
        port.number(),
        data = data.display(),
    );
    let settings = site.file("influxdb.conf", &settings)?;
    let launch = Launch::new(locate("influxd").unwrap_or_default()).words("run -config").arg(settings);
    let mut node = NodePlan::new(port, launch, |port| http(port, "GET", "/ping", "").map(drop));
    node.inner_ports = vec![backup];
    Ok(Plan::single(url, node))
}
