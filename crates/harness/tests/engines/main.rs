//! Every engine this machine has is started, killed, frozen, restarted and stopped; the others are reported as not run,
//! and so are all of them without the feature `live`.

// A test program without the standard harness isn't known as one.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod clients;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use linchpin_harness::{ENGINES, Engine, Running, find, started_at};

use clients::Client;

/// Names the engine that a child of this program starts and holds until it is killed.
const CHILD: &str = "LINCHPIN_HARNESS_CHILD";
const PATIENCE: Duration = Duration::from_secs(30);
/// Trials wait more than they work.
const TRIALS_AT_ONCE: usize = 4;
/// Those whose processes differ most: one process, a script's child, processes that leave the process group.
const ORPHANS: [&str; 3] = ["redis", "postgres", "rabbitmq"];

fn main() -> ExitCode {
    if let Ok(name) = std::env::var(CHILD) {
        hold(&name);
    }
    // The slow ones first, so that they don't run alone at the end.
    let trials = ENGINES.iter().rev().map(|engine| trial("lifecycle", engine, lifecycle));
    let orphans =
        ORPHANS.map(|name| trial("dies_with_its_parent", find(name).unwrap(), dies_with_its_parent));
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(TRIALS_AT_ONCE);
    libtest_mimic::run(&arguments, orphans.into_iter().chain(trials).collect()).exit_code()
}

/// Reported as ignored, with the reason, when the engine can't be had here or wasn't asked for.
fn trial(name: &str, engine: &'static Engine, run: fn(&'static Engine) -> Result<(), Failed>) -> Trial {
    let name = format!("{}::{name}", engine.name);
    let external = || format!("{} is set, and it isn't ours to kill", engine.url_variable());
    let absent = || engine.absence().map(|absence| absence.to_string());
    let unasked = (!cfg!(feature = "live")).then(|| "run `cargo xtask test --engines`".to_owned());
    match unasked.or_else(|| engine.external().map(|_| external())).or_else(absent) {
        None => Trial::test(name, move || run(engine)),
        Some(reason) => {
            let reason = format!("not-run: {reason}");
            let failure = reason.clone();
            Trial::test(name, move || Err(failure.into())).with_kind(reason).with_ignored_flag(true)
        }
    }
}

fn lifecycle(engine: &'static Engine) -> Result<(), Failed> {
    let client = clients::of(engine.name);
    let mut clock = Clock::new(engine);
    let running = engine.start()?;
    clock.lap("started");
    check(running.is_ready(), "ready after start")?;
    (client.store)(&running)?;
    clock.lap("stored");

    let pids = pids(&running);
    running.kill()?;
    clock.lap("killed");
    check(pids.iter().all(|&pid| started_at(pid).is_none()), "gone after a kill")?;
    check(!running.is_ready(), "not ready after a kill")?;
    running.restart()?;
    clock.lap("restarted");
    check(running.is_ready(), "ready after a restart")?;
    find_again(&client, &running)?;
    clock.lap("found");

    running.freeze()?;
    check(!running.is_ready(), "not ready while frozen")?;
    running.thaw()?;
    check(eventually(|| running.is_ready()), "ready once thawed")?;
    clock.lap("frozen and thawed");

    if let [_, node, _, ..] = running.nodes() {
        node.kill()?;
        find_again(&client, &running)?;
        clock.lap("served without one node");
        node.restart()?;
        check(eventually(|| running.is_ready()), "whole again")?;
        clock.lap("whole again");
    }

    running.stop()?;
    clock.lap("stopped");
    check(!running.is_ready(), "not ready after a stop")?;

    let folder = running.folder().unwrap().to_owned();
    drop(running);
    clock.lap("dropped");
    nothing_left(&folder)
}

/// What was stored: a replica may be behind, and a cluster may have to elect first.
fn find_again(client: &Client, running: &Running) -> Result<(), Failed> {
    let mut outcome = Ok(());
    eventually(|| {
        outcome = (client.find)(running);
        outcome.is_ok()
    });
    outcome.map_err(Failed::from)
}

/// A child of this program starts the engine and is killed: the engine has to go with it.
fn dies_with_its_parent(engine: &'static Engine) -> Result<(), Failed> {
    let mut child = Command::new(std::env::current_exe()?)
        .env(CHILD, engine.name)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut folder = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut folder)?;
    let folder = PathBuf::from(folder.trim_end());
    let ran = folder.is_dir() && !residents(&folder).is_empty();
    child.kill()?;
    child.wait()?;
    check(ran, "running before its parent dies")?;
    check(eventually(|| residents(&folder).is_empty()), "gone after its parent's death")?;
    check(eventually(|| !folder.exists()), "its folder gone after its parent's death")
}

/// Never returns: its parent kills it.
fn hold(name: &str) -> ! {
    let running = find(name).unwrap().start().unwrap();
    println!("{}", running.folder().unwrap().display());
    let end = std::io::stdin().read_line(&mut String::new());
    panic!("the parent went away: {end:?}");
}

fn nothing_left(folder: &Path) -> Result<(), Failed> {
    check(residents(folder).is_empty(), "without processes at the end")?;
    check(!folder.exists(), "without a folder at the end")
}

/// The processes that work in this folder, or worked there before it was removed.
fn residents(folder: &Path) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    let lives_there = |pid: &u32| {
        std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| {
            let cwd = cwd.to_string_lossy();
            cwd.starts_with(&*folder.to_string_lossy())
        })
    };
    pids.filter(lives_there).collect()
}

fn pids(running: &Running) -> Vec<u32> {
    running.nodes().iter().map(|node| node.pid().unwrap()).collect()
}

fn check(holds: bool, what: &str) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(format!("not {what}").into()) }
}

fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// Says how long each step took.
struct Clock {
    engine: &'static str,
    lap: Instant,
}

impl Clock {
    fn new(engine: &'static Engine) -> Clock {
        Clock { engine: engine.name, lap: Instant::now() }
    }

    fn lap(&mut self, step: &str) {
        eprintln!("{}: {step} in {:.2?}", self.engine, self.lap.elapsed());
        self.lap = Instant::now();
    }
}
