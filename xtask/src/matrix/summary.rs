//! The matrix in a few lines, between two marks of the README.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::page::{line, rank};
use super::{Results, Row};
use crate::Failure;

const BEGIN: &str = "<!-- matrix:begin -->\n";
const LEGEND: &str = "
Cases: ✓ pass · ✗ fail · – declared absent: the engine says no, and a check proves that it can't · ? not run.
";
const END: &str = "<!-- matrix:end -->\n";

/// `readme` with the lines between the marks made anew.
pub(super) fn insert(readme: &str, results: &Results) -> Result<String, Failure> {
    let parts = readme.split_once(BEGIN).and_then(|(head, rest)| Some((head, rest.split_once(END)?.1)));
    let (head, tail) = parts.ok_or("README.md has lost its matrix:begin and matrix:end marks")?;
    Ok(format!("{head}{BEGIN}{}{END}{tail}", tables(results)))
}

fn tables(results: &Results) -> String {
    let mut text = String::new();
    let capabilities: BTreeSet<&str> = results.rows.iter().map(|row| row.capability.as_str()).collect();
    for capability in capabilities {
        let rows: Vec<&Row> = results.rows.iter().filter(|row| row.capability == capability).collect();
        if !text.is_empty() {
            text.push('\n');
        }
        table(&mut text, capability, &rows);
    }
    text.push_str(LEGEND);
    let _ = writeln!(text, "{} engines broken on purpose, all caught.", results.broken.len());
    text
}

/// A line per engine: there are more of them than classes.
fn table(text: &mut String, capability: &str, rows: &[&Row]) {
    let targets: BTreeSet<&str> = rows.iter().map(|row| row.target.as_str()).collect();
    let mut classes: Vec<&str> = rows.iter().map(|row| row.class.as_str()).collect();
    classes.sort_by_key(|class| (rank(class), *class));
    classes.dedup();
    let meanings: Vec<&str> = classes.iter().map(|class| meaning(class)).collect();
    line(text, &[&[capability], meanings.as_slice()].concat());
    line(text, &[["---"].as_slice(), &vec!["---"; classes.len()]].concat());
    for target in targets {
        let cells = classes.iter().map(|class| {
            cell(rows.iter().filter(|row| row.target == target && row.class == *class).copied())
        });
        line(text, &[target.to_owned()].into_iter().chain(cells).collect::<Vec<_>>());
    }
}

/// `12 ✓ 3 –`: how many cases came to what, nothing left out.
fn cell<'r>(rows: impl Iterator<Item = &'r Row>) -> String {
    let mut counts = [("pass", "✓", 0), ("fail", "✗", 0), ("declared-absent", "–", 0), ("not-run", "?", 0)];
    for row in rows {
        for (_, _, count) in counts.iter_mut().filter(|(outcome, _, _)| *outcome == row.outcome) {
            *count += 1;
        }
    }
    let shown =
        counts.iter().filter(|(_, _, count)| *count > 0).map(|(_, sign, count)| format!("{count} {sign}"));
    shown.collect::<Vec<_>>().join(" ")
}

fn meaning(class: &str) -> &str {
    match class {
        "basic" => "what it does",
        "race" => "many at once",
        "fault" => "killed, frozen, reopened",
        "outage" => "the server killed, restarted, frozen",
        "cut" => "connections cut",
        "failover" => "a leader lost",
        "timing" => "leases and delays",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(target: &str, class: &str, outcome: &str) -> Row {
        let [capability, target, class, outcome] = ["bus", target, class, outcome].map(str::to_owned);
        Row { capability, target, case: String::new(), class, outcome, reason: String::new() }
    }

    #[test]
    fn the_lines_between_the_marks_are_replaced_and_nothing_else() {
        let rows =
            vec![row("a", "fault", "pass"), row("a", "basic", "pass"), row("a", "basic", "declared-absent")];
        let results = Results { rows, broken: Vec::new() };
        let text = insert(&format!("one\n{BEGIN}old\n{END}two\n"), &results).unwrap();
        let head = "| bus | what it does | killed, frozen, reopened |\n| --- | --- | --- |\n";
        assert!(text.starts_with(&format!("one\n{BEGIN}{head}")), "{text}");
        assert!(text.contains("| a | 1 ✓ 1 – | 1 ✓ |\n"), "{text}");
        assert!(text.ends_with(&format!("{END}two\n")) && !text.contains("old"), "{text}");
        assert!(insert("no marks", &results).is_err());
    }
}
