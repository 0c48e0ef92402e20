//! RabbitMQ. What was confirmed to a publisher of persistent messages survives a kill.

use crate::engine::{Engine, Needs, locate};
use crate::error::Result;
use crate::plan::{NodePlan, Plan, Site};
use crate::process::Launch;
use crate::wire::ask;

/// The script behind the wrapper, which insists on the user `rabbitmq`.
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// One node, with the user `guest`, and its own epmd, which ends with it.
pub(crate) const ENGINE: Engine = Engine {
    name: "rabbitmq",
    needs: Needs {
        program: &[SERVER],
        packages: &["rabbitmq-server"],
        jars: None,
        version: &["dpkg-query", "-W", "-f", "v${Version}", "rabbitmq-server"],
    },
    plan,
};

fn plan(site: &Site<'_>) -> Result<Plan> {
    let (port, distribution, epmd) = (site.port()?, site.port()?, site.port()?);
    let url = format!("amqp://guest:guest@127.0.0.1:{}", port.number());
    let settings = format!("listeners.tcp.default = 127.0.0.1:{}\nlog.console = true\n", port.number());
    let settings = site.file("rabbitmq.conf", &settings)?;
    let plugins = site.file("enabled_plugins", "[].\n")?;
    let launch = Launch::new(SERVER)
        .env("HOME", site.folder)
        .env("RABBITMQ_NODENAME", "linchpin@localhost")
        .env("RABBITMQ_CONFIG_FILE", settings)
        .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
        .env("RABBITMQ_MNESIA_BASE", site.subfolder("data")?)
        .env("RABBITMQ_LOG_BASE", site.subfolder("log")?)
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", plugins)
        .env("RABBITMQ_PID_FILE", site.folder.join("rabbitmq.pid"))
        .env("RABBITMQ_DIST_PORT", distribution.number().to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("ERL_EPMD_PORT", epmd.number().to_string())
        .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}");
    let names = Launch::new(locate("epmd").unwrap_or_default())
        .words(&format!("-address 127.0.0.1 -port {}", epmd.number()));
    let mut node = NodePlan::new(port, launch, starts_a_connection);
    node.inner_ports = vec![distribution];
    node.companion = Some((names, epmd));
    Ok(Plan::single(url, node))
}

/// A method frame, `connection.start`, in answer to the protocol's header.
fn starts_a_connection(port: u16) -> Result<(), String> {
    ask(port, b"AMQP\0\0\x09\x01", |answer| answer.starts_with(b"\x01\0\0")).map(drop)
}
