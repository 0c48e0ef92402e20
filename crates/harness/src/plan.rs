//! What an engine's file says: which processes, with which arguments, and when they are ready.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::error::{Error, Result};
use crate::port::Port;
use crate::process::{Launch, Process, find_user, tail};
use crate::wait::until;

/// `Err` says what is still missing.
pub(crate) type Probe = fn(u16) -> Result<(), String>;
/// Of the nodes on these ports together; `Err` says what is still missing.
pub(crate) type Whole = fn(&[u16]) -> Result<(), String>;
/// Makes a cluster of nodes that run.
pub(crate) type Form = fn(&Site<'_>, &[u16]) -> Result<()>;

/// For one-off commands: `initdb`, `redis-cli --cluster create`.
const SETUP: Duration = Duration::from_secs(60);

/// A server, or a cluster of them.
pub(crate) struct Plan {
    pub(crate) url: String,
    pub(crate) nodes: Vec<NodePlan>,
    /// Called once, at the first start.
    pub(crate) form: Option<Form>,
    /// Whether the nodes make a whole.
    pub(crate) formed: Option<Whole>,
}

/// One server process.
pub(crate) struct NodePlan {
    pub(crate) launch: Launch,
    /// Runs as long as the node does, and listens before it starts.
    pub(crate) companion: Option<(Launch, Port)>,
    /// Where clients connect.
    pub(crate) port: Port,
    /// Held for as long as the node may come back: ports that only its peers use.
    pub(crate) inner_ports: Vec<Port>,
    pub(crate) probe: Probe,
    /// What it understands as a request to end in good order.
    pub(crate) stop: Signal,
}

impl NodePlan {
    pub(crate) fn new(port: Port, launch: Launch, probe: Probe) -> NodePlan {
        NodePlan { launch, companion: None, port, inner_ports: Vec::new(), probe, stop: Signal::SIGTERM }
    }

    /// More words, in which `{port}` and `{peers}` are filled in.
    pub(crate) fn extend(&mut self, words: &[&str]) {
        let peers = self.inner_ports.first().map(|port| port.number().to_string()).unwrap_or_default();
        let own = self.port.number().to_string();
        let filled: Vec<String> =
            words.iter().map(|word| word.replace("{port}", &own).replace("{peers}", &peers)).collect();
        self.launch.extend(&filled);
    }
}

impl Plan {
    pub(crate) fn single(url: String, node: NodePlan) -> Plan {
        Plan { url, nodes: vec![node], form: None, formed: None }
    }
}

/// Where an engine is being set up.
pub(crate) struct Site<'a> {
    pub(crate) engine: &'static str,
    pub(crate) folder: &'a Path,
    pub(crate) sync: Sync,
}

/// What a server does before it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    /// What its users have unless they say otherwise.
    ByDefault,
    /// It hands what it answers to the operating system, and leaves the disk to that.
    Never,
}

impl Site<'_> {
    /// The words that keep a server from waiting for the disk, if that was asked for.
    pub(crate) fn unsynced(&self, words: &'static str) -> &'static str {
        if self.sync == Sync::Never { words } else { "" }
    }
}

impl Site<'_> {
    pub(crate) fn port(&self) -> Result<Port> {
        Port::free().map_err(|failure| Error::io(self.engine, "gets no port", failure))
    }

    pub(crate) fn ports(&self, count: usize) -> Result<Vec<Port>> {
        (0..count).map(|_| self.port()).collect()
    }

    /// A new folder in the engine's own.
    pub(crate) fn subfolder(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        fs::create_dir_all(&path).map_err(|failure| self.failed(&path, failure))?;
        Ok(path)
    }

    /// A new file in the engine's folder, or in one within it.
    pub(crate) fn file(&self, name: impl AsRef<Path>, text: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        fs::write(&path, text).map_err(|failure| self.failed(&path, failure))?;
        Ok(path)
    }

    /// For servers that refuse to run as root.
    pub(crate) fn give_to(&self, path: &Path, user: &str) -> Result<()> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        let given =
            find_user(user).and_then(|user| chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())));
        given.map_err(|failure| self.failed(path, failure))
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, launch: &Launch) -> Result<()> {
        let name = launch.program.file_name().unwrap_or_default().to_string_lossy();
        let log = self.folder.join(format!("{name}.log"));
        let failed = |failure| Error::io(self.engine, format!("{name} failed"), failure).log(tail(&log));
        let mut process = Process::spawn(launch, self.folder, &log).map_err(failed)?;
        until(SETUP, || !matches!(process.ended(), Ok(None)));
        let outcome = match process.ended().map_err(failed)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => format!("{name} failed: {status}"),
            None => format!("{name} hasn't ended after {SETUP:?}"),
        };
        Err(Error::new(self.engine, outcome).log(tail(&log)))
    }

    fn failed(&self, path: &Path, failure: std::io::Error) -> Error {
        Error::io(self.engine, format!("can't set up {}", path.display()), failure)
    }
}

/// `127.0.0.1:20001,127.0.0.1:20002`.
pub(crate) fn addresses(ports: &[Port]) -> String {
    let list: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{}", port.number())).collect();
    list.join(",")
}
