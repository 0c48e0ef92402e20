//! ZooKeeper, one and three nodes. What was acknowledged survives a kill.

use crate::engine::{Engine, Needs, locate};
use crate::error::Result;
use crate::plan::{NodePlan, Plan, Site, addresses};
use crate::process::Launch;
use crate::wire::{ask, contains};

const JAR: &str = "/usr/share/java/zookeeper.jar";
const CLASSES: &str = "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar";
const NEEDS: Needs = Needs {
    program: &[JAR],
    packages: &["zookeeper", "libslf4j-java", "default-jre-headless"],
    jars: None,
    version: &["java", "-cp", CLASSES, "org.apache.zookeeper.version.VersionInfoMain"],
};

/// One node.
pub(crate) const ENGINE: Engine = Engine { name: "zookeeper", needs: NEEDS, plan: |site| plan(site, 1) };
/// Three nodes.
pub(crate) const THREE: Engine = Engine { name: "zookeeper-3", needs: NEEDS, plan: |site| plan(site, 3) };

fn plan(site: &Site<'_>, count: usize) -> Result<Plan> {
    let ports = site.ports(count)?;
    let url = format!("zookeeper://{}", addresses(&ports));
    let mut peers = Vec::new();
    for _ in 0..count {
        peers.push((site.port()?, site.port()?));
    }
    let members = peers.iter().enumerate().map(|(n, (data, election))| {
        format!("server.{}=127.0.0.1:{}:{}\n", n + 1, data.number(), election.number())
    });
    let members: String = if count > 1 { members.collect() } else { String::new() };
    let main = if count > 1 { "quorum.QuorumPeerMain" } else { "ZooKeeperServerMain" };
    let mut nodes = Vec::new();
    for (n, (port, (data, election))) in ports.into_iter().zip(peers).enumerate() {
        let folder = site.subfolder(&format!("data-{}", n + 1))?;
        site.file(folder.join("myid"), &format!("{}\n", n + 1))?;
        let number = port.number();
        let settings = format!(
            "tickTime=500\nmaxSessionTimeout=300000\ninitLimit=20\nsyncLimit=10\ndataDir={}\nclientPort={number}\n\
             clientPortAddress=127.0.0.1\nadmin.enableServer=false\n4lw.commands.whitelist=*\nmaxClientCnxns=0\n{members}",
            folder.display()
        );
        let settings = site.file(format!("zoo-{}.cfg", n + 1), &settings)?;
        let launch = Launch::new(locate("java").unwrap_or_default())
            .words(&format!("-Xmx128m -cp {CLASSES} org.apache.zookeeper.server.{main}"))
            .arg(settings);
        let mut node = NodePlan::new(port, launch, serves);
        node.inner_ports = vec![data, election];
        nodes.push(node);
    }
    Ok(Plan { url, nodes, form: None, formed: None })
}

/// A node without a quorum says that it isn't serving.
fn serves(port: u16) -> Result<(), String> {
    ask(port, b"srvr", |answer| contains(answer, b"Mode: ")).map(drop)
}
