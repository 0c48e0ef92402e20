//! Topics: a stream each, what it says about itself, and where its messages lie.

use std::time::Duration;

use async_nats::jetstream::stream::{Config as StreamConfig, Info, RetentionPolicy, State};
use linchpin_core::bus::{Round, TopicOptions};
use linchpin_core::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::NAME;
use super::core::Core;
use super::link::Link;
use super::names::Names;

/// What a stream of ours says in its description: 2.9 has no other place for it.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    linchpin: u32,
    prefix: String,
    topic: String,
    partitions: u32,
    /// Nanoseconds.
    retention_age: Option<u64>,
    retention_length: Option<u64>,
    max_message: u64,
}

/// A topic as it was found.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: String,
    pub(super) stream: String,
    pub(super) options: TopicOptions,
    /// When it was created, in nanoseconds since 1970: tells it from a later one of the same name.
    pub(super) created: i64,
    pub(super) state: State,
    pub(super) round: Round,
    /// Whether Linchpin created it, and so removes what retention lets go.
    pub(super) ours: bool,
    subjects: Vec<String>,
}

pub(super) fn missing(topic: &str) -> Error {
    Error::new(Kind::NotFound, format!("topic {topic:?} doesn't exist"))
        .engine(NAME)
        .help("create it with `Bus::ensure`, or open the URL with auto_create=true")
}

impl Topic {
    /// The subject of a partition's messages.
    pub(super) fn subject(&self, partition: u32) -> Result<&str> {
        let subject = self.subjects.get(partition as usize).map(String::as_str);
        subject.filter(|subject| !subject.contains(['*', '>'])).ok_or_else(|| {
            let message = format!("stream {:?} names no single subject to publish to", self.stream);
            Error::new(Kind::Invalid, message)
                .engine(NAME)
                .help("publish with a client of NATS, or name a topic of Linchpin")
        })
    }

    /// What a reader of a partition filters by; empty for the whole stream.
    pub(super) fn filter(&self, partition: u32) -> &str {
        if !self.ours {
            return "";
        }
        self.subjects.get(partition as usize).map_or("", String::as_str)
    }

    /// # Errors
    /// `NotFound` if it was removed, and perhaps made again.
    pub(super) async fn check_alive(&self, link: &Link) -> Result<()> {
        let info = link.call::<Info>(&format!("STREAM.INFO.{}", self.stream), &json!({})).await;
        match info {
            Ok(info) if i64::try_from(info.created.unix_timestamp_nanos()) == Ok(self.created) => Ok(()),
            Err(e) if e.kind() != Kind::NotFound => Err(e),
            _ => Err(missing(&self.name)),
        }
    }

    fn read(name: &str, info: Info) -> Result<Self> {
        let about = about(&info.config);
        let StreamConfig { name: stream, subjects, retention, .. } = info.config;
        if retention != RetentionPolicy::Limits {
            let message = format!("stream {stream:?} drops what one consumer acknowledged");
            return Err(Error::new(Kind::Invalid, message)
                .engine(NAME)
                .help("use a stream with limits retention"));
        }
        let ours = about.as_ref().is_some_and(|about| about.topic == name);
        let options = match about {
            Some(about) if ours => about.options(),
            Some(about) => {
                let message = format!("stream {stream:?} holds the topic {:?}", about.topic);
                return Err(Error::new(Kind::AlreadyExists, message).engine(NAME).help("use another name"));
            }
            // Somebody else's: one partition, and it keeps what it is set to keep.
            None => TopicOptions {
                partitions: 1,
                retention_age: None,
                retention_length: None,
                max_message: u64::MAX,
            },
        };
        let created = i64::try_from(info.created.unix_timestamp_nanos()).unwrap_or_default();
        let (name, state, round) = (name.to_owned(), info.state, Round::default());
        Ok(Self { name, stream, options, created, state, round, ours, subjects })
    }
}

fn about(config: &StreamConfig) -> Option<About> {
    serde_json::from_str(config.description.as_deref()?).ok()
}

impl About {
    fn new(names: &Names, topic: &str, options: &TopicOptions) -> Self {
        let nanos = |age: Duration| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        Self {
            linchpin: 1,
            prefix: names.prefix().to_owned(),
            topic: topic.to_owned(),
            partitions: options.partitions,
            retention_age: options.retention_age.map(nanos),
            retention_length: options.retention_length,
            max_message: options.max_message,
        }
    }

