//! Runs both sides of a claim in child processes, takes medians, writes the rows and the page.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::BoxFuture;
use nix::sys::resource::{UsageWho, getrusage};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::machine;

pub(crate) type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How often each side runs; the median counts.
const ROUNDS: usize = 3;
const CHILD: &str = "--side";

/// Something Linchpin says about its speed.
pub(crate) struct Claim {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    /// The least ratio it may have.
    pub(crate) goal: f64,
    /// The least of ours, whatever the other side; 0 without one.
    pub(crate) floor: f64,
    /// A cost: less is better, the ratio is theirs to ours, and one round tells.
    pub(crate) cost: bool,
    pub(crate) ours: Side,
    pub(crate) theirs: Side,
    /// A program that must be installed.
    pub(crate) needs: Option<&'static str>,
    /// Whether ours runs with a tenth of the messages too, to show that memory doesn't grow with them.
    pub(crate) memory: bool,
}

pub(crate) struct Side {
    pub(crate) what: &'static str,
    pub(crate) messages: usize,
    /// Settings to try; the best one counts.
    pub(crate) settings: &'static [usize],
    /// The time that counts.
    pub(crate) run: fn(Job) -> BoxFuture<'static, Result<Duration>>,
}

/// One run of one side.
pub(crate) struct Job {
    pub(crate) messages: usize,
    pub(crate) setting: usize,
    /// Empty, and gone afterwards.
    pub(crate) folder: PathBuf,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
struct Sample {
    per_second: f64,
    /// Peak resident memory of the process, in MiB.
    memory: f64,
}

#[derive(Serialize, Deserialize, Clone)]
struct Row {
    claim: String,
    ours: f64,
    theirs: f64,
    ratio: f64,
    unit: String,
    machine: String,
    date: String,
    /// Spread and peak memory of both sides, in words.
    note: String,
}

#[derive(Serialize, Deserialize, Default)]
struct Rows {
    rows: Vec<Row>,
}

pub(crate) async fn main(claims: &[&Claim], words: &[String]) -> Result {
    if let [flag, claim, side, messages, setting] = words
        && flag == CHILD
    {
        let claim = find(claims, claim)?;
        let side = if side == "ours" { &claim.ours } else { &claim.theirs };
        return child(side, messages.parse()?, setting.parse()?).await;
    }
    let chosen: Vec<&Claim> = match words {
        [] => claims.to_vec(),
        names => names.iter().map(|name| find(claims, name)).collect::<Result<_>>()?,
    };
    for claim in chosen {
        match claim.needs.filter(|program| !machine::has(program)) {
            Some(program) => eprintln!("{}: {program} isn't installed; no row written", claim.name),
            None => write(claims, measure(claim).await?)?,
        }
    }
    Ok(())
}

fn find<'a>(claims: &[&'a Claim], name: &str) -> Result<&'a Claim> {
    let names: Vec<_> = claims.iter().map(|claim| claim.name).collect();
    let claim = claims.iter().find(|claim| claim.name == name);
    Ok(claim.ok_or_else(|| format!("no claim {name:?}; there are {}", names.join(", ")))?)
}

async fn child(side: &Side, messages: usize, setting: usize) -> Result {
    let folder = tempfile::tempdir()?;
    let took = (side.run)(Job { messages, setting, folder: folder.path().to_owned() }).await?;
    let memory = f64::from(i32::try_from(getrusage(UsageWho::RUSAGE_SELF)?.max_rss())?) / 1024.0;
    let per_second = messages as f64 / took.as_secs_f64();
    println!("{}", serde_json::to_string(&Sample { per_second, memory })?);
    Ok(())
}

async fn sample(claim: &Claim, side: &str, messages: usize, setting: usize) -> Result<Sample> {
    let mut child = Command::new(std::env::current_exe()?);
    child.args([CHILD, claim.name, side, &messages.to_string(), &setting.to_string()]);
    let output = child.stderr(Stdio::inherit()).kill_on_drop(true).output().await?;
    if !output.status.success() {
        return Err(format!("{} {side}: {}", claim.name, output.status).into());
    }
    let sample: Sample = serde_json::from_slice(&output.stdout)?;
    let (rate, unit, memory) = (grouped(sample.per_second), claim.unit, sample.memory);
    let with = if setting > 0 { format!(" with {}", grouped(setting as f64)) } else { String::new() };
    eprintln!("  {side:6} {} messages{with}: {rate} {unit}, {memory:.0} MiB", grouped(messages as f64));
    Ok(sample)
}

