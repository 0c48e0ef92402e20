//! `cargo xtask engines`: the servers that the tests run on, installed, started, stopped, and listed.

mod install;
mod up;

use std::path::PathBuf;

use clap::Subcommand;
use linchpin_harness::{ENGINES, Engine, find};

use crate::{Failure, root};

#[derive(Subcommand)]
pub(crate) enum Task {
    /// Install servers: Debian's packages with apt-get (as root, or with sudo), jars with Maven; no service is started
    Install {
        /// Engines, as `status` lists them; all of them without it
        names: Vec<String>,
    },
    /// Start servers in fresh folders on 127.0.0.1, until Ctrl-C
    Up {
        /// Engines, as `status` lists them; all that are installed without it
        names: Vec<String>,
        /// Come back when they are ready, and leave them running until `down`
        #[arg(long)]
        detach: bool,
    },
    /// Stop what `up --detach` started; the data goes with it
    Down,
    /// Which engines this machine has, in which version, and how to get the others
    Status {
        /// Engines; all of them without it
        names: Vec<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(task: Task) -> Result<(), Failure> {
    match task {
        Task::Install { names } => install::run(&select(&names)?),
        Task::Up { names, detach: false } => up::foreground(&installed(&names)?),
        Task::Up { names, detach: true } => up::detach(&installed(&names)?),
        Task::Down => up::down(),
        Task::Status { names, json } => status(&select(&names)?, json),
    }
}

/// Installs those of these engines that this machine doesn't have.
pub(crate) fn install_missing(names: &[&str]) -> Result<(), Failure> {
    let missing: Vec<_> =
        names.iter().filter_map(|name| find(name)).filter(|e| e.absence().is_some()).collect();
    if missing.is_empty() { Ok(()) } else { install::run(&missing) }
}

/// Where state and logs of detached servers are.
fn folder() -> PathBuf {
    root().join("target/engines")
}

fn select(names: &[String]) -> Result<Vec<&'static Engine>, Failure> {
    if names.is_empty() {
        return Ok(ENGINES.iter().collect());
    }
    let unknown = |name: &String| {
        let known: Vec<&str> = ENGINES.iter().map(|engine| engine.name).collect();
        format!("no engine `{name}`; there are {}", known.join(", "))
    };
    names.iter().map(|name| find(name).ok_or_else(|| unknown(name).into())).collect()
}

/// Those asked for, or whatever is there.
fn installed(names: &[String]) -> Result<Vec<&'static Engine>, Failure> {
    let mut engines = select(names)?;
    if names.is_empty() {
        engines.retain(|engine| engine.absence().is_none());
    }
    for engine in &engines {
        if let Some(absence) = engine.absence() {
            return Err(format!("{}: {absence}", engine.name).into());
        }
    }
    if engines.is_empty() {
        Err("no engine is installed; cargo xtask engines install".into())
    } else {
        Ok(engines)
    }
}

fn status(engines: &[&'static Engine], json: bool) -> Result<(), Failure> {
    if json {
        let rows: Vec<serde_json::Value> = engines.iter().map(|engine| row(engine)).collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    for engine in engines {
        let state = match (engine.external(), engine.absence()) {
            (Some(_), _) => format!("runs elsewhere: {} is set", engine.url_variable()),
            (None, Some(absence)) => format!("missing: {absence}"),
            (None, None) => engine.version().unwrap_or_else(|| "installed".to_owned()),
        };
        println!("{:<14} {state}", engine.name);
    }
    up::print_detached()
}

fn row(engine: &Engine) -> serde_json::Value {
    let absence = engine.absence();
    serde_json::json!({
        "engine": engine.name,
        "installed": absence.is_none(),
        "version": engine.version(),
        "missing": absence.map(|absence| absence.to_string()),
        "external": engine.external().is_some(),
        "packages": engine.needs.packages,
        "variable": engine.url_variable(),
    })
}
