//! Targets: the engines the cases run on.

use std::path::Path;

/// One engine, in one way of running it.
pub(crate) struct Target {
    /// As it is called in the matrix.
    pub(crate) name: &'static str,
    /// A URL of its own for each cell, in an empty folder of its own.
    pub(crate) url: fn(&Path) -> String,
}

/// Every target. Those here are embedded: they live in the process that opens them, and die with it.
pub(crate) const TARGETS: &[Target] = &[
    Target { name: "memory", url: memory },
    Target { name: "sqlite", url: |dir| format!("sqlite://{}/bus.db", dir.display()) },
    Target { name: "sqlite-memory", url: |_| "sqlite::memory:".to_owned() },
];

/// Named after the folder, so that handles of one cell share a bus and cells don't.
fn memory(dir: &Path) -> String {
    format!("memory://{}", dir.file_name().unwrap().to_string_lossy())
}
