//! `cargo xtask matrix`: from what the conformance run found to what the project claims.

mod page;
mod summary;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Failure, root, target};

/// What the conformance run leaves behind; `docs/matrix.json` has the same form.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Results {
    rows: Vec<Row>,
    broken: Vec<Caught>,
}

/// One case on one target. The outcome is `pass`, `fail`, `declared-absent` or `not-run`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    capability: String,
    target: String,
    case: String,
    class: String,
    outcome: String,
    reason: String,
}

/// A deliberately broken engine, and the case that turned red on it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Caught {
    engine: String,
    caught_by: String,
}

/// What every cell and every broken engine came to when somebody last looked and agreed.
type Expected = BTreeMap<String, String>;

const EXPECTED: &str = "crates/conformance/expected.json";
const MATRIX: &str = "docs/matrix.json";
const ACCEPT: &str = "to accept it, run `cargo xtask matrix` and commit what it writes";

/// Writes the matrix and the expected outcomes.
pub(crate) fn write() -> Result<(), Failure> {
    let results = read_results()?;
    for change in changes(&read_expected().unwrap_or_default(), &outcomes(&results)) {
        println!("accepted: {change}");
    }
    for (path, text) in files(&results)? {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        println!("wrote {}", relative(&path));
    }
    Ok(())
}

/// Fails if a cell isn't as expected, or a file isn't what [`write()`] would make of the last run. A cell that couldn't be
/// run is passed over, and said, unless all are required.
pub(crate) fn check(require_all: bool) -> Result<(), Failure> {
    let mut results = read_results()?;
    let expected = read_expected()?;
    if !require_all {
        pass_over(&mut results)?;
    }
    let changes = changes(&expected, &outcomes(&results));
    if !changes.is_empty() {
        let list = changes.iter().map(|change| format!("\n  {change}")).collect::<String>();
        return Err(format!("the matrix isn't as expected:{list}\n{ACCEPT}").into());
    }
    for (path, text) in files(&results)? {
        if fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
            return Err(format!("{} is out of date; {ACCEPT}", relative(&path)).into());
        }
    }
    println!("{} cells and {} broken engines are as expected", results.rows.len(), results.broken.len());
    Ok(())
}

/// Takes what isn't known of this run from the committed matrix, and says so.
fn pass_over(results: &mut Results) -> Result<(), Failure> {
    let path = root().join(MATRIX);
    let text = fs::read_to_string(&path).map_err(|e| format!("{MATRIX}: {e}; {ACCEPT}"))?;
    let known: Results = serde_json::from_str(&text)?;
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for row in results.rows.iter_mut().filter(|row| row.outcome == "not-run") {
        let place = |row: &Row| (row.capability.clone(), row.case.clone(), row.target.clone());
        let same = |other: &&Row| place(other) == place(row);
        if let Some(other) = known.rows.iter().find(same) {
            *reasons.entry(format!("{}: {}", row.target, row.reason)).or_default() += 1;
            *row = other.clone();
        }
    }
    for (reason, count) in reasons {
        println!("{count} cells not run: {reason}");
    }
    Ok(())
}

fn read_results() -> Result<Results, Failure> {
    let path = target()?.join("conformance/results.json");
    let text = fs::read_to_string(&path).map_err(|e| {
        format!("{}: {e}; run the suite first: cargo test -p linchpin-conformance", path.display())
    })?;
    Ok(serde_json::from_str(&text)?)
}

fn read_expected() -> Result<Expected, Failure> {
    let text = fs::read_to_string(root().join(EXPECTED)).map_err(|e| format!("{EXPECTED}: {e}; {ACCEPT}"))?;
    Ok(serde_json::from_str(&text)?)
}

/// Every file that is generated, with its content.
fn files(results: &Results) -> Result<[(PathBuf, String); 4], Failure> {
    let json = |value: String| value + "\n";
    let readme = fs::read_to_string(root().join("README.md")).map_err(|e| format!("README.md: {e}"))?;
    Ok([
        (root().join(EXPECTED), json(serde_json::to_string_pretty(&outcomes(results))?)),
        (root().join(MATRIX), json(serde_json::to_string_pretty(results)?)),
        (root().join("docs/matrix.md"), page::write(results)),
        (root().join("README.md"), summary::insert(&readme, results)?),
    ])
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn outcomes(results: &Results) -> Expected {
    let cells = results
        .rows
        .iter()
        .map(|row| (format!("{}::{}::{}", row.capability, row.target, row.case), row.outcome.clone()));
    let broken = results.broken.iter().map(|b| (format!("broken::{}", b.engine), b.caught_by.clone()));
    cells.chain(broken).collect()
}

/// What differs, one line each.
fn changes(expected: &Expected, found: &Expected) -> Vec<String> {
    let gone = expected.iter().filter(|(cell, _)| !found.contains_key(*cell));
    let gone = gone.map(|(cell, was)| format!("{cell}: was {was}, is gone"));
    let other = found.iter().filter_map(|(cell, is)| match expected.get(cell) {
        Some(was) if was == is => None,
        Some(was) => Some(format!("{cell}: was {was}, is {is}")),
        None => Some(format!("{cell}: is new, {is}")),
    });
    gone.chain(other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(cells: &[(&str, &str)]) -> Expected {
        cells.iter().map(|(cell, outcome)| ((*cell).to_owned(), (*outcome).to_owned())).collect()
    }

    #[test]
    fn every_difference_is_named() {
        let expected = outcomes(&[("a", "pass"), ("b", "pass"), ("c", "pass"), ("d", "declared-absent")]);
        let found = outcomes(&[("a", "pass"), ("b", "not-run"), ("d", "fail"), ("e", "pass")]);
        assert_eq!(
            changes(&expected, &found),
            [
                "c: was pass, is gone",
                "b: was pass, is not-run",
                "d: was declared-absent, is fail",
                "e: is new, pass"
            ]
        );
        assert_eq!(changes(&expected, &expected), [""; 0]);
    }
}
