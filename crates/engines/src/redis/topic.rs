//! Topics: made, changed, removed, and what a handle knows of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use linchpin_core::bus::{Position, Round, Start, TopicOptions};
use linchpin_core::{Error, Kind, Result};
use redis::from_redis_value;
use uuid::Uuid;

use super::core::{Core, lock};
use super::entry::EntryId;
use super::error::{error, map, no_topic};
use super::script::{Call, ENSURE};

/// A topic as this handle last saw it. Another process that changes it says so on the channel of changes.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) name: String,
    pub(super) options: TopicOptions,
    pub(super) streams: Vec<String>,
    pub(super) round: Round,
}

impl Core {
    /// The topic, from memory if it is known.
    pub(super) async fn known(&self, topic: &str, op: &'static str) -> Result<Arc<Known>> {
        self.check_open()?;
        if let Some(known) = lock(&self.topics).get(topic) {
            return Ok(known.clone());
        }
        self.look_up(topic, op).await
    }

    /// The topic as it is now.
    pub(super) async fn look_up(&self, topic: &str, op: &'static str) -> Result<Arc<Known>> {
        self.check_open()?;
        let mut cmd = redis::cmd("HGETALL");
        cmd.arg(self.keys.topic(topic));
        let answer = self.link.command(&cmd, op).await?;
        let fields: HashMap<String, String> = from_redis_value(answer).map_err(|e| map(e.into(), op))?;
        if fields.get("ready").map(String::as_str) != Some("1") {
            self.forget(topic);
            return Err(no_topic(topic).op(op));
        }
        let options = read_options(&fields).ok_or_else(|| damaged(topic).op(op))?;
        let streams = (0..options.partitions).map(|n| self.keys.stream(topic, n)).collect();
        let known = Known { name: topic.to_owned(), options, streams, round: Round::default() };
        let known = Arc::new(known);
        lock(&self.topics).insert(topic.to_owned(), known.clone());
        Ok(known)
    }

    pub(super) async fn ensure(&self, topic: &str, options: &TopicOptions) -> Result<()> {
        self.check_open()?;
        if let Some(born) = self.record(topic, options).await? {
            self.make(topic, options.partitions, &born).await?;
            self.ready(topic).await?;
        }
        self.changed(topic);
        Ok(())
    }

    /// Writes down the options of a topic: its birth if it isn't complete yet.
    pub(super) async fn record(&self, topic: &str, options: &TopicOptions) -> Result<Option<String>> {
        let age = options.retention_age.map_or(String::new(), |age| age.as_millis().to_string());
        let length = options.retention_length.map_or(String::new(), |length| length.to_string());
        let born = Uuid::now_v7().simple().to_string();
        let call = Call::new(&ENSURE).key(self.keys.topic(topic)).number(options.partitions).text(&born);
        let call = call.text(&age).text(&length).number(options.max_message);
        let (partitions, born, ready): (u32, String, bool) = self.link.call(&call, "ensure").await?;
        if partitions != options.partitions {
            let message = format!("topic {topic:?} has {partitions} partitions");
            return Err(error(Kind::AlreadyExists, message)
                .op("ensure")
                .help("a topic keeps its number of partitions"));
        }
        Ok((!ready).then_some(born))
    }

    /// The topic is complete: others may find it.
    pub(super) async fn ready(&self, topic: &str) -> Result<()> {
        let mut add = redis::cmd("SADD");
        add.arg(self.keys.catalogue()).arg(topic);
        self.link.command(&add, "ensure").await?;
        let mut ready = redis::cmd("HSET");
        ready.arg(self.keys.topic(topic)).arg("ready").arg(1);
        self.link.command(&ready, "ensure").await.map(drop)
    }

    /// Tells everybody that the topic was made, changed or removed.
    pub(super) fn changed(&self, topic: &str) {
        self.forget(topic);
        self.link.hint(self.keys.changes(), topic.to_owned());
    }

    /// Removes what is known of a topic that has no streams.
    pub(super) async fn erase(&self, topic: &str) -> Result<()> {
        let mut del = redis::cmd("DEL");
        del.arg(self.keys.topic(topic));
        self.link.command(&del, "remove").await?;
        let mut forget = redis::cmd("SREM");
        forget.arg(self.keys.catalogue()).arg(topic);
        self.link.command(&forget, "remove").await?;
        self.changed(topic);
        Ok(())
    }

    /// Streams first, so that nobody finds a topic without them; a step that was cut off is taken again by the next `ensure`.
    async fn make(&self, topic: &str, partitions: u32, born: &str) -> Result<()> {
        let making = (0..partitions).map(|n| async move {
            let call = Call::new(self.form.scripts.make)
                .key(self.keys.stream(topic, n))
                .key(self.keys.record(topic, n));
            let call = call.key(self.keys.delayed(topic, n)).text(born);
            self.link.call::<i64>(&call, "ensure").await
        });
        try_join_all(making).await.map(drop)
    }

