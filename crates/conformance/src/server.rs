//! Real servers under the cells: one of a kind for all of them, and others for those that kill theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use linchpin_harness::{Engine, Link, Node, Running, find};
use tokio::task::spawn_blocking;

/// A server that was started, or why it wasn't.
type Started = Arc<OnceLock<Result<Arc<Running>, String>>>;

/// What runs, by the name of the engine and the role it was started for.
static RUNNING: Mutex<BTreeMap<(&str, Role), Started>> = Mutex::new(BTreeMap::new());

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    /// Many cells use it at once, and none harms it.
    Shared,
    /// One cell at a time has it to itself.
    Victim,
}

/// Why this machine can't have the engine; `None` if it can, or a URL of a running one was given.
pub(crate) fn absence(engine: &str) -> Option<String> {
    let engine = known(engine);
    if engine.external().is_some() { None } else { engine.absence().map(|absence| absence.to_string()) }
}

/// Whether it can be had by installing it.
pub(crate) fn is_installable(engine: &str) -> bool {
    known(engine).is_installable()
}

/// Why this machine can't start one of its own.
pub(crate) fn victim_absence(engine: &str) -> Option<String> {
    let engine = known(engine);
    let elsewhere = || format!("it runs elsewhere ({} is set), so it can't be killed", engine.url_variable());
    engine.absence().map(|absence| absence.to_string()).or_else(|| engine.external().map(|_| elsewhere()))
}

fn known(engine: &str) -> &'static Engine {
    find(engine).unwrap_or_else(|| panic!("the harness has no engine {engine}"))
}

/// The server that all cells of this engine share.
pub(crate) fn shared(engine: &'static str) -> Arc<Running> {
    started(engine, Role::Shared)
}

fn started(engine: &'static str, role: Role) -> Arc<Running> {
    let slot = lock(&RUNNING).entry((engine, role)).or_default().clone();
    let running =
        slot.get_or_init(|| known(engine).start_unsynced().map(Arc::new).map_err(|e| e.to_string()));
    running.clone().unwrap_or_else(|failure| panic!("{failure}"))
}

/// How many servers may be harmed at a time: a machine that starts many at once makes all of them late.
const HARMED: usize = 3;
/// Those that are.
static IN_TURN: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
static NEXT: Condvar = Condvar::new();

/// The right to harm the engine's server, until it is dropped.
pub(crate) struct Turn(&'static str);

/// Waits until nobody else harms this engine's server, nor too many others'.
pub(crate) fn turn(engine: &'static str) -> Turn {
    let mut harmed = lock(&IN_TURN);
    while harmed.contains(engine) || harmed.len() >= HARMED {
        harmed = NEXT.wait(harmed).unwrap_or_else(PoisonError::into_inner);
    }
    harmed.insert(engine);
    Turn(engine)
}

impl Drop for Turn {
    fn drop(&mut self) {
        lock(&IN_TURN).remove(self.0);
        NEXT.notify_all();
    }
}

/// Ends every server.
pub(crate) fn stop_all() {
    lock(&RUNNING).clear();
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A server that one case has to itself, to do it harm. It is mended for the next case when this is dropped.
pub(crate) struct Victim {
    running: Arc<Running>,
    link: Option<Link>,
}

impl Victim {
    /// The caller sees to it that nobody else has it. With `link`, the way to it can be cut.
    pub(crate) fn take(engine: &'static str, link: bool) -> Self {
        let running = started(engine, Role::Victim);
        let link = link.then(|| Link::to(running.nodes()[0].port()).unwrap());
        Self { running, link }
    }

    /// Where clients find it: behind the link if there is one.
    pub(crate) fn url(&self) -> String {
        let port = self.running.nodes()[0].port();
        match &self.link {
            Some(link) => self.running.url().replace(&format!(":{port}"), &format!(":{}", link.port())),
            None => self.running.url().to_owned(),
        }
    }

    /// SIGKILL.
    pub(crate) async fn kill(&self) {
        self.act(|running| running.kill()).await;
    }

    /// On the same data and ports; ready when this returns.
    pub(crate) async fn restart(&self) {
        self.act(|running| running.restart()).await;
    }

    /// SIGSTOP: connections stay open, and nobody answers.
    pub(crate) async fn freeze(&self) {
        self.act(|running| running.freeze()).await;
    }

    /// SIGCONT.
    pub(crate) async fn thaw(&self) {
        self.act(|running| running.thaw()).await;
    }

    /// Closes every connection, and every new one.
    pub(crate) fn cut(&self) {
        self.link().cut();
    }

    /// Lets new connections through again.
    pub(crate) fn mend(&self) {
        self.link().mend();
    }

    /// The next request that contains this is carried out, and its answer lost with the connection.
    pub(crate) fn lose_an_answer(&self, request: &str) {
        self.link().lose_answer(request.as_bytes());
    }

    /// Whether the answer was lost.
    pub(crate) fn was_answer_lost(&self) -> bool {
        self.link().has_lost()
    }

    fn link(&self) -> &Link {
        self.link.as_ref().expect("only where all traffic goes through one address")
    }

    /// How many servers it is made of.
    pub(crate) fn nodes(&self) -> usize {
        self.running.nodes().len()
    }

    /// SIGKILL to one of them.
    pub(crate) async fn kill_node(&self, node: usize) {
        self.act(move |running| running.nodes()[node].kill()).await;
    }

    /// On the same data and port; ready when this returns.
    pub(crate) async fn restart_node(&self, node: usize) {
        self.act(move |running| running.nodes()[node].restart()).await;
    }

    /// SIGSTOP to one of them.
    pub(crate) fn freeze_node(&self, node: usize) {
        self.running.nodes()[node].freeze().unwrap();
    }

    /// SIGCONT to one of them.
    pub(crate) fn thaw_node(&self, node: usize) {
        self.running.nodes()[node].thaw().unwrap();
    }

    /// Which of them are replicas of others, as Redis tells it.
    pub(crate) async fn replicas(&self) -> Vec<usize> {
        let running = self.running.clone();
        let is_replica = |node: &Node| {
            let role = linchpin_harness::wire::ask(node.port(), b"ROLE\r\nPING\r\n", |answer| {
                answer.ends_with(b"+PONG\r\n")
            });
            // Others than Redis don't answer this.
            role.is_ok_and(|role| linchpin_harness::wire::contains(&role, b"slave"))
        };
        let replicas = spawn_blocking(move || {
            let nodes = running.nodes().iter().enumerate();
            nodes.filter(|(_, node)| is_replica(node)).map(|(n, _)| n).collect()
        });
        replicas.await.unwrap()
    }

    /// Until every server answers, and a cluster is whole.
    pub(crate) async fn whole(&self) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let running = self.running.clone();
            if spawn_blocking(move || running.is_ready()).await.unwrap() {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "the servers aren't whole after 60 s");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn act(&self, action: impl FnOnce(&Running) -> linchpin_harness::Result<()> + Send + 'static) {
        let running = self.running.clone();
        spawn_blocking(move || action(&running)).await.unwrap().unwrap();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // What is frozen can't be asked whether it is ready; what isn't frozen doesn't mind.
        let _ = self.running.thaw();
        if !self.running.is_ready() {
            let _ = self.running.restart();
        }
    }
}
