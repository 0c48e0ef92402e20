//! NATS with JetStream. What was acknowledged survives a kill of the process.

use crate::engine::{Engine, Needs, locate};
use crate::error::Result;
use crate::plan::{NodePlan, Plan, Site};
use crate::process::Launch;
use crate::wire::{ask, contains};

/// One server.
pub(crate) const ENGINE: Engine = Engine {
    name: "nats",
    needs: Needs {
        program: &["nats-server"],
        packages: &["nats-server"],
        jars: None,
        version: &["nats-server", "--version"],
    },
    plan,
};

fn plan(site: &Site<'_>) -> Result<Plan> {
    let port = site.port()?;
    let url = format!("nats://127.0.0.1:{}", port.number());
    let launch = Launch::new(locate("nats-server").unwrap_or_default())
        .words(&format!("-a 127.0.0.1 -p {} -js -sd", port.number()))
        .arg(site.subfolder("data")?);
    Ok(Plan::single(url, NodePlan::new(port, launch, answers)))
}

/// JetStream answers too, once what is stored has been read.
fn answers(port: u16) -> Result<(), String> {
    let request = b"CONNECT {\"verbose\":false}\r\nSUB answer 1\r\nPUB $JS.API.INFO answer 0\r\n\r\n";
    ask(port, request, |answer| contains(answer, b"account_info_response")).map(drop)
}
