//! `cargo xtask engines up` and `down`.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use linchpin_harness::{Engine, Running, started_at};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::engines::folder;

/// Tells the detached program that it is the one, and where to say that it is ready.
const STATE: &str = "LINCHPIN_ENGINES_STATE";
/// For all engines together to stop, each of which gets 15 s.
const DOWN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

/// A detached `up`, and what it runs.
#[derive(Serialize, Deserialize)]
struct State {
    pid: u32,
    /// With the pid, tells the process from a later one of the same number.
    started: u64,
    engines: Vec<Row>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    engine: String,
    url: String,
    pids: Vec<u32>,
    folder: Option<PathBuf>,
}

pub(crate) fn foreground(engines: &[&'static Engine]) -> Result<(), Failure> {
    let mut running = Vec::new();
    for engine in engines {
        eprintln!("starting {}", engine.name);
        running.push(engine.start()?);
    }
    let rows: Vec<Row> = engines.iter().zip(&running).map(|(engine, running)| row(engine, running)).collect();
    print(&rows);
    // Until here a signal ends this program as any other, and the servers go with it.
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block()?;
    match std::env::var_os(STATE) {
        Some(path) => publish(&PathBuf::from(path), rows)?,
        None => println!("Ctrl-C stops them, and removes their data"),
    }
    signals.wait()?;
    eprintln!("stopping");
    running.iter().filter(|running| running.is_ours()).try_for_each(Running::stop)?;
    Ok(())
}

/// Starts this program again, on its own, and waits until it has said that everything is ready.
pub(crate) fn detach(engines: &[&'static Engine]) -> Result<(), Failure> {
    if let Some(state) = detached()? {
        let names: Vec<&str> = state.engines.iter().map(|row| row.engine.as_str()).collect();
        return Err(
            format!("{} run already; stop them first: cargo xtask engines down", names.join(", ")).into()
        );
    }
    fs::create_dir_all(folder())?;
    let log = folder().join("up.log");
    let out = File::create(&log)?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(["engines", "up"])
        .args(engines.iter().map(|engine| engine.name))
        .env(STATE, state_file())
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()?;
    loop {
        if let Some(state) = detached()? {
            print(&state.engines);
            println!("cargo xtask engines down stops them, and removes their data");
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            let said = fs::read_to_string(&log)?;
            return Err(format!("they didn't start ({status}):\n{said}").into());
        }
        thread::sleep(PAUSE);
    }
}

/// Asks the detached program to end, and kills it if it doesn't: then the servers go all the same.
pub(crate) fn down() -> Result<(), Failure> {
    let Some(state) = detached()? else {
        println!("nothing runs detached");
        return Ok(());
    };
    signal(&state, Signal::SIGTERM)?;
    let asked = Instant::now();
    let mut killed = false;
    while started_at(state.pid) == Some(state.started) {
        if asked.elapsed() > DOWN && !killed {
            signal(&state, Signal::SIGKILL)?;
            killed = true;
        }
        thread::sleep(PAUSE);
    }
    fs::remove_file(state_file())?;
    for row in state.engines {
        println!("{:<14} stopped", row.engine);
    }
    Ok(())
}

pub(crate) fn print_detached() -> Result<(), Failure> {
    if let Some(state) = detached()? {
        println!("\nrunning detached:");
        print(&state.engines);
    }
    Ok(())
}

/// What runs detached: the recorded process, if it is still that one.
fn detached() -> Result<Option<State>, Failure> {
    let text = match fs::read_to_string(state_file()) {
        Ok(text) => text,
        Err(failure) if failure.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(failure) => return Err(failure.into()),
    };
    let state: State = serde_json::from_str(&text)?;
    Ok(Some(state).filter(|state| started_at(state.pid) == Some(state.started)))
}

fn signal(state: &State, signal: Signal) -> Result<(), Failure> {
    match kill(Pid::from_raw(i32::try_from(state.pid)?), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(format!("can't stop process {}: {errno}", state.pid).into()),
    }
}

fn state_file() -> PathBuf {
    folder().join("up.json")
}

/// In one step, so that nobody reads half of it.
fn publish(path: &PathBuf, engines: Vec<Row>) -> Result<(), Failure> {
    let pid = std::process::id();
    let started = started_at(pid).ok_or("this process isn't in /proc")?;
    let partial = path.with_extension("partial");
    fs::write(&partial, serde_json::to_vec_pretty(&State { pid, started, engines })?)?;
    Ok(fs::rename(partial, path)?)
}

fn row(engine: &Engine, running: &Running) -> Row {
    Row {
        engine: engine.name.to_owned(),
        url: running.url().to_owned(),
        pids: running.nodes().iter().filter_map(linchpin_harness::Node::pid).collect(),
        folder: running.folder().map(ToOwned::to_owned),
    }
}

fn print(rows: &[Row]) {
    println!("{:<14} {:<48} {:<16} DATA", "ENGINE", "URL", "PID");
    for Row { engine, url, pids, folder } in rows {
        let pids = pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let folder =
            folder.as_ref().map_or_else(|| "(elsewhere)".to_owned(), |path| path.display().to_string());
        println!("{engine:<14} {url:<48} {pids:<16} {folder}");
    }
}
