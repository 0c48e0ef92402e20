//! ActiveMQ Classic, from Maven Central: Debian's has no AMQP. What was acknowledged survives a kill.

use crate::engine::{Engine, Needs, locate};
use crate::error::Result;
use crate::maven;
use crate::plan::{NodePlan, Plan, Site};
use crate::process::Launch;
use crate::wire::ask;

/// One broker; its one port understands AMQP 1.0, STOMP and OpenWire.
pub(crate) const ENGINE: Engine = Engine {
    name: "activemq",
    needs: Needs {
        program: &["java"],
        packages: &["default-jre-headless", "maven"],
        jars: Some("activemq"),
        version: &[],
    },
    plan,
};

fn plan(site: &Site<'_>) -> Result<Plan> {
    let port = site.port()?;
    let address = format!("127.0.0.1:{}", port.number());
    let data = site.subfolder("data")?;
    let broker = format!(
        "broker:(auto://{address})?brokerName=linchpin&useJmx=false&persistent=true&dataDirectory={}",
        data.display()
    );
    let launch = Launch::new(locate("java").unwrap_or_default())
        .words("-Xmx256m -XX:+UseSerialGC -cp")
        .arg(maven::jars("activemq").unwrap_or_default().join("*"))
        .words("org.apache.activemq.console.command.ShellCommand start")
        .arg(broker);
    Ok(Plan::single(format!("activemq://{address}"), NodePlan::new(port, launch, speaks_amqp)))
}

/// Its own header, in answer to that of AMQP 1.0.
fn speaks_amqp(port: u16) -> Result<(), String> {
    ask(port, b"AMQP\0\x01\0\0", |answer| answer.starts_with(b"AMQP")).map(drop)
}
