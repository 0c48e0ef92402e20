//! `cargo xtask test`: one step after another, until one fails.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::engines::install_missing;
use crate::{Failure, matrix, root};

struct Step {
    name: &'static str,
    /// What it takes to be left out of a quick run.
    thorough: bool,
    args: &'static [&'static str],
}

/// All of them select the whole workspace, so that its dependencies are built once, with the same features.
const STEPS: [Step; 6] = [
    Step { name: "format", thorough: false, args: &["fmt", "--all", "--check"] },
    Step {
        name: "lints",
        thorough: false,
        args: &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"],
    },
    Step { name: "docs", thorough: true, args: &["doc", "--workspace", "--no-deps"] },
    Step {
        name: "unit tests",
        thorough: false,
        args: &["test", "--no-fail-fast", "--workspace", "--lib", "--bins"],
    },
    Step {
        name: "documentation examples",
        thorough: true,
        args: &["test", "--no-fail-fast", "--workspace", "--doc"],
    },
    Step {
        name: "integration tests and conformance",
        thorough: true,
        args: &["test", "--no-fail-fast", "--workspace", "--test", "*"],
    },
];

const ENGINES: Step = Step {
    name: "engines",
    thorough: true,
    args: &["test", "-p", "linchpin-harness", "--features", "live", "--test", "engines"],
};

/// Tests that start servers of their own. In every step, so that nothing is built twice.
const LIVE: [&str; 2] = ["--features", "linchpin-engines/live,linchpin-cli/full,linchpin-examples/full"];

/// What the test programs said, added up.
#[derive(Default)]
struct Totals {
    passed: u64,
    failed: u64,
}

/// What the suite runs on; what else the harness knows waits for its capability.
const SUITE: [&str; 12] = [
    "redis",
    "redis-cluster",
    "nats",
    "rabbitmq",
    "postgres",
    "mariadb",
    "kafka",
    "kafka-3",
    "etcd",
    "etcd-3",
    "zookeeper",
    "zookeeper-3",
];

pub(crate) fn run(quick: bool, engines: bool, require_all: bool) -> Result<(), Failure> {
    let started = Instant::now();
    let mut totals = Totals::default();
    let outcome = run_steps(quick, engines, require_all, &mut totals);
    println!("\nin {:.0?}", started.elapsed());
    println!("{} passed, {} failed", totals.passed, totals.failed);
    outcome
}

fn run_steps(quick: bool, engines: bool, require_all: bool, totals: &mut Totals) -> Result<(), Failure> {
    if require_all {
        timed("install", || install_missing(&SUITE))?;
    }
    for step in STEPS.iter().filter(|step| !(quick && step.thorough)) {
        timed(step.name, || run_cargo(step, require_all, totals))?;
    }
    if engines {
        timed(ENGINES.name, || run_cargo(&ENGINES, require_all, totals))?;
    }
    if quick { Ok(()) } else { timed("matrix", || matrix::check(require_all)) }
}

fn timed(name: &str, step: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    println!("=== {name}");
    let started = Instant::now();
    let outcome = step();
    let word = if outcome.is_ok() { "ok" } else { "FAILED" };
    println!("=== {name}: {word} in {:.1?}", started.elapsed());
    outcome
}

/// Runs cargo, passes on what it says, and counts the tests.
fn run_cargo(step: &Step, require_all: bool, totals: &mut Totals) -> Result<(), Failure> {
    let mut args = step.args.to_vec();
    if require_all && !matches!(step.args, ["fmt", ..]) {
        // Before what goes to the test programs or to the compiler.
        let place = args.iter().position(|arg| *arg == "--").unwrap_or(args.len());
        args.splice(place..place, LIVE);
    }
    let mut child = Command::new("cargo")
        .args(args)
        .current_dir(root())
        .env("RUSTDOCFLAGS", "-D warnings")
        .envs(require_all.then_some(("LINCHPIN_REQUIRE_ALL", "1")))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufReader::lines) {
        let line = line?;
        totals.add(&line);
        println!("{line}");
    }
    let status = child.wait()?;
    if status.success() {
        return Ok(());
    }
    Err(format!("{} failed; run it alone with: cargo {}", step.name, step.args.join(" ")).into())
}

impl Totals {
    /// Reads `test result: ok. 12 passed; 0 failed; …`.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            match count.split_once(' ') {
                Some((n, "passed")) => self.passed += n.parse().unwrap_or(0),
                Some((n, "failed")) => self.failed += n.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_add_up() {
        let mut totals = Totals::default();
        totals.add(
            "test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out; finished in 1.02s",
        );
        totals.add("test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        totals.add("test five ... ok");
        assert_eq!((totals.passed, totals.failed), (17, 2));
    }
}
