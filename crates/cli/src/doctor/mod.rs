//! `linchpin doctor`: what is wrong with an engine.

mod probe;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use console::style;
use linchpin::bus::{Caps, TopicStats};
use linchpin::url::EngineUrl;
use linchpin::{Bus, Coord, ENGINES, Error, Finding, Open, Result, Status};
use serde_json::{Map, Value, json};

use crate::topic::dead_letters;
use crate::{open_existing, out};

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct DoctorArgs {
    /// The engines, for example sqlite:shop.db
    #[arg(required = true, value_name = "URL")]
    urls: Vec<String>,
}

const HELP: &str = "\
Sends messages through a topic of its own, which it removes again, and looks at the file and at
every group; of an engine for coordination alone, puts a key under a lease, which it ends again. ✓ is well, ! is worth a look, ✗ is wrong. Exit code 1 if anything is wrong.

Examples:
  linchpin doctor sqlite:shop.db
  linchpin doctor sqlite:a.db sqlite:b.db --json | jq '.[] | select(.ok | not)'";

/// What was found out about one engine.
#[derive(Debug)]
struct Report {
    url: String,
    /// Whether checks are printed as they come.
    aloud: bool,
    checks: Vec<Finding>,
    facts: Map<String, Value>,
}

impl Report {
    fn well(&mut self, name: &'static str, text: impl Into<String>) {
        self.add(Finding::well(name, text));
    }

    fn look(&mut self, name: &'static str, text: impl Into<String>) {
        self.add(Finding::look(name, text));
    }

    fn wrong(&mut self, name: &'static str, error: &Error) {
        self.add(Finding::wrong(name, error));
    }

    fn add(&mut self, finding: Finding) {
        if self.aloud {
            let mark = match finding.status {
                Status::Well => style("✓").green(),
                Status::Look => style("!").yellow(),
                Status::Wrong => style("✗").red(),
            };
            // A reader that went away is noticed at the end.
            let _ = out::line(format_args!("  {mark} {:<11} {}", finding.name, finding.text));
        }
        self.checks.push(finding);
    }

    fn ok(&self) -> bool {
        self.checks.iter().all(|check| check.status != Status::Wrong)
    }

    fn json(&self) -> Value {
        let mut json = self.facts.clone();
        json.insert("url".into(), self.url.clone().into());
        json.insert("ok".into(), self.ok().into());
        json.insert("checks".into(), json!(self.checks));
        json.into()
    }
}