async fn measure(claim: &Claim) -> Result<Row> {
    eprintln!("{}: {}", claim.name, claim.what);
    let mut ours = Vec::new();
    let mut theirs = vec![Vec::new(); claim.theirs.settings.len()];
    for _ in 0..if claim.cost { 1 } else { ROUNDS } {
        ours.push(sample(claim, "ours", claim.ours.messages, 0).await?);
        for (samples, setting) in theirs.iter_mut().zip(claim.theirs.settings) {
            samples.push(sample(claim, "theirs", claim.theirs.messages, *setting).await?);
        }
    }
    let (ours, our_spread) = (median(&mut ours).ok_or("no samples")?, spread(&ours));
    let sides = theirs.iter_mut().filter_map(|samples| Some((median(samples)?, spread(samples))));
    let strength = |sample: &Sample| if claim.cost { -sample.per_second } else { sample.per_second };
    let best = sides.max_by(|(a, _), (b, _)| strength(a).total_cmp(&strength(b)));
    let (theirs, their_spread) = best.ok_or("no samples")?;
    let mut note = format!(
        "rounds {our_spread}, the other {their_spread}; peak memory {:.0} MiB, the other {:.0} MiB",
        ours.memory, theirs.memory
    );
    if claim.memory {
        let few = sample(claim, "ours", claim.ours.messages / 10, 0).await?;
        note = format!("{note}; with a tenth of the messages {:.0} MiB", few.memory);
    }
    let ratio = ours.per_second / theirs.per_second;
    let ratio = if claim.cost { 1.0 / ratio } else { ratio };
    let met = ratio >= claim.goal && ours.per_second >= claim.floor;
    let verdict = if met { "met" } else { "MISSED" };
    if claim.floor > 0.0 {
        note = format!("{note}; at least {} {} are asked of Linchpin", grouped(claim.floor), claim.unit);
    }
    eprintln!(
        "  ratio {ratio:.2} (goal {} {verdict}): {} to {} {}; {note}",
        claim.goal,
        grouped(ours.per_second),
        grouped(theirs.per_second),
        claim.unit
    );
    Ok(Row {
        claim: claim.name.into(),
        ours: ours.per_second.round(),
        theirs: theirs.per_second.round(),
        ratio: (ratio * 100.0).round() / 100.0,
        unit: claim.unit.into(),
        machine: machine::describe(),
        date: jiff::Zoned::now().date().to_string(),
        note,
    })
}

/// Sorts, and takes the one in the middle.
fn median(samples: &mut [Sample]) -> Option<Sample> {
    samples.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    samples.get(samples.len() / 2).copied()
}

fn spread(sorted: &[Sample]) -> String {
    let rate = |sample: Option<&Sample>| grouped(sample.map_or(0.0, |sample| sample.per_second));
    format!("{} to {}", rate(sorted.first()), rate(sorted.last()))
}

/// `1234567.8` as `1,234,568`.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn write(claims: &[&Claim], row: Row) -> Result {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("docs");
    std::fs::create_dir_all(&docs)?;
    let file = docs.join("performance.json");
    let mut rows: Rows = match std::fs::read(&file) {
        Ok(json) => serde_json::from_slice(&json)?,
        Err(_) => Rows::default(),
    };
    rows.rows.retain(|other| other.claim != row.claim);
    rows.rows.push(row);
    let place = |row: &Row| claims.iter().position(|claim| claim.name == row.claim).unwrap_or(usize::MAX);
    rows.rows.sort_by_key(place);
    std::fs::write(&file, serde_json::to_string_pretty(&rows)? + "\n")?;
    std::fs::write(docs.join("performance.md"), page(claims, &rows.rows))?;
    Ok(())
}

fn page(claims: &[&Claim], rows: &[Row]) -> String {
    let mut table = String::new();
    let mut details = String::new();
    let mut machines: Vec<&str> = Vec::new();
    for row in rows {
        let Some(claim) = claims.iter().find(|claim| claim.name == row.claim) else { continue };
        let (ours, theirs) = (grouped(row.ours), grouped(row.theirs));
        table += &format!(
            "| `{}` | {ours} | {theirs} | {} | **{:.2}** | {} |\n",
            row.claim, row.unit, row.ratio, claim.goal
        );
        details += &format!(
            "### `{}`\n{}.\n\n* Linchpin: {} ({} messages).\n* The other: {} ({} messages).\n* {}, measured {}.\n\n",
            row.claim,
            claim.what,
            claim.ours.what,
            grouped(claim.ours.messages as f64),
            claim.theirs.what,
            grouped(claim.theirs.messages as f64),
            row.note,
            row.date
        );
        if !machines.contains(&row.machine.as_str()) {
            machines.push(&row.machine);
        }
    }
    let machines: String = machines.iter().map(|machine| format!("* {machine}\n")).collect();
    format!(
        "# Performance\n\nWritten by `cargo run --release -p linchpin-benches`; don't edit. Each claim runs both sides in \
         one go, in processes of their own, turn by turn, {ROUNDS} times; the median counts, and of several settings \
         of the other side the best. The ratio is ours ÷ theirs, \
         of costs theirs ÷ ours: above 1 Linchpin is better. One claim again: \
         `cargo run --release -p linchpin-benches -- NAME`.\n\n\
         | claim | Linchpin | the other | unit | ratio | goal |\n|---|---:|---:|---|---:|---:|\n{table}\n\
         ## Machine\n\n{machines}\n## What was measured\n\n{}",
        details.trim_end().to_owned() + "\n"
    )
}
