//! A process this program started, and everything that process started.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{self, Signal};
use nix::unistd::{Pid, User};

use crate::wait::until;

/// Waits for the end of its input, which is the end of the program that holds the other end, then kills the process
/// `$1` with all its descendants and removes the folder `$2`.
const GUARD: &str = r#"
tree() { for child in $(cat /proc/"$1"/task/*/children 2>/dev/null); do tree "$child"; done; echo "$1"; }
read -r _
kill -KILL $(tree "$1") 2>/dev/null
rm -rf "$2"
"#;
const LOG_TAIL_BYTES: u64 = 16 * 1024;
const LOG_TAIL_LINES: usize = 20;
/// How long a request to stop is given before it is repeated: a Redis that is rewriting its log forgets the first.
const INSISTENCE: Duration = Duration::from_secs(1);
/// A killed process is gone once the kernel has freed its memory.
const DEATH: Duration = Duration::from_secs(10);

/// How a process is started, as often as needed.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(String, OsString)>,
    /// Who runs it when root asks; everyone else runs it as themselves.
    pub(crate) user: Option<&'static str>,
}

impl Launch {
    pub(crate) fn new(program: impl Into<PathBuf>) -> Launch {
        Launch { program: program.into(), args: Vec::new(), env: Vec::new(), user: None }
    }

    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Launch {
        self.args.push(arg.into());
        self
    }

    /// Words without spaces in them, split at white space.
    pub(crate) fn words(mut self, words: &str) -> Launch {
        self.args.extend(words.split_whitespace().map(OsString::from));
        self
    }

    /// More words, as they are.
    pub(crate) fn extend(&mut self, words: &[String]) {
        self.args.extend(words.iter().map(OsString::from));
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Launch {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn user(mut self, user: &'static str) -> Launch {
        self.user = Some(user);
        self
    }

    /// In a process group of its own, so that a Ctrl-C on the terminal reaches this program alone.
    pub(crate) fn command(&self, folder: &Path, log: &Path) -> io::Result<Command> {
        let out = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        command.current_dir(folder).process_group(0);
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        if let Some(user) = self.user.filter(|_| nix::unistd::geteuid().is_root()) {
            let user = find_user(user)?;
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        Ok(command)
    }
}

/// The user of that name.
pub(crate) fn find_user(name: &str) -> io::Result<User> {
    User::from_name(name)?
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no user `{name}` here")))
}

/// SIGSTOP to a process that a test started by itself. A signal takes a while to reach every thread: none of them runs any
/// more when this returns.
///
/// # Errors
/// When there is no such process, or it doesn't stop.
pub fn freeze(pid: u32) -> io::Result<()> {
    send(pid, Signal::SIGSTOP)?;
    if until(DEATH, || is_halted(pid)) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("process {pid} outlives SIGSTOP")))
}

/// Running, until it is killed, stopped or dropped; dies with this program.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    guard: Child,
    ended: Option<ExitStatus>,
}

impl Process {
    /// The guard removes `folder` when this program dies without cleaning up.
    pub(crate) fn spawn(launch: &Launch, folder: &Path, log: &Path) -> io::Result<Process> {
        let mut child = launch.command(folder, log)?.spawn()?;
        let guard = Command::new("/bin/sh")
            .args(["-c", GUARD, "guard", &child.id().to_string()])
            .arg(folder)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match guard {
            Ok(guard) => Ok(Process { child, guard, ended: None }),
            Err(failure) => {
                child.kill()?;
                child.wait()?;
                Err(failure)
            }
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() && has_exited(self.child.id()) {
            self.reap()?;
        }
        Ok(self.ended)
    }

    /// The guard knows the pid, so it goes before the pid is free for others.
    fn reap(&mut self) -> io::Result<()> {
        self.guard.kill()?;
        self.guard.wait()?;
        self.ended = Some(self.child.wait()?);
        Ok(())
    }

    /// Asks with `signal`, waits, and kills what is still there after `patience`.
    pub(crate) fn stop(&mut self, signal: Signal, patience: Duration) -> io::Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        self.thaw()?;
        let pid = self.child.id();
        let family = descendants(pid);
        let asked = Instant::now();
        while asked.elapsed() < patience {
            send(pid, signal)?;
            if until(INSISTENCE, || has_exited(pid)) {
                self.reap()?;
                return end_all(&family);
            }
        }
        self.kill()
    }

    /// SIGKILL, to it and all its descendants; back when they are gone.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        let family = self.halt()?;
        send(self.child.id(), Signal::SIGKILL)?;
        self.reap()?;
        end_all(&family)
    }

    /// SIGSTOP, to it and all its descendants; nothing of them runs any more when this returns.
    pub(crate) fn freeze(&mut self) -> io::Result<()> {
        let family = self.halt()?;
        let pids: Vec<u32> = family.into_keys().chain([self.child.id()]).collect();
        if until(DEATH, || pids.iter().all(|pid| is_halted(*pid))) {
            return Ok(());
        }
        let runs = pids.iter().find(|pid| !is_halted(**pid));
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("of the processes, {runs:?} outlives SIGSTOP")))
    }

    /// Stops the parents before it looks for children, until there are no new ones.
    fn halt(&mut self) -> io::Result<Family> {
        send(self.child.id(), Signal::SIGSTOP)?;
        let mut halted = Family::new();
        loop {
            let mut new = descendants(self.child.id());
            new.retain(|pid, _| !halted.contains_key(pid));
            if new.is_empty() {
                return Ok(halted);
            }
            for (pid, started) in new {
                send(pid, Signal::SIGSTOP)?;
                halted.insert(pid, started);
            }
        }
    }

    /// SIGCONT, to it and all its descendants.
    pub(crate) fn thaw(&mut self) -> io::Result<()> {
        for pid in descendants(self.child.id()).into_keys() {
            send(pid, Signal::SIGCONT)?;
        }
        send(self.child.id(), Signal::SIGCONT)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody is left to hear of a failure; the guard dies with its own handle's pipe.
        let _ = self.kill();
    }
}

/// A process that is already gone has what it was to get.
fn send(pid: u32, signal: Signal) -> io::Result<()> {
    match signal::kill(Pid::from_raw(pid.cast_signed()), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Processes by pid, with the time they started, which tells them from later ones of the same pid.
type Family = BTreeMap<u32, u64>;

/// Kills the descendants that outlived their ancestor, and waits for the end of all of them.
fn end_all(family: &Family) -> io::Result<()> {
    let lives = |(pid, started): (&u32, &u64)| started_at(*pid) == Some(*started);
    for (pid, _) in family.iter().filter(|member| lives(*member)) {
        send(*pid, Signal::SIGKILL)?;
    }
    if until(DEATH, || !family.iter().any(lives)) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("of the processes {family:?}, some outlive SIGKILL")))
}

/// A zombie counts as gone: it runs nothing and holds nothing.
fn has_exited(pid: u32) -> bool {
    started_at(pid).is_none()
}

/// Whether none of its threads runs: the signal takes effect only when one of them is scheduled.
fn is_halted(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok()).all(|stat| {
        stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with(['T', 't', 'Z', 'X']))
    })
}

fn descendants(pid: u32) -> Family {
    let mut found = Family::new();
    let mut open = vec![pid];
    while let Some(parent) = open.pop() {
        for child in children(parent) {
            if let Some(started) = started_at(child)
                && found.insert(child, started).is_none()
            {
                open.push(child);
            }
        }
    }
    found
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists =
        threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

/// When the process with this pid started, in clock ticks since boot; `None` when it is gone.
/// With the pid, this tells a process from any later one of the same number.
#[must_use]
pub fn started_at(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(started)
}

/// The last lines of a log, or why there are none.
pub(crate) fn tail(log: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            lines.get(lines.len().saturating_sub(LOG_TAIL_LINES)..).unwrap_or_default().join("\n")
        }
        Err(failure) => format!("(its log can't be read: {failure})"),
    }
}
