//! An engine that runs.

use std::path::Path;
use std::thread;

use tempfile::TempDir;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::node::{Node, START};
use crate::plan::{Plan, Site, Sync, Whole};
use crate::wait::until;

/// An engine that runs, until this is dropped: then its servers end and their folder goes.
pub struct Running {
    engine: &'static Engine,
    url: String,
    nodes: Vec<Node>,
    formed: Option<Whole>,
    /// Behind the nodes, so that they are gone before it goes.
    folder: Option<TempDir>,
}

impl Running {
    /// Somebody else's server.
    pub(crate) fn external(engine: &'static Engine, url: String) -> Running {
        Running { engine, url, nodes: Vec::new(), formed: None, folder: None }
    }

    pub(crate) fn start(engine: &'static Engine, sync: Sync, words: &[&str]) -> Result<Running> {
        let prefix = format!("linchpin-{}-", engine.name);
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir();
        let folder = folder.map_err(|failure| Error::io(engine.name, "gets no folder", failure))?;
        let site = Site { engine: engine.name, folder: folder.path(), sync };
        let Plan { url, mut nodes, form, formed } = (engine.plan)(&site)?;
        nodes.iter_mut().for_each(|node| node.extend(words));
        let alone = nodes.len() == 1;
        let name =
            |n: usize| if alone { engine.name.to_owned() } else { format!("{} {}", engine.name, n + 1) };
        let nodes = nodes.into_iter().enumerate();
        let nodes: Vec<Node> = nodes.map(|(n, plan)| Node::new(name(n), folder.path(), plan)).collect();
        let form = form.map(|form| (form, folder.path().to_owned()));
        let running = Running { engine, url, nodes, formed, folder: Some(folder) };
        running.launch()?;
        if let Some((form, folder)) = form {
            form(&Site { engine: engine.name, folder: &folder, sync }, &running.ports())?;
        }
        running.await_formed()?;
        Ok(running)
    }

    /// What engines of that name are opened with; a cluster's has all its addresses.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its servers; empty when they aren't ours.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The clients' ports of its servers.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(Node::port).collect()
    }

    /// Where its data and logs are; `None` when it isn't ours.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_ref().map(TempDir::path)
    }

    /// Whether it was started here: only then can it be stopped, killed, frozen and restarted.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.folder.is_some()
    }

    /// Whether every server answers now, and a cluster is whole. Of somebody else's server nothing is known.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_ours() && self.nodes.iter().all(Node::is_ready) && self.missing().is_none()
    }

    /// Ends every server in good order, or kills it if that takes more than 15 s. The data stays.
    ///
    /// # Errors
    /// When it isn't ours, or outlives even that.
    pub fn stop(&self) -> Result<()> {
        self.each(Node::stop)
    }

    /// SIGKILL to every server and its children; back when they are gone. The data stays.
    ///
    /// # Errors
    /// When it isn't ours, or outlives even that.
    pub fn kill(&self) -> Result<()> {
        self.each(Node::kill)
    }

    /// SIGSTOP to every server: connections stay open, and nobody answers on them.
    ///
    /// # Errors
    /// When it isn't ours, or isn't running.
    pub fn freeze(&self) -> Result<()> {
        self.each(Node::freeze)
    }

    /// SIGCONT to every server.
    ///
    /// # Errors
    /// When it isn't ours, or isn't running.
    pub fn thaw(&self) -> Result<()> {
        self.each(Node::thaw)
    }

    /// Stops what runs, and starts everything on the same data and ports; back when it is ready.
    ///
    /// # Errors
    /// When it isn't ours, or a server ends instead, or isn't ready within 90 s; with the end of its log.
    pub fn restart(&self) -> Result<()> {
        self.each(Node::stop)?;
        self.launch()?;
        self.await_formed()
    }

    /// Nodes of a cluster need one another to be ready: all are launched before one is awaited.
    fn launch(&self) -> Result<()> {
        self.nodes.iter().try_for_each(Node::launch)?;
        self.nodes.iter().try_for_each(Node::await_ready)
    }

    fn await_formed(&self) -> Result<()> {
        let mut missing = None;
        if until(START, || {
            missing = self.missing();
            missing.is_none()
        }) {
            return Ok(());
        }
        let what = format!("isn't whole after {START:?}: {}", missing.unwrap_or_default());
        Err(self.nodes.first().map_or_else(|| Error::new(self.engine.name, &what), |node| node.error(&what)))
    }

    fn missing(&self) -> Option<String> {
        self.formed.and_then(|formed| formed(&self.ports()).err())
    }

    /// At the same time on all nodes: one that has lost its peers can take long to stop.
    fn each(&self, action: fn(&Node) -> Result<()>) -> Result<()> {
        if !self.is_ours() {
            let what = format!(
                "runs elsewhere, so it can't be stopped, killed, frozen or restarted; unset {} to start one",
                self.engine.url_variable()
            );
            return Err(Error::new(self.engine.name, what));
        }
        thread::scope(|scope| {
            let actions: Vec<_> = self.nodes.iter().map(|node| scope.spawn(move || action(node))).collect();
            let panicked = || Error::new(self.engine.name, "the harness panicked");
            actions.into_iter().try_for_each(|action| action.join().unwrap_or_else(|_| Err(panicked())))
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_ours() {
            // A throwaway folder needs no good order; nobody is left to hear of a failure.
            let _ = self.each(Node::kill);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_elses_server_is_used_and_left_alone() {
        let running = Running::external(crate::find("redis").unwrap(), "redis://elsewhere:6379".to_owned());
        assert_eq!(running.url(), "redis://elsewhere:6379");
        assert!(!running.is_ours() && !running.is_ready());
        for action in [Running::stop, Running::kill, Running::freeze, Running::thaw, Running::restart] {
            let error = action(&running).unwrap_err().to_string();
            assert!(error.contains("LINCHPIN_TEST_REDIS_URL"), "{error}");
        }
    }
}
