//! The examples, run as their readers run them: on a SQLite file, in memory, and on servers.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

#[cfg(feature = "full")]
mod servers;

/// Runs a program to its end, in a folder of its own; gives what it printed.
fn run(program: &str, args: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let ran = Command::new(program).args(args).current_dir(&folder).output().unwrap();
    let Output { status, stdout, stderr } = ran;
    assert!(status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// Without an argument, in memory, and twice on one file: what one run leaves behind doesn't disturb the next.
fn everywhere(program: &str, check: impl Fn(&str)) {
    let folder = tempfile::tempdir().unwrap();
    let file = format!("sqlite:{}", folder.path().join("bus.db").display());
    for args in [&[][..], &["memory://"], &[&file], &[&file]] {
        check(&run(program, args));
    }
}

fn count(text: &str, what: &str) -> usize {
    text.lines().filter(|line| line.contains(what)).count()
}

fn heard(text: &str) {
    for number in 1..=10 {
        let heard = format!("heard {number:2}: \"hello, topic #{number}\"");
        assert_eq!(count(text, &heard), 1, "{text}");
    }
    assert!(text.contains("10 acked"), "{text}");
}

#[test]
fn hello_topic_hears_what_it_sent() {
    everywhere(env!("CARGO_BIN_EXE_hello_topic"), heard);
}

fn registered(text: &str) {
    assert_eq!((count(text, "mail to "), count(text, "text message to ")), (4, 3), "{text}");
    assert!(text.contains("text message to +31 2, attempt 2"), "{text}");
    assert!(text.contains("mails: 4 acked, 0 nacked"), "{text}");
    assert_eq!(count(text, "given up: Grace has no phone number"), 1, "{text}");
}

#[test]
fn a_registration_reaches_mail_and_text_message() {
    everywhere(env!("CARGO_BIN_EXE_registration"), registered);
}

fn squared(text: &str) {
    assert_eq!(count(text, "² = "), 100, "{text}");
    assert_eq!(count(text, "a worker ends: "), 3, "{text}");
    assert!(text.ends_with("is 338350; 3 workers ended\n"), "{text}");
}

#[test]
fn the_squares_add_up_and_every_worker_ends() {
    everywhere(env!("CARGO_BIN_EXE_sum_of_squares"), squared);
}

fn booked(text: &str) {
    assert_eq!((count(text, "the room is mine"), count(text, "sorry, ")), (1, 1), "{text}");
    let (owner, other) = if text.contains("the room is Ada's") { ("Ada", "Grace") } else { ("Grace", "Ada") };
    assert!(text.contains(&format!("{owner}: the room is mine, by token ")), "{text}");
    assert!(text.contains(&format!("{other}: sorry, {owner} has it already")), "{text}");
    assert!(text.ends_with(&format!("the room is {owner}'s\n")), "{text}");
}

#[test]
fn a_room_is_booked_once_and_the_other_is_told() {
    everywhere(env!("CARGO_BIN_EXE_room_booking"), booked);
}

fn changed(text: &str) {
    assert_eq!(count(text, "all 5 have seen "), 2, "{text}");
    assert!(text.contains("all 5 keep 30, and say that what is there now can't be read"), "{text}");
}

#[test]
fn a_setting_changes_live_in_five_processes() {
    everywhere(env!("CARGO_BIN_EXE_live_config"), changed);
}

#[test]
fn calls_are_spread_and_none_fails_once_a_death_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let file = format!("sqlite:{}", folder.path().join("time.db").display());
    for args in [&[][..], &[file.as_str()], &[file.as_str()]] {
        shared_out(&run(env!("CARGO_BIN_EXE_time_servers"), args));
    }
}

fn shared_out(text: &str) {
    let lines: Vec<&str> = text.lines().collect();
    let shares = |line: &str| -> Vec<usize> {
        let (_, rest) = line.split_once(": ").unwrap();
        rest.split(" by ").next().unwrap().split(" + ").map(|n| n.parse().unwrap()).collect()
    };
    assert!(lines[0].ends_with("0 failed") && lines[2].ends_with("0 failed"), "{text}");
    let (before, after) = (shares(lines[0]), shares(lines[2]));
    assert_eq!((before.len(), after.len()), (3, 2), "{text}");
    assert!(before.iter().all(|n| (33..=34).contains(n)) && after == [50, 50], "{text}");
}

#[test]
fn a_peak_is_shaved_without_loss_and_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("plot.svg");
    shaved(&run(env!("CARGO_BIN_EXE_peak_shaving"), &["memory://", plot.to_str().unwrap()]));
    let drawing = std::fs::read_to_string(plot).unwrap();
    assert!(drawing.starts_with("<svg ") && drawing.matches("<polyline").count() > 2, "{drawing}");
}

