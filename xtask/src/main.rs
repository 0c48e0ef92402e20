//! The project's chores: `cargo xtask test`, `matrix`, `engines`, `bench`.

mod bench;
mod engines;
mod matrix;
mod test;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Why a chore failed, for whoever started it.
type Failure = Box<dyn std::error::Error>;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's chores", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Everything that must be well before a change goes in: format, lints, docs, tests, conformance, matrix
    Test {
        /// Only format, lints and unit tests
        #[arg(long)]
        quick: bool,
        /// Also start, kill, freeze and restart every engine of this machine
        #[arg(long, conflicts_with = "quick")]
        engines: bool,
        /// Install the servers that are missing, and take a case that can't be run for failed
        #[arg(long, conflicts_with = "quick")]
        require_all: bool,
    },
    /// Write docs/matrix.json, docs/matrix.md and the expected outcomes from the last conformance run
    Matrix {
        /// Write nothing; fail if a cell isn't as expected, or a file isn't what would be written
        #[arg(long)]
        check: bool,
        /// With --check: a cell that wasn't run fails, too
        #[arg(long, requires = "check")]
        require_all: bool,
    },
    /// The servers the tests run on: install, up, down, status
    Engines {
        #[command(subcommand)]
        task: engines::Task,
    },
    /// Measure, in a release build; the benches write docs/performance.*
    Bench {
        /// One claim; all of them without it
        name: Option<String>,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().chore {
        Chore::Test { quick, engines, require_all } => test::run(quick, engines, require_all),
        Chore::Matrix { check: true, require_all } => matrix::check(require_all),
        Chore::Matrix { check: false, .. } => matrix::write(),
        Chore::Engines { task } => engines::run(task),
        Chore::Bench { name } => bench::run(name.as_deref()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("\nxtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// The folder of the workspace.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Where this build's artifacts are: this program is `<target>/<profile>/xtask`.
fn target() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2).ok_or("this program isn't in a target folder")?;
    Ok(target.to_owned())
}
