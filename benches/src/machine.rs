//! What the figures were taken on.

use std::fs::read_to_string;
use std::process::{Command, Stdio};

const LOCK: &str = include_str!("../../Cargo.lock");

/// Processor, memory, system and versions, in a line.
pub(crate) fn describe() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = field("/proc/cpuinfo", "model name", ':').unwrap_or_else(|| std::env::consts::ARCH.into());
    let memory =
        field("/proc/meminfo", "MemTotal", ':').and_then(|kib| kib.strip_suffix(" kB")?.parse().ok());
    let memory = memory.map_or(0.0, |kib: f64| kib / f64::from(1 << 20));
    let system = field("/etc/os-release", "PRETTY_NAME", '=').unwrap_or_else(|| std::env::consts::OS.into());
    let kernel = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let versions =
        ["rusqlite", "async-nats", "apalis", "apalis-sqlite"].map(|name| format!("{name} {}", locked(name)));
    format!(
        "{cores} × {cpu}, {memory:.0} GiB, {}, Linux {}; Linchpin {}, SQLite {}, {}, {}",
        system.trim_matches('"'),
        kernel.trim(),
        env!("CARGO_PKG_VERSION"),
        rusqlite::version(),
        versions.join(", "),
        program("nats-server").unwrap_or_else(|| "no nats-server".into())
    )
}

/// Whether a program is installed. It isn't run: not every server takes `--version` for a question.
pub(crate) fn has(name: &str) -> bool {
    linchpin_harness::locate(name).is_some()
}

fn program(name: &str) -> Option<String> {
    let output = Command::new(name).arg("--version").stderr(Stdio::null()).output().ok()?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

fn field(file: &str, name: &str, separator: char) -> Option<String> {
    let text = read_to_string(file).ok()?;
    let mut pairs = text.lines().filter_map(|line| line.split_once(separator));
    pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}

fn locked(name: &str) -> &'static str {
    let after = LOCK.split_once(&format!("name = \"{name}\"\nversion = \""));
    after.and_then(|(_, rest)| rest.split('"').next()).unwrap_or("unknown")
}