/// Looks at every engine.
///
/// # Errors
/// A URL that doesn't parse; what is wrong with an engine is in the report.
pub(crate) async fn doctor(args: DoctorArgs, json: bool) -> Result<ExitCode> {
    let mut reports = Vec::new();
    for url in &args.urls {
        // Without secrets.
        let shown = url.parse::<EngineUrl>()?.to_string();
        if !json {
            out::line(style(&shown).bold())?;
        }
        let mut report = Report { url: shown, aloud: !json, checks: Vec::new(), facts: Map::new() };
        examine(url, &mut report).await;
        reports.push(report);
    }
    if json {
        out::line(Value::from_iter(reports.iter().map(Report::json)))?;
    }
    Ok(if reports.iter().all(Report::ok) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the engine has to say beyond what every engine is asked.
async fn ask_engine(url: &str) -> Vec<Finding> {
    let Ok(mut url) = url.parse::<EngineUrl>() else { return Vec::new() };
    url.take("auto_create");
    let scheme = ENGINES.iter().find(|scheme| scheme.name == url.scheme());
    match scheme.and_then(|scheme| scheme.ways?.examine) {
        Some(examine) => examine(url).await,
        None => Vec::new(),
    }
}

/// Whether the URL's engine is for coordination alone.
fn has_no_bus(url: &str) -> bool {
    let Ok(url) = url.parse::<EngineUrl>() else { return false };
    let scheme = ENGINES.iter().find(|scheme| scheme.name == url.scheme());
    scheme.and_then(|scheme| scheme.ways).is_some_and(|ways| ways.bus.is_none() && ways.coord.is_some())
}

/// Looks at an engine that has no bus.
async fn examine_coordination(url: &str, report: &mut Report) {
    let coord = match Coord::open(url).await {
        Ok(coord) => coord,
        Err(error) => return report.wrong("open", &error),
    };
    let info = coord.info().clone();
    report.facts.insert("engine".into(), info.engine.into());
    report.facts.insert("durability".into(), info.durability.into());
    report.well("open", format!("{}, {}", info.engine, info.durability));
    for finding in ask_engine(url).await {
        report.add(finding);
    }
    match probe::hold_a_key(&coord).await {
        Ok(()) => report.well("keys", "a key was put under a lease, read, and gone with the lease"),
        Err(error) => report.wrong("keys", &error),
    }
}

async fn examine(url: &str, report: &mut Report) {
    if has_no_bus(url) {
        return examine_coordination(url, report).await;
    }
    let bus = match open_existing(url).await {
        Ok(bus) => bus,
        Err(error) => return report.wrong("open", &error),
    };
    let info = bus.info().clone();
    let caps = bus.caps();
    report.facts.insert("engine".into(), info.engine.into());
    report.facts.insert("durability".into(), info.durability.into());
    report.facts.insert("caps".into(), facts(caps));
    report.well("open", format!("{}, {}", info.engine, info.durability));
    abilities(caps, report);
    for finding in ask_engine(url).await {
        report.add(finding);
    }
    if let Err(error) = probe::publish_and_consume(&bus, report).await {
        report.wrong("messages", &error);
    }
    if let Err(error) = groups(&bus, report).await {
        report.wrong("groups", &error);
    }
    if let Err(error) = bus.close().await {
        report.wrong("close", &error);
    }
}

fn list(caps: Caps) -> [(&'static str, bool); 12] {
    let Caps {
        durable,
        shared,
        groups,
        broadcast,
        ordered,
        redelivery,
        delay,
        replay,
        metadata,
        retention,
        offsets,
        failover,
    } = caps;
    [
        ("durable", durable),
        ("shared", shared),
        ("groups", groups),
        ("broadcast", broadcast),
        ("ordered", ordered),
        ("redelivery", redelivery),
        ("delay", delay),
        ("replay", replay),
        ("metadata", metadata),
        ("retention", retention),
        ("offsets", offsets),
        ("failover", failover),
    ]
}

fn facts(caps: Caps) -> Value {
    list(caps).into_iter().map(|(name, able)| (name.to_owned(), Value::from(able))).collect()
}

fn abilities(caps: Caps, report: &mut Report) {
    let absent: Vec<_> = list(caps).into_iter().filter(|(_, able)| !able).map(|(name, _)| name).collect();
    match absent.as_slice() {
        [] => report.well("abilities", "everything the bus has"),
        absent => report.look("abilities", format!("this engine does not promise: {}", absent.join(", "))),
    }
}

/// Groups that are stuck, and dead letters that wait.
async fn groups(bus: &Bus, report: &mut Report) -> Result<()> {
    let topics = bus.stats(None).await?;
    let mut busy = 0_u64;
    for topic in &topics {
        for group in &topic.groups {
            busy += 1;
            let name = format!("{} of {}", group.group, topic.topic);
            let behind = group.lag + group.waiting + group.in_flight;
            if behind > 0 && group.members == 0 && group.group != "lp-redrive" {
                report.look(
                    "groups",
                    format!("{name}: {} to do, and no member", out::count(behind, "message")),
                );
            }
            match dead_letters(&topics, &topic.topic, &group.group) {
                0 => {}
                dead => report
                    .look("groups", format!("{name}: {} (topic redrive)", out::count(dead, "dead letter"))),
            }
        }
    }
    let held: Vec<&TopicStats> = topics.iter().filter(|topic| topic.delayed > 0).collect();
    let delayed: u64 = held.iter().map(|topic| topic.delayed).sum();
    let topics = out::count(topics.len() as u64, "topic");
    let later =
        if delayed > 0 { format!(", {} not due yet", out::count(delayed, "message")) } else { String::new() };
    report.well("topics", format!("{topics}, {}{later}", out::count(busy, "group")));
    Ok(())
}

/// Times in the order of size people read them in.
fn time(time: Duration) -> String {
    match time.as_secs_f64() {
        s if s < 0.001 => format!("{:.0} µs", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.1} s"),
    }
}

#[cfg(test)]
mod tests;
