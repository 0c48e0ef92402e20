//! One server process, which can be ended and brought back.

use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::plan::NodePlan;
use crate::process::{Process, tail};
use crate::wait::until;

/// Generous, because a server that died is noticed at once: this bounds only one that hangs.
pub(crate) const START: Duration = Duration::from_secs(90);
/// What a server gets to end in good order before it is killed.
const STOP: Duration = Duration::from_secs(15);

/// One server of an engine: all of it, or one node of a cluster.
pub struct Node {
    /// The engine's name, with a number in a cluster.
    name: String,
    folder: PathBuf,
    log: PathBuf,
    plan: NodePlan,
    /// The server last, behind its companion; empty when it isn't running.
    processes: Mutex<Vec<Process>>,
}

impl Node {
    pub(crate) fn new(name: String, folder: &Path, plan: NodePlan) -> Node {
        let log = folder.join(format!("{}.log", name.replace(' ', "-")));
        Node { name, folder: folder.to_owned(), log, plan, processes: Mutex::default() }
    }

    /// Where clients connect, on 127.0.0.1; the same after a restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.plan.port.number()
    }

    /// The process of the server; `None` when it isn't running.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.processes().last().map(Process::id)
    }

    /// Whether it answers now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.pid().is_some() && (self.plan.probe)(self.port()).is_ok()
    }

    /// Ends it in good order, or kills it if that takes more than 15 s; its data stays.
    ///
    /// # Errors
    /// When it outlives even that.
    pub fn stop(&self) -> Result<()> {
        let mut processes = self.processes();
        while let Some(mut process) = processes.pop() {
            process.stop(self.plan.stop, STOP).map_err(|failure| self.failed("can't be stopped", failure))?;
        }
        Ok(())
    }

    /// SIGKILL, to it and all its children; back when they are gone. Its data stays.
    ///
    /// # Errors
    /// When it outlives even that.
    pub fn kill(&self) -> Result<()> {
        let mut processes = self.processes();
        while let Some(mut process) = processes.pop() {
            process.kill().map_err(|failure| self.failed("can't be killed", failure))?;
        }
        Ok(())
    }

    /// SIGSTOP: its connections stay open, and nobody answers on them.
    ///
    /// # Errors
    /// When it isn't running.
    pub fn freeze(&self) -> Result<()> {
        let mut processes = self.processes();
        let process = processes.last_mut().ok_or_else(|| Error::new(&self.name, "isn't running"))?;
        process.freeze().map_err(|failure| self.failed("can't be frozen", failure))
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it isn't running.
    pub fn thaw(&self) -> Result<()> {
        let mut processes = self.processes();
        let process = processes.last_mut().ok_or_else(|| Error::new(&self.name, "isn't running"))?;
        process.thaw().map_err(|failure| self.failed("can't be thawed", failure))
    }

    /// Stops it if it runs, and starts it on the same data and port; back when it answers.
    ///
    /// # Errors
    /// When it ends instead, or doesn't answer within 90 s; with the end of its log.
    pub fn restart(&self) -> Result<()> {
        self.stop()?;
        self.launch()?;
        self.await_ready()
    }

    pub(crate) fn launch(&self) -> Result<()> {
        let mut processes = self.processes();
        if let Some((companion, port)) = &self.plan.companion {
            let spawned = Process::spawn(companion, &self.folder, &self.log);
            processes.push(spawned.map_err(|failure| self.failed("can't start its companion", failure))?);
            let listens = || TcpStream::connect((Ipv4Addr::LOCALHOST, port.number())).is_ok();
            if !until(START, listens) {
                return Err(self.error(format!("its companion doesn't listen after {START:?}")));
            }
        }
        let spawned = Process::spawn(&self.plan.launch, &self.folder, &self.log);
        processes.push(spawned.map_err(|failure| self.failed("can't be started", failure))?);
        Ok(())
    }

    pub(crate) fn await_ready(&self) -> Result<()> {
        let mut missing = String::new();
        let mut ended = None;
        until(START, || {
            ended = self.ended();
            missing = (self.plan.probe)(self.port()).err().unwrap_or_default();
            ended.is_some() || missing.is_empty()
        });
        match (ended, missing.as_str()) {
            (Some(how), _) => {
                Err(self.error(format!("ended instead of answering on port {}: {how}", self.port())))
            }
            (None, "") => Ok(()),
            (None, _) => {
                Err(self.error(format!("isn't ready on port {} after {START:?}: {missing}", self.port())))
            }
        }
    }

    /// How its server ended by itself, if it did.
    fn ended(&self) -> Option<String> {
        match self.processes().last_mut()?.ended() {
            Ok(status) => status.map(|status| status.to_string()),
            Err(failure) => Some(failure.to_string()),
        }
    }

    /// With the end of its log.
    pub(crate) fn error(&self, what: impl Into<String>) -> Error {
        Error::new(&self.name, what).log(tail(&self.log))
    }

    fn failed(&self, what: &str, failure: io::Error) -> Error {
        let program = self.plan.launch.program.display();
        Error::io(&self.name, format!("{what} ({program})"), failure).log(tail(&self.log))
    }

    fn processes(&self) -> MutexGuard<'_, Vec<Process>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::Port;
    use crate::process::Launch;

    #[test]
    fn a_server_that_ends_is_noticed_at_once_and_its_log_told() {
        let folder = tempfile::tempdir().unwrap();
        let launch = Launch::new("/bin/sh").arg("-c").arg("echo no room left; exit 3");
        let plan = NodePlan::new(Port::free().unwrap(), launch, |_| Err("never".to_owned()));
        let node = Node::new("engine 2".to_owned(), folder.path(), plan);
        let error = node.restart().unwrap_err().to_string();
        for part in ["engine 2: ended instead of answering", "exit status: 3", "no room left"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_kill_reaches_children_that_left_the_group() {
        let folder = tempfile::tempdir().unwrap();
        let launch = Launch::new("/bin/sh").arg("-c").arg("setsid sleep 600 & echo $! >child; wait");
        let plan = NodePlan::new(Port::free().unwrap(), launch, |_| Ok(()));
        let node = Node::new("engine".to_owned(), folder.path(), plan);
        node.launch().unwrap();
        let child = || std::fs::read_to_string(folder.path().join("child")).ok()?.trim().parse().ok();
        assert!(until(START, || child().is_some()));
        let lives = || crate::started_at(child().unwrap()).is_some();
        assert!(lives());
        node.kill().unwrap();
        assert!(!lives() && node.pid().is_none());
    }
}
