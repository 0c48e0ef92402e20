//! Topics: names, making and removing them, and where their options are kept.
//!
//! Kafka's own retention would remove what a lagging group hasn't settled, so topics made here have none, and
//! Linchpin removes records itself. What it keeps them by stands in two settings of the topic that Kafka heeds on
//! compacted topics only: `delete.retention.ms` is the age, `min.compaction.lag.ms` the number of messages.

use std::sync::Arc;
use std::time::{Duration, Instant};

use linchpin_core::bus::{Round, TopicOptions, murmur2};
use linchpin_core::{Error, Kind, Result};
use rdkafka::admin::{AlterConfig, ConfigSource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::RDKafkaErrorCode as Code;

use super::NAME;
use super::client::{BATCH, Control, native};
use super::error::{map, of_code};

/// Longer names are cut and told apart by a hash.
const MAX_NAME: usize = 249;
/// What a record costs beside what [`linchpin_core::bus::Message::size`] counts, and what a batch does.
const OVERHEAD: u64 = 65_536 + BATCH;
/// The same for topics made by others, whose limit is for a batch of one.
const FOREIGN_OVERHEAD: u64 = 512;
const AGE: &str = "delete.retention.ms";
const LENGTH: &str = "min.compaction.lag.ms";
const SIZE: &str = "max.message.bytes";
const NATIVE_AGE: &str = "retention.ms";
/// How often it is looked whether a topic has come or gone.
const LOOK: Duration = Duration::from_millis(20);

/// A topic as this handle last saw it.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) kafka: String,
    pub(super) options: TopicOptions,
    pub(super) round: Arc<Round>,
    pub(super) seen: Instant,
}

/// The name in Kafka.
pub(super) fn kafka_name(prefix: &str, topic: &str) -> String {
    let name = format!("{prefix}{topic}");
    if name.len() <= MAX_NAME {
        return name;
    }
    let reversed: Vec<u8> = name.bytes().rev().collect();
    let hash = format!("-{:08x}{:08x}", murmur2(name.as_bytes()), murmur2(&reversed));
    let kept: String = name.chars().take(MAX_NAME - hash.len()).collect();
    kept + &hash
}

/// The Kafka group of a group of a topic: `/` is in no name, so no two share one.
pub(super) fn kafka_group(prefix: &str, topic: &str, group: &str) -> String {
    format!("{prefix}{topic}/{group}")
}

pub(super) fn named(error: Error, topic: &str) -> Error {
    match error.kind() {
        Kind::NotFound => Error::new(Kind::NotFound, format!("topic {topic:?} doesn't exist"))
            .engine(NAME)
            .help("create it with `ensure`, or open the bus with auto_create=true"),
        _ => error.with("topic", topic),
    }
}

fn settings(options: &TopicOptions) -> Vec<(&'static str, String)> {
    let millis = |age: Duration| i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    vec![
        ("cleanup.policy", "delete".to_owned()),
        (NATIVE_AGE, "-1".to_owned()),
        ("retention.bytes", "-1".to_owned()),
        ("message.timestamp.type", "LogAppendTime".to_owned()),
        (AGE, options.retention_age.map_or(i64::MAX, millis).to_string()),
        (LENGTH, options.retention_length.unwrap_or(0).to_string()),
        (SIZE, (options.max_message + OVERHEAD).to_string()),
    ]
}

impl Control {
    /// What a topic is kept by; the number of partitions is known.
    pub(super) async fn topic_options(
        &self,
        kafka: &str,
        partitions: u32,
        op: &'static str,
    ) -> Result<TopicOptions> {
        let entries = self.settings_of(kafka, op).await?;
        let number = |name: &str| {
            let entry = entries.iter().find(|(key, ..)| key == name);
            entry.and_then(|(_, value, _)| value.parse::<i64>().ok())
        };
        let ours = number(NATIVE_AGE) == Some(-1)
            && entries.iter().any(|(key, _, dynamic)| key == AGE && *dynamic)
            && entries.iter().any(|(key, _, dynamic)| key == LENGTH && *dynamic);
        let age = number(if ours { AGE } else { NATIVE_AGE }).filter(|age| (0..i64::MAX).contains(age));
        let length = number(LENGTH).filter(|length| ours && *length > 0);
        let size = number(SIZE).map_or(1 << 20, |size| u64::try_from(size).unwrap_or_default());
        Ok(TopicOptions {
            partitions,
            retention_age: age.map(|age| Duration::from_millis(age.unsigned_abs())),
            retention_length: length.map(i64::unsigned_abs),
            max_message: size.saturating_sub(if ours { OVERHEAD } else { FOREIGN_OVERHEAD }),
        })
    }