    fn options(&self) -> TopicOptions {
        TopicOptions {
            partitions: self.partitions,
            retention_age: self.retention_age.map(Duration::from_nanos),
            retention_length: self.retention_length,
            max_message: self.max_message,
        }
    }
}

/// Looks a topic up.
///
/// # Errors
/// `NotFound` if it isn't there.
pub(super) async fn get(link: &Link, names: &Names, topic: &str) -> Result<Topic> {
    let info = link.call::<Info>(&format!("STREAM.INFO.{}", names.stream(topic)), &json!({})).await;
    let info = info.map_err(|e| if e.kind() == Kind::NotFound { missing(topic) } else { e })?;
    Topic::read(topic, info)
}

/// Creates a topic, or changes what it keeps.
///
/// # Errors
/// `AlreadyExists` if it is there with another number of partitions.
pub(super) async fn ensure(
    link: &Link,
    names: &Names,
    topic: &str,
    options: &TopicOptions,
    replicas: usize,
) -> Result<Topic> {
    let config = StreamConfig {
        name: names.stream(topic),
        subjects: (0..options.partitions).map(|n| names.subject(topic, n)).collect(),
        num_replicas: replicas,
        allow_direct: true,
        description: Some(json!(About::new(names, topic, options)).to_string()),
        ..StreamConfig::default()
    };
    match link.call::<Info>(&format!("STREAM.CREATE.{}", config.name), &config).await {
        Ok(info) => Topic::read(topic, info),
        Err(e) if e.kind() != Kind::AlreadyExists => Err(e),
        Err(taken) => match get(link, names, topic).await {
            Ok(there) => change(link, there, options, config.description).await,
            Err(e) if e.kind() == Kind::NotFound => Err(taken),
            Err(e) => Err(e),
        },
    }
}

async fn change(
    link: &Link,
    there: Topic,
    options: &TopicOptions,
    description: Option<String>,
) -> Result<Topic> {
    if there.options.partitions != options.partitions {
        let message = format!("topic {:?} has {} partitions", there.name, there.options.partitions);
        return Err(Error::new(Kind::AlreadyExists, message)
            .engine(NAME)
            .help("a topic keeps its number of partitions"));
    }
    if !there.ours || there.options == *options {
        return Ok(there);
    }
    let subject = format!("STREAM.INFO.{}", there.stream);
    let config = link.call::<Info>(&subject, &json!({})).await?.config;
    let config = StreamConfig { description, ..config };
    let info = link.call::<Info>(&format!("STREAM.UPDATE.{}", there.stream), &config).await?;
    Topic::read(&there.name, info)
}

/// The names of this bus's topics, in order.
pub(super) async fn list(link: &Link, names: &Names) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Page {
        total: usize,
        #[serde(default)]
        streams: Option<Vec<Info>>,
    }
    let (mut topics, mut seen) = (Vec::new(), 0);
    loop {
        let page: Page = link.call("STREAM.LIST", &json!({ "offset": seen })).await?;
        let streams = page.streams.unwrap_or_default();
        seen += streams.len();
        let last = streams.is_empty() || seen >= page.total;
        let ours = streams.iter().filter_map(|info| about(&info.config));
        topics.extend(ours.filter(|about| about.prefix == names.prefix()).map(|about| about.topic));
        if last {
            topics.sort_unstable();
            return Ok(topics);
        }
    }
}

/// Removes a topic with its messages and groups, delayed messages included.
pub(super) async fn remove(core: &Core, topic: &Topic) -> Result<()> {
    let groups = super::group::list(core, topic).await?;
    let (link, names) = (&core.link, &core.names);
    link.call::<serde_json::Value>(&format!("STREAM.DELETE.{}", topic.stream), &json!({})).await?;
    core.forget(&topic.name);
    core.end(|member| member.topic.name == topic.name && member.topic.created == topic.created);
    core.store.purge(&names.roster(&topic.name, "*")).await?;
    core.store.purge(&names.ledger(&topic.name, "*", "*")).await?;
    let waiting = json!({ "filter": names.delayed_of(&topic.name) });
    let purged = link.call::<serde_json::Value>(&format!("STREAM.PURGE.{}", names.delayed()), &waiting).await;
    for (group, _) in groups {
        core.tell(&topic.name, &group).await;
    }
    match purged {
        Err(e) if e.kind() != Kind::NotFound => Err(e),
        _ => Ok(()),
    }
}
