//! Creating, listing, redriving and removing.

use std::time::Duration;

use clap::CommandFactory;
use clap::error::ErrorKind;
use indicatif::HumanCount;
use linchpin::bus::{GroupStats, TopicStats, dead_topic};
use linchpin::{Bus, Kind, Result, Timestamp, TopicOptions};
use serde_json::{Value, json};

use super::{At, CreateArgs, RedriveArgs, Retention, RmArgs};
use crate::{Cli, open, open_existing, out};

pub(super) async fn create(args: CreateArgs, json: bool) -> Result<()> {
    let At { url, topic } = &args.at;
    let bus = open(url).await?;
    let there = match bus.stats(Some(topic)).await {
        Err(e) if e.kind() == Kind::NotFound => None,
        stats => stats?.pop(),
    };
    let base = there.as_ref().map_or_else(TopicOptions::default, |stats| stats.options.clone());
    let options = TopicOptions {
        partitions: args.partitions.unwrap_or(base.partitions),
        retention_age: args.retention.map_or(base.retention_age, |Retention(age)| age),
        retention_length: args.max_messages.map_or(base.retention_length, |n| Some(n).filter(|n| *n > 0)),
        max_message: args.max_size.map_or(base.max_message, |size| size.0),
    };
    bus.ensure(topic, &options).await?;
    bus.close().await?;
    if json {
        return out::line(json!({ "topic": topic, "created": there.is_none(), "options": kept(&options) }));
    }
    let done = match &there {
        None => "created",
        Some(stats) if stats.options == options => "unchanged:",
        Some(_) => "changed",
    };
    out::say(format_args!("{done} {topic:?}: {}", words(&options)));
    Ok(())
}

pub(super) async fn ls(url: &str, json: bool) -> Result<()> {
    let bus = open_existing(url).await?;
    let topics = bus.stats(None).await?;
    bus.close().await?;
    if json {
        return out::line(Value::from_iter(topics.iter().map(|topic| describe(topic, &topics))));
    }
    if topics.is_empty() {
        out::say(format_args!("no topics yet; make one with `linchpin topic create {url} NAME`"));
        return Ok(());
    }
    let row = |t: &TopicStats| {
        let groups = t.groups.len().to_string();
        [
            t.topic.clone(),
            t.options.partitions.to_string(),
            number(t.messages),
            number(t.delayed),
            groups,
            age(t.oldest),
        ]
    };
    let rows: Vec<_> = topics.iter().map(row).collect();
    let head = ["TOPIC", "PARTITIONS", "MESSAGES", "DELAYED", "GROUPS", "OLDEST"];
    out::data(out::table(head, &rows).as_bytes()).map(drop)
}

pub(super) async fn stat(at: &At, json: bool) -> Result<()> {
    let bus = open_existing(&at.url).await?;
    // Asked for by name first: a missing topic is an error.
    bus.stats(Some(&at.topic)).await?;
    let topics = bus.stats(None).await?;
    bus.close().await?;
    let Some(topic) = topics.iter().find(|t| t.topic == at.topic) else { return Ok(()) };
    if json {
        return out::line(describe(topic, &topics));
    }
    let mut text =
        format!("{}\n  {}\n  {}", topic.topic, words(&topic.options), out::count(topic.messages, "message"));
    if topic.delayed > 0 {
        text += &format!(", {} more not due yet", number(topic.delayed));
    }
    if topic.oldest.is_some() {
        text += &format!(", the oldest {} old", age(topic.oldest));
    }
    text += "\n\n";
    let row = |g: &GroupStats| {
        let dead = dead_letters(&topics, &topic.topic, &g.group);
        let name = g.group.clone();
        [name, number(g.lag), number(g.in_flight), number(g.waiting), number(g.members), number(dead)]
    };
    let rows: Vec<_> = topic.groups.iter().map(row).collect();
    text += &match rows.as_slice() {
        [] => "no groups yet\n".to_owned(),
        rows => out::table(["GROUP", "LAG", "IN FLIGHT", "WAITING", "MEMBERS", "DEAD"], rows),
    };
    out::data(text.as_bytes()).map(drop)
}

pub(super) async fn redrive(args: RedriveArgs, json: bool) -> Result<()> {
    /// Few enough that Ctrl-C is heard soon.
    const ROUND: u64 = 10_000;
    let At { url, topic } = &args.at;
    let bus = open_existing(url).await?;
    // Before dead letters are taken in hand: there must be somewhere to send them.
    bus.stats(Some(topic)).await?;
    let limit = args.limit.unwrap_or(u64::MAX);
    let mut sent = 0;
    while sent < limit {
        let round = ROUND.min(limit - sent);
        let went = bus.redrive(topic, &args.group, round).await?;
        sent += went;
        if went < round {
            break;
        }
    }
    bus.close().await?;
    if json {
        return out::line(json!({ "topic": topic, "group": args.group, "redriven": sent }));
    }
    out::say(format_args!(
        "sent {} back to {topic:?}, for group {:?}",
        out::count(sent, "dead letter"),
        args.group
    ));
    Ok(())
}

