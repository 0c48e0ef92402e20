//! What a run leaves behind for the matrix: `results.json`.

use serde::{Deserialize, Serialize};

/// Everything one run found out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Results {
    /// One row per case and target.
    pub rows: Vec<Row>,
    /// The broken engines that a case caught.
    pub broken: Vec<Caught>,
}

/// One cell of the matrix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Row {
    /// What the case is about: `bus`, `coord` or `ids`.
    pub capability: String,
    /// The engine.
    pub target: String,
    /// The case.
    pub case: String,
    /// What makes it hard: `basic`, `race`, `fault`, `timing`, `outage`, `cut` or `failover`.
    pub class: String,
    /// What came of it.
    pub outcome: Outcome,
    /// Why, unless it is a pass.
    pub reason: String,
}

/// What came of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Proven.
    Pass,
    /// Not so, or a capability is declared absent that is there.
    Fail,
    /// The engine says it can't, and really can't.
    DeclaredAbsent,
    /// Nobody looked.
    NotRun,
}

/// A broken engine, and the case that turned red on it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Caught {
    /// What it does wrong.
    pub engine: String,
    /// The case that shows it.
    pub caught_by: String,
}