fn shaved(text: &str) {
    assert!(text.contains("1300 orders in, 1300 out, 0 lost"), "{text}");
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<f64> = line.split_whitespace().map_while(|cell| cell.parse().ok()).collect();
        <[f64; 4]>::try_from(cells).ok()
    });
    let rows: Vec<[f64; 4]> = rows.collect();
    assert!(rows.iter().any(|[_, arrival, ..]| *arrival > 600.0), "a burst comes in:\n{text}");
    assert!(rows.iter().any(|[.., backlog]| *backlog > 300.0), "and waits:\n{text}");
    // Over any second, the rate that was set and the burst it allows.
    for pair in rows.windows(5) {
        let span = pair[4][0] - pair[0][0];
        let drained: f64 = pair.windows(2).map(|p| p[1][2] * (p[1][0] - p[0][0])).sum();
        assert!(drained <= 400.0 * span + 60.0, "{drained} in {span} s:\n{text}");
    }
}

fn landed(text: &str) {
    assert!(text.contains("2000 lines in 7 files, 0 missing in the table, 0 there twice"), "{text}");
    assert!(text.contains("2000 messages landed"), "{text}");
}

#[test]
fn a_rotated_log_lands_line_by_line() {
    everywhere(env!("CARGO_BIN_EXE_log_collection"), landed);
}

#[test]
fn log_collection_that_is_killed_lands_each_line_once() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("bus.db").display());
    let args = [url.as_str(), folder.path().to_str().unwrap()];
    let mut lines = 0;
    for rotations in [2, 4] {
        let program = env!("CARGO_BIN_EXE_log_collection");
        let mut child = Command::new(program).args(args).stdout(Stdio::null()).spawn().unwrap();
        wait_for(&folder.path().join(format!("app.log.{rotations}")));
        child.kill().unwrap();
        child.wait().unwrap();
        lines = written(folder.path());
    }
    let text = run(env!("CARGO_BIN_EXE_log_collection"), &args);
    let all = lines + 2000;
    assert!(text.contains(&format!("{all} lines in ")), "{all}: {text}");
    assert!(text.contains("0 missing in the table, 0 there twice"), "{text}");
}

fn wait_for(file: &Path) {
    let begun = Instant::now();
    while !file.exists() {
        assert!(begun.elapsed() < Duration::from_secs(30), "no {}", file.display());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// How many lines the logs have.
fn written(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let logs = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("app.log"));
    logs.map(|log| BufReader::new(std::fs::File::open(log.path()).unwrap()).lines().count()).sum()
}

#[test]
fn fifty_processes_draw_ids_and_none_comes_twice() {
    let text = run(env!("CARGO_BIN_EXE_unique_ids"), &[]);
    assert_eq!(count(&text, "500000 ids of 50 processes, 0 came twice: "), 5, "{text}");
    for kind in ["uuid://v1", "uuid://v4", "uuid://v7", "snowflake://", "sqlite://"] {
        assert_eq!(count(&text, kind), 1, "{text}");
    }
}

#[test]
fn a_wrong_url_is_an_error_with_its_remedy() {
    let Output { status, stderr, .. } =
        Command::new(env!("CARGO_BIN_EXE_hello_topic")).arg("nothing://here").output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert!(!status.success() && said.contains("unknown scheme") && said.contains("help: "), "{said}");
}
