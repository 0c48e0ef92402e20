//! Copying and moving topics between engines.

use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{HumanCount, ProgressBar};
use linchpin::bus::{Bridge, BridgeTotals, Bridging, TopicStats};
use linchpin::url::EngineUrl;
use linchpin::{Bus, Error, Kind, Result};
use serde_json::json;

use super::At;
use crate::{Interrupts, open, open_existing, out};

/// The group that a topic nobody consumes is moved through.
const MOVE_GROUP: &str = "lp-move";

#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    #[command(flatten)]
    from: At,
    /// The engine to copy to
    to_url: String,
    /// The topic there [default: the same name]
    to_topic: Option<String>,
    /// Number of partitions, if the topic there has to be created [default: as many as here]
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,
    /// Go on with what is published later, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// The most messages in hand at once
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// How soon a later run goes on with what a killed one had in hand, 1s (RabbitMQ: 3s) to 12h
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = super::duration)]
    ack_wait: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct MoveArgs {
    #[command(flatten)]
    copy: CopyArgs,
    /// The group to consume as [default: the topic's only group]
    #[arg(long)]
    group: Option<String>,
}

pub(super) async fn copy(args: CopyArgs, json: bool) -> Result<ExitCode> {
    let (from, to) = open_both(&args).await?;
    run(args, from, to, None, json).await
}

pub(super) async fn move_(args: MoveArgs, json: bool) -> Result<ExitCode> {
    let (from, to) = open_both(&args.copy).await?;
    let topics = from.stats(Some(&args.copy.from.topic)).await?;
    let group = choose_group(args.group, topics.first())?;
    run(args.copy, from, to, Some(group), json).await
}

/// Two spellings of one file are one bus, so that a topic isn't copied onto itself.
async fn open_both(args: &CopyArgs) -> Result<(Bus, Bus)> {
    let from = open_existing(&args.from.url).await?;
    let file = |url: &str| {
        let url: EngineUrl = url.parse().ok().filter(|url: &EngineUrl| url.scheme() == "sqlite")?;
        fs::canonicalize(url.file_path()).ok()
    };
    let one = file(&args.from.url).is_some_and(|path| file(&args.to_url) == Some(path));
    let to = if one { from.clone() } else { open(&args.to_url).await? };
    Ok((from, to))
}

/// A group that isn't there is a mistyped one, unless there is none at all.
fn choose_group(asked: Option<String>, topic: Option<&TopicStats>) -> Result<String> {
    let groups: Vec<&str> = topic.iter().flat_map(|t| &t.groups).map(|g| g.group.as_str()).collect();
    let names = groups.join(", ");
    match (asked, groups.as_slice()) {
        (Some(group), there) if there.is_empty() || there.contains(&group.as_str()) => Ok(group),
        (Some(group), _) => Err(Error::new(Kind::NotFound, format!("the topic has no group {group:?}"))
            .help(format!("it has {names}"))),
        (None, []) => Ok(MOVE_GROUP.to_owned()),
        (None, [only]) => Ok((*only).to_owned()),
        (None, _) => Err(Error::new(Kind::Invalid, "the topic has several groups")
            .help(format!("say with --group whose messages to move: {names}"))),
    }
}

fn bridge(args: &CopyArgs, from: &Bus, to: &Bus, group: Option<String>) -> Bridge {
    let topic = &args.from.topic;
    let to_topic = args.to_topic.as_ref().unwrap_or(topic);
    let batch = usize::try_from(args.batch).unwrap_or(usize::MAX);
    let mut bridge = Bridge::new(from, topic, to, to_topic).batch(batch).ack_wait(args.ack_wait);
    if let Some(group) = group {
        bridge = bridge.group(group);
    }
    if let Some(partitions) = args.partitions {
        bridge = bridge.partitions(partitions);
    }
    if args.follow { bridge.follow() } else { bridge }
}

async fn run(args: CopyArgs, from: Bus, to: Bus, group: Option<String>, json: bool) -> Result<ExitCode> {
    let verb = if group.is_some() { "moved" } else { "copied" };
    let started = Instant::now();
    let bridging = bridge(&args, &from, &to, group).run().await?;
    let interrupts = Interrupts::listen()?;
    let (group, ordered) = (bridging.group().to_owned(), bridging.ordered());
    if !ordered {
        out::say(format_args!("{} keeps no order: neither does what is {verb}", from.info().engine));
    }
    let end = watch(bridging, interrupts, args.follow).await;
    let seconds = started.elapsed().as_secs_f64();
    let At { topic, .. } = &args.from;
    let stats = from.stats(Some(topic)).await;
    let not_due = stats.ok().and_then(|topics| topics.first().map(|t| t.delayed)).unwrap_or(0);
    let (target, to_topic) = (to.info().url.clone(), args.to_topic.as_ref().unwrap_or(topic));
    let closed = from.close().await.and(to.close().await);
    if json {
        out::line(json!({
            "topic": topic, "to": target, "to_topic": to_topic, "group": group, "ordered": ordered,
            "stored": end.totals.stored, "again": end.totals.again, "not_due": not_due,
            "complete": end.complete, "seconds": seconds, "error": end.error.as_ref().map(Error::to_string),
        }))?;
    } else {
        end.say(verb, &format!("{to_topic:?} of {target}"), seconds);
    }
    if not_due > 0 {
        out::say(format_args!("{} not due yet: run it again then", out::count(not_due, "message")));
    }
    closed.and_then(|()| end.code(args.follow))
}

