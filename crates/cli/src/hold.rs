//! `linchpin lock run` and `linchpin elect`: a command that runs while something is held.

use std::future::Future;
use std::io::{IsTerminal, stdin};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use clap::{Args, Subcommand};
use linchpin::coord::{DEFAULT_TTL, Rev, Session};
use linchpin::{Error, Kind, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command as Program};
use tokio::time::timeout;

use crate::{Interrupts, open_coord, out};

/// Not held in time, or not any more: sysexits' "temporary failure".
const NOT_HELD: u8 = 75;
/// How long a command that somebody interrupts may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// What can be done with locks.
#[derive(Debug, Subcommand)]
pub(crate) enum LockCommand {
    /// Run a command while holding a lock
    #[command(after_help = RUN)]
    Run(RunArgs),
}

const RUN: &str = "\
Examples:
  linchpin lock run etcd://10.0.0.5:2379 nightly-report -- ./report.sh
  linchpin lock run redis://10.0.0.5 orders/42 --wait 10s -- sh -c 'echo \"token $LINCHPIN_LOCK_TOKEN\"'

The command finds the fencing token in LINCHPIN_LOCK_TOKEN: larger than that of every holder before. Have
what it writes to refuse smaller ones. It runs in a process group of its own, without the terminal's
input. When the lock is lost, the group gets SIGTERM, and SIGKILL a tenth of --ttl later, when the lease
may end.

Exit code: the command's own; 128 and the signal's number if one ended it; 75 if the lock wasn't free in
time or was lost.";

const ELECT: &str = "\
Examples:
  linchpin elect etcd://10.0.0.5:2379 scheduler --value $(hostname) -- ./scheduler

It waits until it is elected, and runs the command while it leads. The command finds the fencing token in
LINCHPIN_LOCK_TOKEN. What happens when leadership is lost, and the exit code, is as `linchpin lock run` says.";

/// Under what, and what to run.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The engine, for example sqlite:shop.db
    url: String,
    /// The lock
    name: String,
    /// Give up if it isn't free after so long, for example 10s; 0s tries once. Default: wait
    #[arg(long, value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
    #[command(flatten)]
    held: HeldArgs,
}

/// What to run as a leader.
#[derive(Debug, Args)]
#[command(after_help = ELECT)]
pub(crate) struct ElectArgs {
    /// The engine, for example sqlite:shop.db
    url: String,
    /// The election
    name: String,
    /// What others see of the leader. Default: the process number
    #[arg(long)]
    value: Option<String>,
    #[command(flatten)]
    held: HeldArgs,
}

#[derive(Debug, Args)]
struct HeldArgs {
    /// How long others wait when this machine dies; at least the engine's shortest lease
    #[arg(long, default_value_t = DEFAULT_TTL.into())]
    ttl: humantime::Duration,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

pub(crate) async fn lock(command: LockCommand) -> Result<ExitCode> {
    let LockCommand::Run(args) = command;
    let session = session(&args.url, args.held.ttl.into()).await?;
    let mut interrupts = Interrupts::listen()?;
    let lock = session.lock(&args.name);
    let acquiring = async {
        match args.wait {
            None => lock.acquire().await.map(Some),
            Some(Duration::ZERO) => lock.try_acquire().await,
            Some(wait) => match lock.acquire_within(wait).await {
                Err(error) if error.kind() == Kind::Timeout => Ok(None),
                other => other.map(Some),
            },
        }
    };
    let guard = tokio::select! {
        acquired = acquiring => acquired?,
        () = interrupts.next() => None,
    };
    let Some(guard) = guard else {
        out::say(format_args!("error: the lock {:?} wasn't free in time", args.name));
        session.close().await?;
        return Ok(ExitCode::from(NOT_HELD));
    };
    let code = run(&args.held, guard.token(), guard.lost(), &mut interrupts).await;
    release(guard.release().await, &session).await;
    code
}

pub(crate) async fn elect(args: ElectArgs) -> Result<ExitCode> {
    let session = session(&args.url, args.held.ttl.into()).await?;
    let mut interrupts = Interrupts::listen()?;
    let value = args.value.unwrap_or_else(|| std::process::id().to_string());
    let election = session.election(&args.name);
    let leadership = tokio::select! {
        elected = election.campaign(value) => elected?,
        () = interrupts.next() => {
            session.close().await?;
            return Ok(ExitCode::from(NOT_HELD));
        }
    };
    out::say(format_args!("leading {:?} with token {}", args.name, leadership.token()));
    let code = run(&args.held, leadership.token(), leadership.lost(), &mut interrupts).await;
    release(leadership.resign().await, &session).await;
    code
}

async fn session(url: &str, ttl: Duration) -> Result<Session> {
    open_coord(url).await?.session(ttl).await
}

/// The command has ended: what can't be released ends with the lease.
async fn release(released: Result<()>, session: &Session) {
    let closed = session.close().await;
    // That it was lost has been said.
    if let Err(error) = released.and(closed)
        && error.kind() != Kind::Fenced
    {
        out::error(&error);
    }
}

/// Runs the command until it ends, is interrupted, or what it runs under is lost.
async fn run(
    args: &HeldArgs,
    token: Rev,
    lost: impl Future<Output = Error>,
    interrupts: &mut Interrupts,
) -> Result<ExitCode> {
    let [program, arguments @ ..] = args.command.as_slice() else {
        return Err(Error::new(Kind::Invalid, "there is no command").help("name one after --"));
    };
    let mut command = Program::new(program);
    command.args(arguments).env("LINCHPIN_LOCK_TOKEN", token.to_string()).process_group(0).kill_on_drop(true);
    if stdin().is_terminal() {
        command.stdin(Stdio::null());
    }
    let mut child = command.spawn().map_err(|e| {
        Error::new(Kind::Invalid, format!("can't run {program:?}")).help("name a program after --").source(e)
    })?;
    let wait_failed = |e| Error::new(Kind::Unexpected, "can't wait for the command").source(e);
    tokio::select! {
        ended = child.wait() => Ok(code(ended.map_err(wait_failed)?)),
        () = interrupts.next() => Ok(code(stop(&mut child, PATIENCE).await.map_err(wait_failed)?)),
        why = lost => {
            out::error(&why);
            let margin = Duration::from(args.ttl) / 10;
            stop(&mut child, margin).await.map_err(wait_failed)?;
            Ok(ExitCode::from(NOT_HELD))
        }
    }
}

/// SIGTERM, and SIGKILL if it hasn't ended after `patience`; to all of its process group.
async fn stop(child: &mut Child, patience: Duration) -> std::io::Result<ExitStatus> {
    let signal = |child: &Child, signal| {
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It may have ended just now.
            let _ = killpg(Pid::from_raw(pid), signal);
        }
    };
    signal(child, Signal::SIGTERM);
    if let Ok(ended) = timeout(patience, child.wait()).await {
        return ended;
    }
    signal(child, Signal::SIGKILL);
    child.wait().await
}

fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}
