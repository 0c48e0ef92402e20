//! Kafka in KRaft mode, one and three brokers. With acks=all and three replicas, what was acknowledged survives a kill.

use std::path::PathBuf;

use crate::engine::{Engine, Needs, locate};
use crate::error::Result;
use crate::maven;
use crate::plan::{NodePlan, Plan, Site, addresses};
use crate::port::Port;
use crate::process::Launch;
use crate::wire::ask;

const NEEDS: Needs = Needs {
    program: &["java"],
    packages: &["default-jre-headless", "maven"],
    jars: Some("kafka"),
    version: &[],
};
/// Any 16 bytes in base64 do.
const CLUSTER_ID: &str = "bGluY2hwaW4taGFybmVzcw";
/// What asks for the brokers: length, api 3, version 4, correlation 7, client `l`, no topics, creating none.
const METADATA: &[u8] = b"\0\0\0\x10\0\x03\0\x04\0\0\0\x07\0\x01l\0\0\0\0\0";

/// One broker, which is its own controller.
pub(crate) const ENGINE: Engine = Engine { name: "kafka", needs: NEEDS, plan: |site| plan(site, 1) };
/// Three brokers, each also a controller; topics have three replicas, of which two must be in step.
pub(crate) const THREE: Engine = Engine { name: "kafka-3", needs: NEEDS, plan: |site| plan(site, 3) };

fn plan(site: &Site<'_>, count: usize) -> Result<Plan> {
    let (ports, controllers) = (site.ports(count)?, site.ports(count)?);
    let url = format!("kafka://{}", addresses(&ports));
    let voters =
        controllers.iter().enumerate().map(|(n, port)| format!("{}@127.0.0.1:{}", n + 1, port.number()));
    let voters = voters.collect::<Vec<_>>().join(",");
    let mut nodes = Vec::new();
    for (n, (port, controller)) in ports.into_iter().zip(controllers).enumerate() {
        let settings = settings(site, n + 1, count, &port, &controller, &voters)?;
        let format = java("kafka.tools.StorageTool", "-XX:TieredStopAtLevel=1")
            .words(&format!("format -t {CLUSTER_ID} -c"));
        site.run(&format.arg(&settings))?;
        let launch = java("kafka.Kafka", "-Xmx384m").arg(settings);
        let mut node = NodePlan::new(port, launch, |port| brokers(port).map(drop));
        node.inner_ports = vec![controller];
        nodes.push(node);
    }
    Ok(Plan { url, nodes, form: None, formed: Some(formed) })
}

fn settings(
    site: &Site<'_>,
    id: usize,
    count: usize,
    port: &Port,
    controller: &Port,
    voters: &str,
) -> Result<PathBuf> {
    let (port, controller) = (port.number(), controller.number());
    let data = site.subfolder(&format!("data-{id}"))?;
    let in_step = count.div_ceil(2);
    let text = format!(
        "process.roles=broker,controller\nnode.id={id}\ncontroller.quorum.voters={voters}\n\
         controller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAINTEXT\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         log.dirs={}\nnum.partitions=1\ndefault.replication.factor={count}\nmin.insync.replicas={in_step}\n\
         offsets.topic.replication.factor={count}\noffsets.topic.num.partitions=4\n\
         transaction.state.log.replication.factor={count}\ntransaction.state.log.min.isr={in_step}\n\
         transaction.state.log.num.partitions=4\nshare.coordinator.state.topic.replication.factor={count}\n\
         share.coordinator.state.topic.min.isr={in_step}\ngroup.initial.rebalance.delay.ms=0\n\
         group.min.session.timeout.ms=1000\nbroker.session.timeout.ms=3000\nbroker.heartbeat.interval.ms=500\n",
        data.display()
    );
    site.file(format!("server-{id}.properties"), &text)
}

fn java(main: &str, option: &str) -> Launch {
    let jars = maven::jars("kafka").unwrap_or_default().join("*");
    Launch::new(locate("java").unwrap_or_default())
        .arg(option)
        .words("-XX:+UseSerialGC -cp")
        .arg(jars)
        .arg(main)
}

fn formed(ports: &[u16]) -> Result<(), String> {
    for &port in ports {
        let known = brokers(port)?;
        if known as usize != ports.len() {
            return Err(format!("the broker on port {port} knows {known} of {}", ports.len()));
        }
    }
    Ok(())
}

/// How many brokers this one knows: length, correlation, throttle time, then the count.
fn brokers(port: u16) -> Result<u32, String> {
    let answer = ask(port, METADATA, |answer| answer.len() >= 16)?;
    let count = answer.get(12..16).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
    count.ok_or_else(|| format!("answers {answer:?}"))
}