    pub(super) async fn remove_topic(&self, topic: &str) -> Result<()> {
        let known = self.look_up(topic, "remove").await?;
        let groups = self.groups_of(topic, "remove").await?;
        let mut del = redis::cmd("DEL");
        del.arg(self.keys.topic(topic)).arg(self.keys.groups(topic));
        for group in groups.keys() {
            del.arg(self.keys.members(topic, group));
        }
        self.link.command(&del, "remove").await?;
        self.forget(topic);
        let removing = (0..known.options.partitions).map(|n| async move {
            let call = Call::new(self.form.scripts.unmake)
                .key(self.keys.stream(topic, n))
                .key(self.keys.record(topic, n));
            self.link.call::<i64>(&call.key(self.keys.delayed(topic, n)), "remove").await
        });
        try_join_all(removing).await?;
        let mut forget = redis::cmd("SREM");
        forget.arg(self.keys.catalogue()).arg(topic);
        self.link.command(&forget, "remove").await?;
        self.forget_fetched(topic, None);
        self.wake(Some(&self.keys.hints(topic)));
        self.link.hint(self.keys.changes(), topic.to_owned());
        Ok(())
    }

    /// Births of the topic's groups, by name; one that isn't complete has a `?` in front.
    pub(super) async fn groups_of(&self, topic: &str, op: &'static str) -> Result<HashMap<String, String>> {
        let mut cmd = redis::cmd("HGETALL");
        cmd.arg(self.keys.groups(topic));
        from_redis_value(self.link.command(&cmd, op).await?).map_err(|e| map(e.into(), op))
    }
}

fn read_options(fields: &HashMap<String, String>) -> Option<TopicOptions> {
    let number = |name: &str| match fields.get(name).map(String::as_str) {
        None | Some("") => Some(None),
        Some(text) => text.parse::<u64>().ok().map(Some),
    };
    Some(TopicOptions {
        partitions: u32::try_from(number("partitions")??).ok()?,
        retention_age: number("retention_age")?.map(Duration::from_millis),
        retention_length: number("retention_length")?,
        max_message: number("max_message")??,
    })
}

fn damaged(topic: &str) -> Error {
    error(Kind::Corrupt, format!("the record of topic {topic:?} can't be read"))
        .help("a field of its hash was changed by hand: compare it with that of another topic")
}

/// The stream of a topic that exists is missing.
pub(super) fn lost_stream(stream: &str) -> Error {
    error(Kind::Corrupt, format!("the stream {stream:?} is missing on the server, though its topic exists"))
        .help("somebody deleted it, or the server lost it: remove the topic and make it anew")
}

/// Where a group that starts so begins in a partition: what the scripts understand.
pub(super) fn start_of(start: Start, partition: u32) -> String {
    let from = |id: EntryId| if id.ms == 0 && id.seq == 0 { "0".to_owned() } else { id.before().to_string() };
    match start {
        Start::Newest => "$".to_owned(),
        Start::At(Position { partition: at, offset: Some(offset) }) if at == partition => {
            from(EntryId::from_offset(offset))
        }
        Start::Time(time) => {
            // A fraction of a millisecond would find messages stored before it.
            let nanos = time.as_nanosecond();
            let ms = nanos.div_euclid(1_000_000) + i128::from(nanos.rem_euclid(1_000_000) != 0);
            from(EntryId { ms: u64::try_from(ms).unwrap_or(0), seq: 0 })
        }
        Start::Oldest | Start::At(_) => "0".to_owned(),
    }
}

/// Refuses a start that names a place the topic can't have.
pub(super) fn check_start(start: Start, partitions: u32) -> Result<()> {
    match start {
        Start::At(Position { partition, .. }) if partition >= partitions => {
            Err(error(Kind::Invalid, format!("partition {partition} doesn't exist"))
                .help(format!("the topic has {partitions}, numbered from 0")))
        }
        Start::At(Position { offset: None, .. }) => {
            Err(error(Kind::Invalid, "the position has no offset")
                .help("name one, or start at Oldest or Newest"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_stand_before_what_comes_first() {
        let id = EntryId { ms: 7, seq: 3 };
        let at = Start::At(id.position(1));
        assert_eq!((start_of(at, 1).as_str(), start_of(at, 0).as_str()), ("7-2", "0"));
        let time = Start::Time(linchpin_core::time::from_millis(7));
        assert_eq!(start_of(time, 0), "6-18446744073709551615");
        assert_eq!(start_of(Start::Time(linchpin_core::Timestamp::UNIX_EPOCH), 0), "0");
        assert!(check_start(Start::At(Position::new(2, 0)), 2).is_err());
    }
}
