//! What the tool prints: data to standard output, words to standard error.

use std::fmt::{self, Display};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressState, ProgressStyle};
use linchpin::{Error, Kind, Result};

/// Writes to standard output and flushes; `false` once nobody reads any more (`| head`).
///
/// # Errors
/// Anything but a closed pipe: a full disk behind `>`.
pub(crate) fn data(text: &[u8]) -> Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Error::new(Kind::Unexpected, "can't write to standard output").source(e)),
    }
}

/// Writes one line to standard output; that nobody reads it is fine.
///
/// # Errors
/// Those of [`data`].
pub(crate) fn line(text: impl Display) -> Result<()> {
    data(format!("{text}\n").as_bytes()).map(drop)
}

/// Says something to the person, on standard error.
pub(crate) fn say(text: impl Display) {
    // Nobody listening is no reason to fail.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Says what went wrong, with the remedy on a line of its own.
pub(crate) fn error(error: &Error) {
    let text = error.to_string();
    match error.remedy() {
        Some(remedy) => {
            let what = text.strip_suffix(&format!("; {remedy}")).unwrap_or(&text);
            say(format_args!("error: {what}\n help: {remedy}"));
        }
        None => say(format_args!("error: {text}")),
    }
}

/// Asks on the terminal; `None` if there is none to ask on.
pub(crate) fn ask(question: &str) -> Option<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return None;
    }
    let _ = write!(io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).ok()?;
    Some(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// A table: a heading, then rows; the first column leans left, the others right.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let width = |n: usize| rows.iter().map(|row| row.get(n).map_or(0, |cell| cell.chars().count())).max();
    let widths: Vec<usize> =
        head.iter().enumerate().map(|(n, h)| width(n).unwrap_or(0).max(h.chars().count())).collect();
    let heading = head.map(str::to_owned);
    let mut text = String::new();
    for row in std::iter::once(&heading).chain(rows) {
        let mut line = String::new();
        for (n, (cell, width)) in row.iter().zip(&widths).enumerate() {
            line.push_str(&if n == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") });
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A progress bar on standard error, or, without a length, a spinner. `{rate}` in its template is a count per second.
pub(crate) fn bar(length: Option<u64>, template: &str) -> ProgressBar {
    let bar = length.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    if let Ok(style) = ProgressStyle::with_template(template) {
        // Written whole: the library shows four decimals.
        let rate = |state: &ProgressState, text: &mut dyn fmt::Write| {
            let _ = write!(text, "{}/s", HumanCount(state.per_sec() as u64));
        };
        bar.set_style(style.with_key("rate", rate));
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// `1 message`, `2,000 messages`.
pub(crate) fn count(n: u64, what: &str) -> String {
    format!("{} {what}{}", HumanCount(n), if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["orders".into(), "12".into()], ["a".into(), "3,456".into()]];
        assert_eq!(table(["topic", "n"], &rows), "topic       n\norders     12\na       3,456\n");
        assert_eq!((count(1, "message"), count(2000, "group")), ("1 message".into(), "2,000 groups".into()));
    }
}