/// How it ended.
struct End {
    totals: BridgeTotals,
    complete: bool,
    error: Option<Error>,
}

/// Shows how far it is until it ends, or Ctrl-C stops it; a second Ctrl-C doesn't wait for the batch at hand.
async fn watch(mut bridging: Bridging, mut interrupts: Interrupts, follow: bool) -> End {
    let bar = match follow {
        true => out::bar(None, "{spinner} {human_pos} stored  {rate}  {elapsed}  {msg}"),
        false => {
            let all = Some(bridging.totals().waiting);
            out::bar(all, "{wide_bar} {human_pos} of {human_len}  {rate}  {eta} left  {msg}")
        }
    };
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let ended = loop {
        tokio::select! {
            ended = bridging.wait() => break Some(ended),
            () = interrupts.next() => break None,
            _ = ticks.tick() => show(&bar, &bridging),
        }
    };
    bar.finish_and_clear();
    let (totals, complete) = (bridging.totals(), bridging.complete());
    if let Some(ended) = ended {
        return End { totals, complete, error: ended.err() };
    }
    let stopped = tokio::select! {
        stopped = bridging.stop() => stopped,
        () = interrupts.next() => Ok(totals),
    };
    match stopped {
        Ok(totals) => End { totals, complete, error: None },
        Err(error) => End { totals, complete, error: Some(error) },
    }
}

fn show(bar: &ProgressBar, bridging: &Bridging) {
    let stored = bridging.totals().stored;
    if bar.length().is_some_and(|length| length < stored) {
        bar.set_length(stored);
    }
    bar.set_position(stored);
    bar.set_message(bridging.trouble().map(|error| format!("trying again: {error}")).unwrap_or_default());
}

impl End {
    fn say(&self, verb: &str, target: &str, seconds: f64) {
        let BridgeTotals { stored, again, .. } = self.totals;
        let (messages, rate) = (out::count(stored, "message"), stored as f64 / seconds.max(0.001));
        out::say(format_args!(
            "{verb} {messages} to {target} in {seconds:.2} s ({}/s)",
            HumanCount(rate as u64)
        ));
        if again > 0 {
            let handed = HumanCount(again);
            out::say(format_args!("{handed} of them had been in hand before: {target} may have them twice"));
        }
    }

    fn code(self, follow: bool) -> Result<ExitCode> {
        const AGAIN: &str = "run the same command again: it goes on from there";
        match self.error {
            Some(error) if error.remedy().is_none() => Err(error.help(AGAIN)),
            Some(error) => Err(error),
            None if self.complete || follow => Ok(ExitCode::SUCCESS),
            None => {
                out::say(format_args!("stopped before the end; {AGAIN}"));
                Ok(ExitCode::FAILURE)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use linchpin::TopicOptions;
    use linchpin::bus::GroupStats;

    use super::*;

    #[test]
    fn the_group_is_the_only_one_or_named() {
        let group =
            |name: &str| GroupStats { group: name.into(), lag: 0, in_flight: 0, waiting: 0, members: 0 };
        let topic = |groups: &[&str]| TopicStats {
            topic: "t".into(),
            options: TopicOptions::default(),
            messages: 0,
            delayed: 0,
            oldest: None,
            groups: groups.iter().copied().map(group).collect(),
        };
        let choose = |asked: Option<&str>, groups: &[&str]| {
            choose_group(asked.map(str::to_owned), Some(&topic(groups)))
        };
        assert_eq!(choose(None, &[]).unwrap(), MOVE_GROUP);
        assert_eq!(choose(None, &["a"]).unwrap(), "a");
        assert_eq!(choose(Some("b"), &["a", "b"]).unwrap(), "b");
        assert_eq!(choose(Some("new"), &[]).unwrap(), "new");
        for (asked, kind) in [(None, Kind::Invalid), (Some("c"), Kind::NotFound)] {
            let error = choose(asked, &["a", "b"]).unwrap_err();
            assert!(error.kind() == kind && error.remedy().unwrap().contains("a, b"), "{error}");
        }
    }
}
