//! The worker processes: started, killed, replaced, stopped.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{join_all, select_all};
use linchpin::{Error, Kind, Result};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;

use super::screen::Screen;
use super::worker::{AGAIN, BUSY, IDLE, Job, Role};

/// How long a kill waits for somebody to be at work.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a worker may take to stop.
const STOP: Duration = Duration::from_secs(15);
/// So many workers may end by themselves before the demo gives up.
const MISHAPS: u32 = 3;

/// All workers. Dropping it kills them; should this process be killed itself, their standard input ends.
#[derive(Debug)]
pub(super) struct Crew {
    job: Job,
    workers: Vec<Worker>,
    redelivered: Arc<AtomicU64>,
    screen: Screen,
    kills: u32,
    mishaps: u32,
}

#[derive(Debug)]
struct Worker {
    role: Role,
    pid: u32,
    child: Child,
    /// Its end is the worker's.
    stdin: ChildStdin,
    busy: watch::Receiver<bool>,
}

impl Crew {
    /// Starts `each` workers of every role.
    ///
    /// # Errors
    /// `Unexpected` if a process can't be started.
    pub(super) async fn start(job: Job, each: u32, screen: Screen) -> Result<Self> {
        let redelivered = Arc::default();
        let mut crew = Self { job, workers: Vec::new(), redelivered, screen, kills: 0, mishaps: 0 };
        for role in Role::ALL {
            for _ in 0..each {
                let worker = crew.spawn(role).await?;
                crew.workers.push(worker);
            }
        }
        Ok(crew)
    }

    async fn spawn(&self, role: Role) -> Result<Worker> {
        let failed = |e| Error::new(Kind::Unexpected, "can't start a worker process").source(e);
        let binary = std::env::current_exe().map_err(failed)?;
        let mut child = Command::new(binary)
            .arg("demo-worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for the parent alone, which then stops them in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let (Some(mut stdin), Some(stdout), Some(stderr), Some(pid)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take(), child.id())
        else {
            return Err(Error::new(Kind::Unexpected, "a worker process ended at once"));
        };
        let job = serde_json::to_string(&Job { role, ..self.job.clone() });
        let job = job.map_err(|e| Error::new(Kind::Unexpected, "the job has no JSON form").source(e))?;
        stdin.write_all(format!("{job}\n").as_bytes()).await.map_err(failed)?;
        let (tell, busy) = watch::channel(false);
        tokio::spawn(listen(BufReader::new(stdout).lines(), tell, self.redelivered.clone()));
        tokio::spawn(forward(BufReader::new(stderr).lines(), self.screen.clone(), role));
        Ok(Worker { role, pid, child, stdin, busy })
    }

    /// Kills a worker with SIGKILL in the middle of its work, and starts another; `false` if none was at work within a
    /// tenth of a second. With `idle` one that waits for work is killed then.
    ///
    /// # Errors
    /// `Unexpected` if the other can't be started.
    pub(super) async fn kill(&mut self, idle: bool) -> Result<bool> {
        // The groups take turns; who is hit is chance.
        let role = if self.kills.is_multiple_of(2) { Role::Stock } else { Role::Tables };
        fastrand::shuffle(&mut self.workers);
        let of_role = self.workers.iter_mut().enumerate().filter(|(_, worker)| worker.role == role);
        let at_work = of_role.map(|(n, worker)| {
            Box::pin(async move {
                // A worker that ended says nothing any more.
                if worker.busy.wait_for(|busy| *busy).await.is_err() {
                    std::future::pending::<()>().await;
                }
                n
            })
        });
        let found = tokio::time::timeout(PATIENCE, select_all(at_work)).await.ok().map(|(n, ..)| n);
        let waiting = || self.workers.iter().position(|worker| worker.role == role).filter(|_| idle);
        let Some(worker) = found.or_else(waiting).and_then(|n| self.workers.get_mut(n)) else {
            return Ok(false);
        };
        let _ = worker.child.start_kill();
        let _ = worker.child.wait().await;
        let killed = worker.pid;
        self.kills += 1;
        let new = self.spawn(role).await?;
        let (group, doing) = (role.group(), if found.is_some() { "in mid-work" } else { "while it waited" });
        let what = format!("{group} worker {killed} killed {doing}, {} takes its place", new.pid);
        self.screen.kill(self.kills, &what);
        if let Some(worker) = self.workers.iter_mut().find(|worker| worker.pid == killed) {
            *worker = new;
        }
        Ok(true)
    }

    /// Replaces workers that ended by themselves.
    ///
    /// # Errors
    /// `Unexpected` if too many did.
    pub(super) async fn tend(&mut self) -> Result<()> {
        for n in 0..self.workers.len() {
            let Some(worker) = self.workers.get_mut(n) else { continue };
            let Ok(Some(status)) = worker.child.try_wait() else { continue };
            let (role, what) = (worker.role, format!("a {} worker ended: {status}", worker.role.group()));
            self.mishaps += 1;
            if self.mishaps > MISHAPS {
                return Err(Error::new(Kind::Unexpected, what).help("its last words are above"));
            }
            self.screen.note(&what);
            let new = self.spawn(role).await?;
            if let Some(worker) = self.workers.get_mut(n) {
                *worker = new;
            }
        }
        Ok(())
    }

    /// How many have been killed.
    pub(super) fn kills(&self) -> u32 {
        self.kills
    }

    /// Deliveries the workers had with an attempt above one. What a worker didn't get round to tell isn't in it.
    pub(super) fn redelivered(&self) -> u64 {
        self.redelivered.load(Ordering::Relaxed)
    }

    /// Lets every worker finish what it has in hand, and leave.
    pub(super) async fn stop(mut self) {
        let stopping = self.workers.drain(..).map(|Worker { mut child, stdin, .. }| async move {
            drop(stdin);
            if tokio::time::timeout(STOP, child.wait()).await.is_err() {
                let _ = child.kill().await;
            }
        });
        join_all(stopping).await;
    }
}

async fn listen(
    mut lines: Lines<BufReader<ChildStdout>>,
    busy: watch::Sender<bool>,
    redelivered: Arc<AtomicU64>,
) {
    while let Ok(Some(line)) = lines.next_line().await {
        match line.as_str() {
            BUSY => drop(busy.send_replace(true)),
            IDLE => drop(busy.send_replace(false)),
            AGAIN => drop(redelivered.fetch_add(1, Ordering::Relaxed)),
            _ => {}
        }
    }
}

/// A worker's words to the person go where the parent's go.
async fn forward(mut lines: Lines<BufReader<ChildStderr>>, screen: Screen, role: Role) {
    while let Ok(Some(line)) = lines.next_line().await {
        screen.note(&format!("{}: {line}", role.group()));
    }
}