pub(super) async fn rm(args: RmArgs, json: bool) -> Result<()> {
    let At { url, topic } = &args.at;
    let bus = open_existing(url).await?;
    let stats = bus.stats(Some(topic)).await?;
    let what = match (&args.group, stats.first()) {
        (Some(group), _) => format!("group {group:?} of topic {topic:?}"),
        (None, Some(s)) => {
            let (messages, groups) =
                (out::count(s.messages, "message"), out::count(s.groups.len() as u64, "group"));
            format!("topic {topic:?} with {messages} and {groups}")
        }
        (None, None) => format!("topic {topic:?}"),
    };
    if !args.yes {
        match out::ask(&format!("remove {what}?")) {
            Some(true) => {}
            Some(false) => {
                out::say("left as it is");
                return bus.close().await;
            }
            None => {
                let message = format!("removing {what} needs --yes where there is no terminal to ask on");
                Cli::command().error(ErrorKind::MissingRequiredArgument, message).exit();
            }
        }
    }
    bus.remove(topic, args.group.as_deref()).await?;
    let left = if args.group.is_none() { letters_of(&bus, topic).await? } else { Vec::new() };
    bus.close().await?;
    if json {
        return out::line(json!({ "topic": topic, "group": args.group, "removed": true, "dead_left": left }));
    }
    out::say(format_args!("removed {what}"));
    if !left.is_empty() {
        out::say(format_args!("its dead letters are still there: {}", left.join(", ")));
    }
    Ok(())
}

async fn letters_of(bus: &Bus, topic: &str) -> Result<Vec<String>> {
    let topics = bus.stats(None).await?.into_iter().map(|t| t.topic);
    let of =
        |name: &String| name.strip_prefix(topic).is_some_and(|n| n.starts_with('.') && n.ends_with(".dead"));
    Ok(topics.filter(of).collect())
}

/// How many dead letters of a group wait: those the redrive hasn't handled.
pub(crate) fn dead_letters(topics: &[TopicStats], topic: &str, group: &str) -> u64 {
    let name = dead_topic(topic, group);
    let Some(dead) = topics.iter().find(|t| t.topic == name) else { return 0 };
    let redrive = dead.groups.iter().find(|g| g.group == "lp-redrive");
    redrive.map_or(dead.messages, |g| g.lag + g.in_flight + g.waiting)
}

fn describe(topic: &TopicStats, topics: &[TopicStats]) -> Value {
    let group = |g: &GroupStats| {
        json!({
            "group": g.group, "lag": g.lag, "in_flight": g.in_flight, "waiting": g.waiting, "members": g.members,
            "dead_letters": dead_letters(topics, &topic.topic, &g.group),
        })
    };
    json!({
        "topic": topic.topic, "options": kept(&topic.options), "messages": topic.messages, "delayed": topic.delayed,
        "oldest": topic.oldest.map(|t| t.to_string()),
        "groups": topic.groups.iter().map(group).collect::<Value>(),
    })
}

fn kept(options: &TopicOptions) -> Value {
    json!({
        "partitions": options.partitions,
        "retention_seconds": options.retention_age.map(|age| age.as_secs_f64()),
        "max_messages": options.retention_length,
        "max_size_bytes": options.max_message,
    })
}

fn words(options: &TopicOptions) -> String {
    let length = options.retention_length.map(|n| format!("at most {}", out::count(n, "settled message")));
    let age =
        options.retention_age.map(|age| format!("settled messages for {}", humantime::format_duration(age)));
    let kept = match (age, length) {
        (None, None) => "everything".to_owned(),
        (Some(one), None) | (None, Some(one)) => one,
        (Some(age), Some(length)) => format!("{age}, {length}"),
    };
    let size = bytesize::ByteSize(options.max_message);
    format!("{}; keeps {kept}; messages up to {size}", out::count(options.partitions.into(), "partition"))
}

fn number(n: u64) -> String {
    HumanCount(n).to_string()
}

fn age(oldest: Option<Timestamp>) -> String {
    let Some(oldest) = oldest else { return "-".into() };
    let seconds = u64::try_from(Timestamp::now().as_second() - oldest.as_second()).unwrap_or(0);
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use linchpin::Open;
    use linchpin::bus::{Message, Settle, SubscribeOptions};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn dead_letters_that_were_redriven_no_longer_count() {
        let bus = <Bus as Open>::open("memory://").await.unwrap();
        bus.ensure("t", &TopicOptions::default()).await.unwrap();
        for n in 0..5 {
            bus.publish("t", Message::new(n.to_string())).await.unwrap();
        }
        let group = bus.subscribe("t", &SubscribeOptions::group("g")).await.unwrap();
        let batch = group.next(5, Duration::from_secs(1)).await.unwrap();
        let dead = batch.into_iter().map(|d| (d, Settle::Dead { reason: "no".into() })).collect();
        assert!(group.settle(dead).await.iter().all(Result::is_ok));
        assert_eq!(dead_letters(&bus.stats(None).await.unwrap(), "t", "g"), 5);
        assert_eq!(bus.redrive("t", "g", 2).await.unwrap(), 2);
        assert_eq!(dead_letters(&bus.stats(None).await.unwrap(), "t", "g"), 3);
        assert_eq!(dead_letters(&[], "t", "g"), 0);
        assert_eq!(letters_of(&bus, "t").await.unwrap(), ["t.g.dead"]);
    }

    #[test]
    fn options_in_words() {
        assert_eq!(
            words(&TopicOptions::default()),
            "4 partitions; keeps settled messages for 7days; messages up to 1.0 MiB"
        );
        let forever = TopicOptions { partitions: 1, retention_age: None, ..TopicOptions::default() };
        assert_eq!(words(&forever), "1 partition; keeps everything; messages up to 1.0 MiB");
    }
}