    /// Name, value, and whether it was set for this topic alone.
    async fn settings_of(&self, kafka: &str, op: &'static str) -> Result<Vec<(String, String, bool)>> {
        let resource = [ResourceSpecifier::Topic(kafka)];
        let answers = self
            .admin(kafka, op)
            .await?
            .describe_configs(&resource, &self.options())
            .await
            .map_err(|e| map(e, op))?;
        let answer = answers.into_iter().next().ok_or_else(|| of_code(Code::UnknownTopicOrPartition, op))?;
        let resource = answer.map_err(|code| of_code(code, op))?;
        let entries = resource
            .entries
            .into_iter()
            .filter_map(|entry| Some((entry.name, entry.value?, entry.source == ConfigSource::DynamicTopic)));
        Ok(entries.collect())
    }

    pub(super) async fn ensure(&self, topic: &str, kafka: &str, options: &TopicOptions) -> Result<()> {
        match self.partitions(kafka, "ensure").await {
            Ok(there) => return self.change(topic, kafka, there, options).await,
            Err(error) if error.kind() != Kind::NotFound => return Err(error),
            Err(_) => {}
        }
        match self.create(kafka, options).await {
            Err(error) if error.kind() == Kind::AlreadyExists => {
                let there = self.partitions(kafka, "ensure").await?;
                self.change(topic, kafka, there, options).await
            }
            created => created,
        }
    }

    async fn create(&self, kafka: &str, options: &TopicOptions) -> Result<()> {
        let replicas = TopicReplication::Fixed(self.config.replicas.unwrap_or(-1));
        let settings = settings(options);
        let mut new = NewTopic::new(kafka, native(options.partitions), replicas);
        for (key, value) in &settings {
            new = new.set(key, value);
        }
        let answers = self
            .admin(kafka, "ensure")
            .await?
            .create_topics([&new], &self.options())
            .await
            .map_err(|e| map(e, "ensure"))?;
        if let Some(Err((_, code))) = answers.into_iter().next() {
            return Err(of_code(code, "ensure"));
        }
        // The brokers learn of it one by one.
        self.until(|| async {
            Ok(matches!(self.partitions(kafka, "ensure").await, Ok(n) if n == options.partitions)
                && self.ends(kafka, options.partitions, "ensure").await.is_ok())
        })
        .await
    }

    async fn change(&self, topic: &str, kafka: &str, there: u32, options: &TopicOptions) -> Result<()> {
        if there != options.partitions {
            return Err(Error::new(Kind::AlreadyExists, format!("topic {topic:?} has {there} partitions"))
                .help("a topic keeps its number of partitions"));
        }
        if self.topic_options(kafka, there, "ensure").await? == *options {
            return Ok(());
        }
        let wanted = settings(options);
        // Kafka replaces all settings of the topic: those that aren't ours are said again.
        let kept = self.settings_of(kafka, "ensure").await?.into_iter();
        let kept = kept.filter(|(key, _, own)| *own && !wanted.iter().any(|(name, _)| name == key));
        let kept: Vec<_> = kept.collect();
        let mut change = AlterConfig::new(ResourceSpecifier::Topic(kafka));
        for (key, value, _) in &kept {
            change = change.set(key, value);
        }
        for (key, value) in &wanted {
            change = change.set(key, value);
        }
        let answers =
            self.admin.alter_configs([&change], &self.options()).await.map_err(|e| map(e, "ensure"))?;
        if let Some(Err((_, code))) = answers.into_iter().next() {
            return Err(of_code(code, "ensure"));
        }
        self.until(|| async { Ok(self.topic_options(kafka, there, "ensure").await? == *options) }).await
    }

    /// Removes the topic; back when the brokers have forgotten it.
    pub(super) async fn delete(&self, kafka: &str) -> Result<()> {
        let answers = self
            .admin(kafka, "remove")
            .await?
            .delete_topics(&[kafka], &self.options())
            .await
            .map_err(|e| map(e, "remove"))?;
        if let Some(Err((_, code))) = answers.into_iter().next() {
            return Err(of_code(code, "remove"));
        }
        self.until(|| async {
            Ok(matches!(self.partitions(kafka, "remove").await, Err(e) if e.kind() == Kind::NotFound))
        })
        .await
    }

    async fn until<F: Future<Output = Result<bool>>>(&self, mut is_so: impl FnMut() -> F) -> Result<()> {
        let started = Instant::now();
        while !is_so().await? {
            if started.elapsed() > self.timeout() {
                return Err(Error::new(Kind::Timeout, "the brokers don't agree on the topic yet"));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let long = "x".repeat(249);
        assert_eq!(kafka_name("", &long), long);
        let (a, b) = (kafka_name("p-", &long), kafka_name("p-", &("x".repeat(248) + "y")));
        assert!(a.len() == MAX_NAME && b.len() == MAX_NAME && a != b, "{a} {b}");
    }
}
